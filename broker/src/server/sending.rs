//! How an answer goes out: what is in memory is written, what is in a file the kernel sends from there.
//!
//! On Linux `sendfile` gives the socket the pages of the file that the kernel has cached: the bytes come neither into memory of ours nor are they
//! copied on their way out. Where it cannot (another system, a file without a descriptor, a stream that is no socket, a file system that
//! refuses) the file is read and written bit by bit: no answer is ever in memory as a whole.
//!
//! - A file that is renamed or removed meanwhile is sent to its end: its handle is held. What it holds below the high watermark is never written again.
//! - Pages that are not cached are read from the disk by the thread that sends, as by any read of a file. So no more is sent at once than keeps
//!   the others waiting for a short time.
//! - Bytes in memory before a file are held back by the kernel until some of the file is there: one packet, not two.

use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;

use crate::protocol::Pieces;

/// Bytes of a file that are in memory at a time, where the kernel does not send them.
const LOADED_BYTES_MAX: usize = 128 * 1024;

/// Pieces in memory that are written at once.
const SLICES_MAX: usize = 64;

/// What takes an answer.
pub(super) trait Outlet {
    /// Sends some bytes of what is left, as many as are taken at once, and takes them away from it. None are lost if the caller gives up
    /// waiting.
    async fn send(&mut self, left: &mut Pieces) -> io::Result<()>;
}

/// Any stream: bytes of files are read and written.
pub(super) struct Copying<W>(pub(super) W);

impl<W: AsyncWrite + Unpin> Outlet for Copying<W> {
    async fn send(&mut self, left: &mut Pieces) -> io::Result<()> {
        left.load_front(LOADED_BYTES_MAX)?;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let found = left.in_memory(&mut slices);
        let slices = slices.get(..found.count).unwrap_or_default();
        match self.0.write_vectored(slices).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => {
                left.advance(sent);
                Ok(())
            }
        }
    }
}

/// A connection.
pub(super) struct Socket {
    stream: Copying<OwnedWriteHalf>,
    /// Until a file refuses.
    #[cfg(target_os = "linux")]
    sends_files: bool,
}

impl Socket {
    pub(super) fn new(stream: OwnedWriteHalf) -> Self {
        Self {
            stream: Copying(stream),
            #[cfg(target_os = "linux")]
            sends_files: true,
        }
    }

    /// The peer sees the end of the answers.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.0.shutdown().await
    }
}

#[cfg(not(target_os = "linux"))]
impl Outlet for Socket {
    async fn send(&mut self, left: &mut Pieces) -> io::Result<()> {
        self.stream.send(left).await
    }
}

#[cfg(target_os = "linux")]
impl Outlet for Socket {
    async fn send(&mut self, left: &mut Pieces) -> io::Result<()> {
        use crate::disk::Piece;

        let stream = self.stream.0.as_ref();
        let sent = match left.front() {
            Some(Piece::File(range)) => {
                let descriptor = range.file.descriptor().filter(|_| self.sends_files);
                let Some(file) = descriptor else {
                    return self.stream.send(left).await;
                };
                match linux::send_file(stream, file, range).await {
                    Ok(0) => return Err(range.ended_early()),
                    Err(error) if linux::is_refusal(&error) => {
                        self.sends_files = false;
                        return self.stream.send(left).await;
                    }
                    sent => sent?,
                }
            }
            _ => linux::send_memory(stream, left).await?,
        };
        left.advance(sent);
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, IoSlice};
    use std::os::fd::BorrowedFd;

    use rustix::io::Errno;
    use rustix::net::{SendAncillaryBuffer, SendFlags};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    use super::SLICES_MAX;
    use crate::disk::FileRange;
    use crate::protocol::Pieces;

    /// Bytes of a file sent by one call: from a disk this takes a few milliseconds, from the page cache far less.
    const SENT_BYTES_MAX: usize = 1024 * 1024;

    /// The file system, or the kernel, does not do it: nothing was sent.
    pub(super) fn is_refusal(error: &io::Error) -> bool {
        let refusals = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];
        Errno::from_io_error(error).is_some_and(|errno| refusals.contains(&errno))
    }

    pub(super) async fn send_file(
        stream: &TcpStream,
        file: BorrowedFd<'_>,
        range: &FileRange,
    ) -> io::Result<usize> {
        let bytes = range.size_bytes.min(SENT_BYTES_MAX);
        when_writable(stream, || {
            let mut position = range.position;
            rustix::fs::sendfile(stream, file, Some(&mut position), bytes)
        })
        .await
    }

    pub(super) async fn send_memory(stream: &TcpStream, left: &Pieces) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let found = left.in_memory(&mut slices);
        let slices = slices.get(..found.count).unwrap_or_default();
        // A connection that is gone is an error, not a signal.
        let mut flags = SendFlags::NOSIGNAL;
        flags.set(SendFlags::MORE, found.file_follows);
        let send = || {
            let mut control = SendAncillaryBuffer::default();
            rustix::net::sendmsg(stream, slices, &mut control, flags)
        };
        match when_writable(stream, send).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => Ok(sent),
        }
    }

    async fn when_writable(
        stream: &TcpStream,
        mut call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        stream
            .async_io(Interest::WRITABLE, || {
                Ok(rustix::io::retry_on_intr(&mut call)?)
            })
            .await
    }
}

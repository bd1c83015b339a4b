//! The frames of the sync journal: one a round of group commit.
//!
//! ```text
//! magic "BRKLSYNC", crc-32c u32 of what follows up to the payload's end
//! generation u64, sequence u32, payload length u32
//! payload: entries
//!   1, log, base offset of the segment i64, position u64, length u32, bytes     appended there
//!   2, log, base offset i64                                                      segments below it: entries of theirs count no more
//!   where log is: length of the directory's name u16, name, topic id (16 bytes)
//! zeros up to a multiple of 4,096 bytes
//! ```
//!
//! A file holds the frames of one generation, their sequences from zero on; what follows the first frame that does not fit was left by an
//! older one, or was never acknowledged. Frames fill whole pages, so that writing one over an old one reads nothing.

use std::io;

use uuid::Uuid;

const MAGIC: &[u8; 8] = b"BRKLSYNC";
const CRC_AT: usize = 8;
const GENERATION_AT: usize = 12;
const SEQUENCE_AT: usize = 20;
const PAYLOAD_LENGTH_AT: usize = 24;
const PAYLOAD_AT: usize = 28;
/// Frames begin and end at multiples of it.
const PAGE_BYTES: usize = 4096;

const APPENDED: u8 = 1;
const VOID: u8 = 2;
/// Of an entry, without the name and the bytes: kind, name's length, topic id, base offset, position, length.
const ENTRY_BYTES_MAX: usize = 1 + 2 + 16 + 8 + 8 + 4;

/// Which log an entry is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogName<'a> {
    /// Its directory's name, `TOPIC-PARTITION`.
    pub(crate) dir: &'a str,
    pub(crate) topic_id: Uuid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// These bytes were appended to the segment at this position.
    Appended {
        log: LogName<'a>,
        segment_base_offset: i64,
        position: u64,
        bytes: &'a [u8],
    },
    /// What is said of segments that begin below this offset is void: their files have changed since, or will.
    Void { log: LogName<'a>, below: i64 },
}

/// Bytes of a frame with entries of so many logs and bytes, at most.
pub(super) fn frame_bytes_max(logs: usize, name_bytes: usize, bytes: u64) -> u64 {
    let entries = logs.saturating_mul(ENTRY_BYTES_MAX) + name_bytes;
    (PAYLOAD_AT as u64 + entries as u64 + bytes).next_multiple_of(PAGE_BYTES as u64)
}

/// A frame that is being put together, in memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.resize(PAYLOAD_AT, 0);
    }

    /// Adds an entry of bytes that `read` puts into the place it is given, of `length` bytes. After an error the frame is as it was.
    pub(super) fn appended(
        &mut self,
        log: LogName<'_>,
        segment_base_offset: i64,
        position: u64,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = self.bytes.len();
        let put = |bytes: &mut Vec<u8>| {
            put_log(bytes, APPENDED, log)?;
            bytes.extend_from_slice(&segment_base_offset.to_be_bytes());
            bytes.extend_from_slice(&position.to_be_bytes());
            bytes.extend_from_slice(&u32_of(length)?.to_be_bytes());
            let place = bytes.len();
            bytes.resize(place + length, 0);
            read(bytes.get_mut(place..).unwrap_or_default())
        };
        put(&mut self.bytes).inspect_err(|_| self.bytes.truncate(start))
    }

    pub(super) fn void(&mut self, log: LogName<'_>, below: i64) -> io::Result<()> {
        put_log(&mut self.bytes, VOID, log)?;
        self.bytes.extend_from_slice(&below.to_be_bytes());
        Ok(())
    }

    /// The whole frame, as it is to be written.
    pub(super) fn finish(&mut self, generation: u64, sequence: u32) -> io::Result<&[u8]> {
        let payload_bytes = u32_of(self.bytes.len() - PAYLOAD_AT)?;
        let end = self.bytes.len();
        for (at, field) in [
            (0, MAGIC.as_slice()),
            (GENERATION_AT, &generation.to_be_bytes()),
            (SEQUENCE_AT, &sequence.to_be_bytes()),
            (PAYLOAD_LENGTH_AT, &payload_bytes.to_be_bytes()),
        ] {
            put_at(&mut self.bytes, at, field);
        }
        let crc = checksum(self.bytes.get(..end).unwrap_or_default());
        put_at(&mut self.bytes, CRC_AT, &crc.to_be_bytes());
        self.bytes.resize(end.next_multiple_of(PAGE_BYTES), 0);
        Ok(&self.bytes)
    }
}

fn put_log(bytes: &mut Vec<u8>, kind: u8, log: LogName<'_>) -> io::Result<()> {
    let name_bytes = u16::try_from(log.dir.len())
        .map_err(|_| io::Error::other("the name of a log's directory is too long"))?;
    bytes.push(kind);
    bytes.extend_from_slice(&name_bytes.to_be_bytes());
    bytes.extend_from_slice(log.dir.as_bytes());
    bytes.extend_from_slice(log.topic_id.as_bytes());
    Ok(())
}

fn put_at(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn u32_of(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a round of more than 4 GiB"))
}

fn checksum(frame: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(frame.get(GENERATION_AT..).unwrap_or_default())
}

/// The frames of a file: its generation, and the entries of all frames that fit, in their order.
#[derive(Debug, Default)]
pub(super) struct Frames<'a> {
    pub(super) generation: u64,
    pub(super) entries: Vec<Entry<'a>>,
}

impl<'a> Frames<'a> {
    pub(super) fn read(contents: &'a [u8]) -> Self {
        let mut frames = Self::default();
        let mut rest = contents;
        for sequence in 0.. {
            let Some((generation, found, payload)) = frame(rest) else {
                break;
            };
            if sequence == 0 {
                frames.generation = generation;
            }
            if (generation, found) != (frames.generation, sequence) {
                break;
            }
            let Some(entries) = entries(payload) else {
                break;
            };
            frames.entries.extend(entries);
            let end = (PAYLOAD_AT + payload.len()).next_multiple_of(PAGE_BYTES);
            rest = rest.get(end..).unwrap_or_default();
        }
        frames
    }
}

/// Generation, sequence and payload of the frame at the start; `None` if there is no whole one.
fn frame(bytes: &[u8]) -> Option<(u64, u32, &[u8])> {
    let mut fields = Fields(bytes);
    let magic = fields.take(MAGIC.len())?;
    let crc = fields.u32()?;
    let generation = fields.u64()?;
    let sequence = fields.u32()?;
    let payload_bytes = fields.u32()? as usize;
    let payload = fields.take(payload_bytes)?;
    let whole = bytes.get(..PAYLOAD_AT + payload_bytes)?;
    let fits = magic == MAGIC && crc == checksum(whole);
    fits.then_some((generation, sequence, payload))
}

/// `None` if the payload is not what `Frame` writes.
fn entries(payload: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut fields = Fields(payload);
    let mut entries = Vec::new();
    while !fields.0.is_empty() {
        let kind = fields.u8()?;
        let name_bytes = fields.u16()?.into();
        let dir = str::from_utf8(fields.take(name_bytes)?).ok()?;
        let topic_id = Uuid::from_slice(fields.take(16)?).ok()?;
        let log = LogName { dir, topic_id };
        let base_offset = fields.u64()?.cast_signed();
        entries.push(match kind {
            APPENDED => {
                let position = fields.u64()?;
                let length = fields.u32()? as usize;
                Entry::Appended {
                    log,
                    segment_base_offset: base_offset,
                    position,
                    bytes: fields.take(length)?,
                }
            }
            VOID => Entry::Void {
                log,
                below: base_offset,
            },
            _ => return None,
        });
    }
    Some(entries)
}

/// Big-endian fields, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    const LOG: LogName<'static> = LogName {
        dir: "orders-0",
        topic_id: Uuid::from_u128(7),
    };

    fn appended(position: u64, bytes: &[u8]) -> Entry<'_> {
        Entry::Appended {
            log: LOG,
            segment_base_offset: 40,
            position,
            bytes,
        }
    }

    fn frame_of(entries: &[Entry<'_>], generation: u64, sequence: u32) -> Vec<u8> {
        let mut frame = Frame::default();
        frame.begin();
        for entry in entries {
            match *entry {
                Entry::Void { log, below } => frame.void(log, below).unwrap(),
                Entry::Appended {
                    log,
                    segment_base_offset,
                    position,
                    bytes,
                } => frame
                    .appended(log, segment_base_offset, position, bytes.len(), |place| {
                        place.copy_from_slice(bytes);
                        Ok(())
                    })
                    .unwrap(),
            }
        }
        frame.finish(generation, sequence).unwrap().to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        let void = Entry::Void {
            log: LOG,
            below: 90,
        };
        let long = vec![7; 10_000];
        let first = frame_of(&[appended(0, b"abc"), void], 5, 0);
        let second = frame_of(&[appended(3, &long)], 5, 1);
        assert_eq!((first.len(), second.len()), (4096, 12_288));
        let file = [first, second].concat();
        let frames = Frames::read(&file);
        assert_eq!(frames.generation, 5);
        assert_eq!(
            frames.entries,
            [appended(0, b"abc"), void, appended(3, &long)]
        );
    }

    #[test]
    fn what_an_older_generation_left_behind_is_not_read() {
        let file = [
            frame_of(&[appended(9, b"new")], 6, 0),
            frame_of(&[appended(0, b"old")], 5, 1),
        ];
        assert_eq!(Frames::read(&file.concat()).entries, [appended(9, b"new")]);
        let file = [
            frame_of(&[appended(9, b"new")], 6, 0),
            frame_of(&[appended(0, b"old")], 6, 2),
        ];
        assert_eq!(Frames::read(&file.concat()).entries, [appended(9, b"new")]);
    }

    #[test]
    fn a_failed_read_leaves_the_frame_as_it_was() {
        let mut frame = Frame::default();
        frame.begin();
        let failed = frame.appended(LOG, 0, 0, 100, |_| Err(io::ErrorKind::UnexpectedEof.into()));
        assert!(failed.is_err());
        frame.void(LOG, 1).unwrap();
        let bytes = frame.finish(1, 0).unwrap();
        let void = Entry::Void { log: LOG, below: 1 };
        assert_eq!(Frames::read(bytes).entries, [void]);
    }

    #[test]
    fn a_frame_is_no_longer_than_was_foretold() {
        for length in [0, 1, 4000, 4096, 70_000] {
            let bytes = vec![1; length];
            let frame = frame_of(&[appended(0, &bytes), appended(1, &bytes)], 1, 0);
            let foretold = frame_bytes_max(2, 2 * LOG.dir.len(), 2 * length as u64);
            assert!(frame.len() as u64 <= foretold, "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_frame_ends_the_file(at in 0usize..4096 * 2, bit in 0u32..8) {
            let file = [frame_of(&[appended(0, &[3; 4000])], 5, 0), frame_of(&[appended(4000, &[4; 4000])], 5, 1)].concat();
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            let whole = Frames::read(&file).entries;
            let read = Frames::read(&damaged);
            // Behind the payload a page is filled with what nobody reads.
            let in_padding = at % 4096 >= PAYLOAD_AT + 4000 + 39 + LOG.dir.len();
            let good = if in_padding { 2 } else { at / 4096 };
            prop_assert_eq!(&read.entries, &whole[..good]);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Frames::read(&bytes);
            let _ = entries(&bytes);
        }
    }
}

//! All that is unsynced on a file system, in one call: `syncfs`.
//!
//! On ext4 sixteen files that have grown cost one commit of its journal and one flush instead of sixteen, an eighth of the time. It syncs what
//! others have written as well, so who calls it should look at what it takes.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file system that can be synced as a whole.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Makes durable all bytes, lengths and names on it. An error may concern any file: each file's own sync tells whose it was.
    fn sync(&self) -> io::Result<()>;

    /// Its device, as `DiskFile::device` gives it.
    fn device(&self) -> u64;
}

/// The file system of a directory, where a sync of the whole is known to be as good as one of each file: ext4, since Linux 5.8.
#[cfg(target_os = "linux")]
pub(super) fn of(dir: &Path) -> Option<Arc<dyn FileSystem>> {
    use std::os::unix::fs::MetadataExt;

    // From 5.8 on a failed write-back is an error of `syncfs`, once for each handle that was open before it: so there is one, kept open.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    if !is_at_least(&release, (5, 8)) {
        return None;
    }
    let handle = std::fs::File::open(dir).ok()?;
    // XFS does not flush the disk's own cache if its log has nothing to write; network file systems and overlays have their own ideas.
    if rustix::fs::fstatfs(&handle).ok()?.f_type != EXT4_SUPER_MAGIC {
        return None;
    }
    let device = handle.metadata().ok()?.dev();
    Some(Arc::new(Ext4 { handle, device }))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn of(_dir: &Path) -> Option<Arc<dyn FileSystem>> {
    None
}

#[cfg(target_os = "linux")]
const EXT4_SUPER_MAGIC: rustix::fs::FsWord = 0xef53;

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Ext4 {
    handle: std::fs::File,
    device: u64,
}

#[cfg(target_os = "linux")]
impl FileSystem for Ext4 {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.handle)?)
    }

    fn device(&self) -> u64 {
        self.device
    }
}

#[cfg(target_os = "linux")]
fn is_at_least(release: &str, want: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    next()
        .zip(next())
        .is_some_and(|found: (u32, u32)| found >= want)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_kernels_release_is_compared_by_its_first_two_numbers() {
        for (release, expected) in [
            ("5.8.0-generic\n", true),
            ("6.1.102", true),
            ("5.10", true),
            ("5.7.19", false),
            ("4.19.0", false),
            ("", false),
            ("six.one", false),
        ] {
            assert_eq!(is_at_least(release, (5, 8)), expected, "{release}");
        }
    }

    #[test]
    fn where_a_whole_file_system_can_be_synced_it_is() {
        let dir = tempfile::tempdir().unwrap();
        if let Some(whole) = of(dir.path()) {
            std::fs::write(dir.path().join("file"), b"bytes").unwrap();
            whole.sync().unwrap();
        }
    }
}

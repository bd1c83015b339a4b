//! The directory of a task's stores.
//!
//! ```text
//! format     "brooklet state 1": layout version; written before anything else
//! lock       locked by the operating system while the stores are open, and free after any kind of death
//! rocksdb/   the database
//! restored/  files that the database has not taken in yet, while much is restored
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The layout this code writes, and the newest it reads.
const FORMAT: u32 = 1;

const FORMAT_WORDS: &str = "brooklet state ";

/// A directory this process has to itself, until dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Locks the directory, made if need be, and checks its format.
    pub(crate) fn open(path: &Path) -> Result<Directory, StoreError> {
        let directory = Directory::claim(path)?;
        check_format(path)?;
        Ok(directory)
    }

    /// Locks the directory, made if need be, whatever is in it.
    pub(crate) fn claim(path: &Path) -> Result<Directory, StoreError> {
        fs::create_dir_all(path).map_err(failed(path, "cannot make the directory"))?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed(&lock_path, "cannot open the lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    directory: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(&lock_path, "cannot lock")(error));
            }
        }
        Ok(Directory {
            path: path.to_path_buf(),
            lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("rocksdb")
    }

    /// Where files are written that the database takes in.
    pub(crate) fn restored(&self) -> PathBuf {
        self.path.join("restored")
    }

    /// Deletes what is in it. The lock file stays: another process may have it open, waiting for the lock.
    pub(crate) fn clear(self) -> Result<(), StoreError> {
        let format = self.path.join("format");
        for directory in [self.database(), self.restored()] {
            absent_is_fine(fs::remove_dir_all(&directory))
                .map_err(failed(&directory, "cannot delete"))?;
        }
        absent_is_fine(fs::remove_file(&format)).map_err(failed(&format, "cannot delete"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing the file would do, but for a child process that another thread is just starting: until its exec it has
        // the file too. An error leaves it to the closing.
        let _ = self.lock.unlock();
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn check_format(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => match parse_format(&text) {
            Some(found) if found > FORMAT => Err(StoreError::NewerFormat {
                directory: directory.to_path_buf(),
                found,
                known: FORMAT,
            }),
            Some(_) => Ok(()),
            None => Err(StoreError::Corrupt {
                directory: directory.to_path_buf(),
                reason: format!("its format file says {text:?}"),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // By way of another name, so that a kill leaves a whole file or none.
            let written = directory.join("format.new");
            fs::write(&written, format!("{FORMAT_WORDS}{FORMAT}\n"))
                .and_then(|()| fs::rename(&written, &path))
                .map_err(failed(&path, "cannot write the format file"))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(StoreError::Corrupt {
            directory: directory.to_path_buf(),
            reason: "its format file is not text".to_owned(),
        }),
        Err(error) => Err(failed(&path, "cannot read the format file")(error)),
    }
}

fn parse_format(text: &str) -> Option<u32> {
    text.strip_prefix(FORMAT_WORDS)?.trim_end().parse().ok()
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io {
        path,
        action,
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_opener_is_told_the_directory_and_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(directory.path()).unwrap();
        let error = Directory::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&directory.path().display().to_string()),
            "{text}"
        );
        assert!(text.contains("stop it"), "{text}");
        drop(first);
        Directory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("format"), "brooklet state 2\n").unwrap();
        let error = Directory::open(directory.path()).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::NewerFormat {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_format_file_is_corruption() {
        for text in [&b""[..], b"brooklet state x", b"\xff\xfe"] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("format"), text).unwrap();
            let error = Directory::open(directory.path()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }
}

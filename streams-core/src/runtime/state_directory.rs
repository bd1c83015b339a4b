//! The state directory of an application instance: `<state.dir>/<application.id>/<task>/`, with a format version, a lock against a
//! second process, and the process id that names this instance to the group.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::StreamsError;
use crate::topology::TaskId;

/// Version of the layout below. A newer one is refused, never guessed at.
const FORMAT_VERSION: u32 = 1;

/// An application's state on this machine, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
    process_id: Uuid,
    /// Holds the advisory lock; the system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl StateDirectory {
    /// Creates or opens `<state_dir>/<application_id>`, and locks it.
    pub(crate) fn open(state_dir: &Path, application_id: &str) -> Result<Self, StreamsError> {
        let root = state_dir.join(application_id);
        fs::create_dir_all(&root).map_err(|error| at(&root, "cannot be created", error))?;
        let lock_path = root.join(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| at(&lock_path, "cannot be opened", error))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StreamsError::SecondInstance(format!(
                "application {application_id} is already running on {}: stop the other instance, or give this one another state.dir or application.id",
                root.display()
            )),
            fs::TryLockError::Error(error) => at(&lock_path, "cannot be locked", error),
        })?;
        check_version(&root)?;
        let process_id = process_id(&root)?;
        Ok(Self {
            root,
            process_id,
            _lock: lock,
        })
    }

    /// Where the stores of a task live.
    pub(crate) fn task(&self, task: TaskId) -> PathBuf {
        self.root.join(task.to_string())
    }

    /// Where a thread's copy of global stores lives.
    pub(crate) fn global(&self, thread: &str, task: TaskId) -> PathBuf {
        self.root
            .join("global")
            .join(thread)
            .join(task.subtopology.to_string())
    }

    /// The highest number of stream threads that this instance has had, `now` included: each may have left a transaction open.
    pub(crate) fn stream_threads(&self, now: usize) -> Result<usize, StreamsError> {
        let path = self.root.join("stream-threads");
        let before = match fs::read_to_string(&path) {
            // A file that holds no number is written again.
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(at(&path, "cannot be read", error)),
        };
        if now > before {
            write_whole(&path, format!("{now}\n").as_bytes())?;
        }
        Ok(now.max(before))
    }

    /// Names this instance, the same after a restart.
    pub(crate) fn process_id(&self) -> Uuid {
        self.process_id
    }
}

fn at(path: &Path, what: &str, error: io::Error) -> StreamsError {
    StreamsError::Other(format!(
        "state directory: {} {what}: {error}",
        path.display()
    ))
}

fn check_version(root: &Path) -> Result<(), StreamsError> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(FORMAT_VERSION) => Ok(()),
            Ok(version) => Err(StreamsError::Other(format!(
                "state directory: {} has format version {version}, this build knows {FORMAT_VERSION}: use the version of Brooklet that wrote it, or delete the directory to rebuild its state from the changelogs",
                root.display()
            ))),
            Err(_) => Err(StreamsError::Other(format!(
                "state directory: {} does not hold a version number: {text:?}",
                path.display()
            ))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_whole(&path, format!("{FORMAT_VERSION}\n").as_bytes())
        }
        Err(error) => Err(at(&path, "cannot be read", error)),
    }
}

fn process_id(root: &Path) -> Result<Uuid, StreamsError> {
    let path = root.join("process-id");
    let mut text = String::new();
    match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Uuid::parse_str(text.trim()).map_err(|_| {
            StreamsError::Other(format!(
                "state directory: {} does not hold a UUID: {text:?}",
                path.display()
            ))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            write_whole(&path, format!("{id}\n").as_bytes())?;
            Ok(id)
        }
        Err(error) => Err(at(&path, "cannot be read", error)),
    }
}

/// Writes beside and renames, so that a crash leaves the old file, none, or the whole new one.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), StreamsError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| at(path, "cannot be written", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("brooklet-state-{name}-{}", Uuid::new_v4()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_second_instance_on_the_same_directory_is_refused_by_name() {
        let dir = scratch("second");
        let first = StateDirectory::open(&dir, "app").unwrap();
        let error = StateDirectory::open(&dir, "app").unwrap_err().to_string();
        assert!(
            error.contains("application app is already running on") && error.contains("state.dir"),
            "{error}"
        );
        let id = first.process_id();
        drop(first);
        assert_eq!(
            StateDirectory::open(&dir, "app").unwrap().process_id(),
            id,
            "an instance keeps its id over a restart"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = scratch("newer");
        fs::create_dir_all(dir.join("app")).unwrap();
        fs::write(dir.join("app/version"), "2\n").unwrap();
        let error = StateDirectory::open(&dir, "app").unwrap_err().to_string();
        assert!(
            error.contains("format version 2, this build knows 1"),
            "{error}"
        );
        fs::remove_dir_all(dir).unwrap();
    }
}

//! A disk in memory that fails at the n-th operation and crashes on demand.
//!
//! It keeps two states: what a reader sees now, and what would be there after the power went. A write reaches the second with
//! [`DiskFile::sync_data`] of its file, a name with [`Disk::sync_dir`] of its directory; nothing else orders them. Operations that
//! change something are counted from zero, so a test can run a history once to count them and then once more for each, stopped there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{DirEntry, Disk, DiskFile};

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    LoseUnsynced,
    /// Everything, as after the kill of a process: the operating system keeps its page cache.
    KeepAll,
    /// A pseudo-random part: of a directory's changes a prefix, of a file's writes some, each whole, torn or not at all.
    Torn { seed: u64 },
}

/// Which operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The one with this number, once. A write leaves half of its bytes.
    OnceAt(u64),
    /// The one with this number and all that follow: the machine has stopped there.
    StopAt(u64),
    /// The next sync of a file, once. What it was to write is read back from then on, counts as clean, and never reaches the disk, as on Linux.
    NextSync,
    /// There is no room: files can neither be created nor grow; a write leaves half of its bytes.
    Full,
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

type FileId = u64;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileId, FileState>,
    /// Names as seen now. Directories have no file.
    names: BTreeMap<PathBuf, Option<FileId>>,
    /// Names that would be there after a crash.
    durable_names: BTreeMap<PathBuf, Option<FileId>>,
    /// Changes of names that no `sync_dir` has made durable, in their order.
    pending_names: Vec<NameChange>,
    next_file: FileId,
    operations: u64,
    fault: Option<Fault>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, Option<FileId>),
    Remove(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
        file: Option<FileId>,
    },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let path = match self {
            NameChange::Set(path, _)
            | NameChange::Remove(path)
            | NameChange::Rename { to: path, .. } => path,
        };
        path.parent() == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Option<FileId>>) {
        match self {
            NameChange::Set(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
                // A directory takes along what is in it.
                let below: Vec<_> = names
                    .range(from.clone()..)
                    .take_while(|(path, _)| path.starts_with(from))
                    .map(|(path, file)| (path.clone(), *file))
                    .collect();
                for (path, file) in below {
                    names.remove(&path);
                    if let Ok(rest) = path.strip_prefix(from) {
                        names.insert(to.join(rest), file);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileState {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

impl FileState {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.synced);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Change::Write { position, bytes } => {
                let end = position + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                if let Some(place) = contents.get_mut(*position..end) {
                    place.copy_from_slice(bytes);
                }
            }
            Change::Truncate { length } => contents.resize(*length, 0),
        }
    }
}

fn injected() -> io::Error {
    io::Error::other("fault injected by the simulated disk")
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not there", path.display()),
    )
}

impl State {
    /// Counts an operation that changes something, and fails it if it is its turn.
    fn operate(&mut self) -> io::Result<()> {
        let operation = self.operations;
        self.operations += 1;
        match self.fault {
            Some(Fault::OnceAt(at)) if at == operation => {
                self.fault = None;
                Err(injected())
            }
            Some(Fault::StopAt(at)) if at <= operation => Err(injected()),
            _ => Ok(()),
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.fault, Some(Fault::StopAt(at)) if at < self.operations)
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn change_file(&mut self, file: FileId, change: Change) {
        let file = self.files.entry(file).or_default();
        change.apply(&mut file.now);
        file.unsynced.push(change);
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || matches!(self.names.get(path), Some(None))
    }
}

impl SimDisk {
    pub fn new() -> Self {
        SimDisk::default()
    }

    /// How many operations that change something have been tried.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Nothing fails from now on.
    pub fn clear_fault(&self) {
        self.lock().fault = None;
    }

    pub fn set_fault(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// The disk as a new start finds it. Handles of this one stay with it.
    pub fn crash(&self, crash: Crash) -> SimDisk {
        let state = self.lock();
        let mut random = Random(match crash {
            Crash::Torn { seed } => seed,
            _ => 0,
        });
        let mut names = match crash {
            Crash::KeepAll => state.names.clone(),
            Crash::LoseUnsynced => state.durable_names.clone(),
            Crash::Torn { .. } => {
                let mut names = state.durable_names.clone();
                let kept = random.below(state.pending_names.len() + 1);
                state
                    .pending_names
                    .iter()
                    .take(kept)
                    .for_each(|change| change.apply(&mut names));
                names
            }
        };
        // What lies in a directory that is gone, is gone.
        let all = names.clone();
        names.retain(|path, _| {
            path.ancestors()
                .skip(1)
                .all(|dir| dir.parent().is_none() || all.contains_key(dir))
        });
        let mut files = BTreeMap::new();
        for (id, file) in &state.files {
            let contents = match crash {
                Crash::KeepAll => file.now.clone(),
                Crash::LoseUnsynced => file.synced.clone(),
                Crash::Torn { .. } => torn(file, &mut random),
            };
            files.insert(
                *id,
                FileState {
                    now: contents.clone(),
                    synced: contents,
                    unsynced: Vec::new(),
                },
            );
        }
        let durable_names = names.clone();
        let state = State {
            files,
            names,
            durable_names,
            next_file: state.next_file,
            ..State::default()
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: FileId) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            file,
        })
    }
}

fn torn(file: &FileState, random: &mut Random) -> Vec<u8> {
    let mut contents = file.synced.clone();
    for change in &file.unsynced {
        match (random.below(4), change) {
            (0, _) => {}
            (1, Change::Write { position, bytes }) => {
                let kept = random.below(bytes.len() + 1);
                let bytes = bytes.get(..kept).unwrap_or_default().to_vec();
                Change::Write {
                    position: *position,
                    bytes,
                }
                .apply(&mut contents);
            }
            _ => change.apply(&mut contents),
        }
    }
    contents
}

/// SplitMix64: good enough to tear files, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

impl Disk for SimDisk {
    fn open_or_create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        match state.names.get(path) {
            Some(Some(file)) => {
                let file = *file;
                drop(state);
                Ok(self.handle(file))
            }
            Some(None) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => {
                state.operate()?;
                if state.fault == Some(Fault::Full) {
                    return Err(full());
                }
                match path.parent() {
                    Some(dir) if state.is_dir(dir) => {}
                    _ => return Err(not_found(path)),
                }
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, FileState::default());
                state.change_name(NameChange::Set(path.to_owned(), Some(file)));
                drop(state);
                Ok(self.handle(file))
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().names.get(path).copied().flatten();
        file.map(|file| self.handle(file))
            .ok_or_else(|| not_found(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.lock();
        if !state.is_dir(dir) {
            return Err(not_found(dir));
        }
        let children = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        Ok(children
            .filter_map(|(path, file)| {
                let name = path.file_name()?.to_str()?.to_owned();
                let length = file
                    .and_then(|file| state.files.get(&file))
                    .map_or(0, |file| file.now.len() as u64);
                Some(DirEntry {
                    name,
                    is_dir: file.is_none(),
                    len_bytes: length,
                })
            })
            .collect())
    }

    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let file = state
            .names
            .get(path)
            .copied()
            .flatten()
            .ok_or_else(|| not_found(path))?;
        Ok(state
            .files
            .get(&file)
            .map(|file| file.now.clone())
            .unwrap_or_default())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        let file = *state.names.get(from).ok_or_else(|| not_found(from))?;
        state.change_name(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        match state.names.get(path) {
            Some(Some(_)) => {
                state.change_name(NameChange::Remove(path.to_owned()));
                Ok(())
            }
            _ => Err(not_found(path)),
        }
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let mut missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|dir| !state.is_dir(dir))
            .collect();
        while let Some(dir) = missing.pop() {
            state.operate()?;
            state.change_name(NameChange::Set(dir.to_owned(), None));
        }
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let below: Vec<PathBuf> = state
            .names
            .keys()
            .filter(|path| path.starts_with(dir))
            .cloned()
            .collect();
        for path in below.into_iter().rev() {
            state.operate()?;
            state.change_name(NameChange::Remove(path));
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        if !state.is_dir(dir) {
            return Err(not_found(dir));
        }
        let (done, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition(|change| change.is_in(dir));
        done.iter()
            .for_each(|change| change.apply(&mut state.durable_names));
        state.pending_names = pending;
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: FileId,
}

impl DiskFile for SimFile {
    fn write_all_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let was_stopped = state.is_stopped();
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let length = state.files.get(&self.file).map_or(0, |file| file.now.len());
        let has_room = state.fault != Some(Fault::Full) || position + bytes.len() <= length;
        let result = state
            .operate()
            .and_then(|()| if has_room { Ok(()) } else { Err(full()) });
        let written = match result {
            Ok(()) => bytes,
            Err(error) if was_stopped => return Err(error),
            Err(_) => bytes.get(..bytes.len() / 2).unwrap_or_default(),
        };
        state.change_file(
            self.file,
            Change::Write {
                position,
                bytes: written.to_vec(),
            },
        );
        result
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.lock();
        if state.is_stopped() {
            return Err(injected());
        }
        let contents = state
            .files
            .get(&self.file)
            .map(|file| file.now.as_slice())
            .unwrap_or_default();
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let unread = contents.get(position..).unwrap_or_default();
        let count = unread.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), unread.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        if state.fault == Some(Fault::NextSync) {
            state.fault = None;
            // As Linux does: the pages count as clean, their bytes may never reach the disk.
            if let Some(file) = state.files.get_mut(&self.file) {
                file.unsynced.clear();
            }
            return Err(injected());
        }
        if let Some(file) = state.files.get_mut(&self.file) {
            file.sync();
        }
        Ok(())
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let length = usize::try_from(len_bytes).map_err(io::Error::other)?;
        state.change_file(self.file, Change::Truncate { length });
        Ok(())
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        self.disk.lock().operate()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self
            .disk
            .lock()
            .files
            .get(&self.file)
            .map_or(0, |file| file.now.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn disk() -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    #[test]
    fn a_crash_takes_what_was_not_synced() {
        let disk = disk();
        let path = Path::new("/d/a");
        let file = disk.open_or_create(path).unwrap();
        file.write_all_at(0, b"one").unwrap();
        file.sync_data().unwrap();
        assert!(
            disk.crash(Crash::LoseUnsynced).open(path).is_err(),
            "the name was not synced"
        );
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(3, b"two").unwrap();
        assert_eq!(
            disk.crash(Crash::LoseUnsynced).read_file(path).unwrap(),
            b"one"
        );
        assert_eq!(
            disk.crash(Crash::KeepAll).read_file(path).unwrap(),
            b"onetwo"
        );
        let torn: Vec<Vec<u8>> = (0..50)
            .map(|seed| disk.crash(Crash::Torn { seed }).read_file(path).unwrap())
            .collect();
        assert!(
            torn.iter()
                .all(|contents| b"onetwo".starts_with(contents) && contents.starts_with(b"one"))
        );
        assert!(torn.iter().any(|contents| contents == b"onetw"));
    }

    #[test]
    fn an_atomic_write_leaves_the_old_or_the_new() {
        let path = Path::new("/d/a");
        let mut operation = 0;
        loop {
            let disk = disk();
            disk.write_file_atomically(path, b"old").unwrap();
            disk.set_fault(Fault::StopAt(disk.operations() + operation));
            let done = disk.write_file_atomically(path, b"new contents").is_ok();
            for crash in [
                Crash::LoseUnsynced,
                Crash::KeepAll,
                Crash::Torn { seed: operation },
                Crash::Torn {
                    seed: operation + 100,
                },
            ] {
                let contents = disk.crash(crash).read_file(path).unwrap();
                assert!(
                    contents == b"new contents" || !done && contents == b"old",
                    "{operation} {crash:?}: {contents:?}"
                );
            }
            if done {
                break;
            }
            operation += 1;
        }
        assert_eq!(
            operation, 6,
            "create, truncate, write, sync, rename, sync of the directory"
        );
    }

    #[test]
    fn only_the_chosen_operation_fails() {
        let disk = disk();
        let file = disk.open_or_create(Path::new("/d/a")).unwrap();
        disk.set_fault(Fault::OnceAt(disk.operations() + 1));
        file.write_all_at(0, b"1111").unwrap();
        assert!(file.write_all_at(4, b"2222").is_err());
        assert_eq!(
            file.len_bytes().unwrap(),
            6,
            "half of the failed write is there"
        );
        file.write_all_at(4, b"3333").unwrap();
        disk.set_fault(Fault::NextSync);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
    }

    #[test]
    fn what_a_failed_sync_was_to_write_is_read_back_and_never_written() {
        let disk = disk();
        let path = Path::new("/d/a");
        let file = disk.open_or_create(path).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(0, b"one").unwrap();
        file.sync_data().unwrap();
        file.write_all_at(3, b"two").unwrap();
        disk.set_fault(Fault::NextSync);
        assert!(file.sync_data().is_err());
        file.write_all_at(6, b"six").unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.read_file(path).unwrap(), b"onetwosix");
        let left = disk.crash(Crash::LoseUnsynced).read_file(path).unwrap();
        assert_eq!(left, b"one\0\0\0six");
    }

    #[test]
    fn a_full_disk_takes_no_more_until_there_is_room() {
        let disk = disk();
        let file = disk.open_or_create(Path::new("/d/a")).unwrap();
        file.write_all_at(0, b"1111").unwrap();
        disk.set_fault(Fault::Full);
        let error = file.write_all_at(4, b"2222").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(disk.open_or_create(Path::new("/d/b")).is_err());
        file.truncate(4).unwrap();
        file.write_all_at(0, b"3333").unwrap();
        disk.clear_fault();
        file.write_all_at(4, b"2222").unwrap();
        assert_eq!(disk.read_file(Path::new("/d/a")).unwrap(), b"33332222");
    }
}

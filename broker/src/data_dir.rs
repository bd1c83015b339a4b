//! The data directory: its lock, its format version, the marker of a clean stop, and the checkpoints.
//!
//! ```text
//! .lock                              held by the process that uses the directory
//! meta.properties                    version, cluster.id, node.id, brooklet.format
//! metadata.journal                   topics and what else the cluster knows
//! sync-0.journal, sync-1.journal     what was acknowledged and is not synced in the logs' own files yet
//! .kafka_cleanshutdown               the last stop was clean; removed before anything is written
//! recovery-point-offset-checkpoint   below it, logs are synced
//! log-start-offset-checkpoint        below it, records are deleted
//! replication-offset-checkpoint      high watermarks, for Kafka's tools
//! TOPIC-PARTITION/                   a log each
//! TOPIC-PARTITION.ID-delete/         a log that is being deleted
//! ```

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::Disk;
use crate::error::BrokerError;
use crate::log::offset_checkpoint::{
    self, HIGH_WATERMARK_FILE, LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE,
};

const LOCK_FILE: &str = ".lock";
const PROPERTIES_FILE: &str = "meta.properties";
const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";

/// How the names of directories end that are being deleted. Those of logs end in a number.
const DELETED_SUFFIX: &str = "-delete";
/// Longest name in a directory.
const NAME_BYTES_MAX: usize = 255;

/// The newest format of the directory that this version reads and writes.
const FORMAT_VERSION: i64 = 1;

/// One offset a topic-partition.
pub(crate) type Offsets = BTreeMap<(String, i32), i64>;

/// An open data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) cluster_id: String,
    /// The last stop was clean.
    pub(crate) clean_shutdown: bool,
    pub(crate) recovery_points: Offsets,
    pub(crate) log_start_offsets: Offsets,
    /// Keeps the lock until the directory is closed.
    _lock: Option<std::fs::File>,
}

impl DataDir {
    /// Opens a directory, creating it if it is not there.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        node_id: i32,
        lock: bool,
    ) -> Result<Self, BrokerError> {
        create_durably(disk.as_ref(), path)?;
        let lock = if lock { Some(take_lock(path)?) } else { None };
        let cluster_id = open_properties(disk.as_ref(), path, node_id)?;
        let clean_shutdown = match disk.remove_file(&path.join(CLEAN_SHUTDOWN_FILE)) {
            Ok(()) => {
                disk.sync_dir(path)
                    .map_err(BrokerError::disk("syncing", path))?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(BrokerError::disk(
                    "removing",
                    path.join(CLEAN_SHUTDOWN_FILE),
                )(error));
            }
        };
        let read = |name: &str| {
            let file = path.join(name);
            match offset_checkpoint::read(disk.as_ref(), &file) {
                // A checkpoint is a shortcut: without it logs are re-read from their beginning.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(file = %file.display(), %error, "checkpoint ignored");
                    Ok(Offsets::new())
                }
                read => read.map_err(BrokerError::disk("reading", file)),
            }
        };
        let recovery_points = read(RECOVERY_POINT_FILE)?;
        let log_start_offsets = read(LOG_START_OFFSET_FILE)?;
        Ok(Self {
            path: path.to_owned(),
            disk,
            cluster_id,
            clean_shutdown,
            recovery_points,
            log_start_offsets,
            _lock: lock,
        })
    }

    /// Size of the file system and what is left of it for us, if the system says: a directory that is not on the machine's disk has none.
    pub(crate) fn space_bytes(&self) -> Option<(i64, i64)> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).ok();
        Some((bytes(stat.f_blocks)?, bytes(stat.f_bavail)?))
    }

    /// Directory of a partition's log.
    pub(crate) fn partition_dir(&self, topic: &str, partition: i32) -> PathBuf {
        self.path.join(format!("{topic}-{partition}"))
    }

    /// Removes the directories of partitions, each as a whole: first all lose their names, then their files.
    pub(crate) fn remove_partitions(
        &self,
        topic: &str,
        partitions: Range<i32>,
    ) -> Result<(), BrokerError> {
        let renamed = self.rename_partitions(topic, partitions)?;
        self.remove_renamed(&renamed)
    }

    /// Takes the names from directories of partitions and says the new ones, by which nobody opens them. A crash leaves a log as it was or
    /// under such a name (`remove_deleted` finds it).
    pub(crate) fn rename_partitions(
        &self,
        topic: &str,
        partitions: Range<i32>,
    ) -> Result<Vec<PathBuf>, BrokerError> {
        let mut renamed = Vec::new();
        for index in partitions {
            let dir = self.partition_dir(topic, index);
            let to = self.path.join(deleted_name(topic, index, Uuid::new_v4()));
            match self.disk.rename(&dir, &to) {
                Ok(()) => renamed.push(to),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BrokerError::disk("renaming", dir)(error)),
            }
        }
        if !renamed.is_empty() {
            self.disk
                .sync_dir(&self.path)
                .map_err(BrokerError::disk("syncing", &self.path))?;
        }
        Ok(renamed)
    }

    /// Removes what a crash left of `remove_partitions`.
    pub(crate) fn remove_deleted(&self) -> Result<(), BrokerError> {
        let entries = self
            .disk
            .list(&self.path)
            .map_err(BrokerError::disk("listing", &self.path))?;
        let left: Vec<_> = entries
            .into_iter()
            .filter(|entry| entry.is_dir && entry.name.ends_with(DELETED_SUFFIX))
            .map(|entry| self.path.join(entry.name))
            .collect();
        if !left.is_empty() {
            self.disk
                .sync_dir(&self.path)
                .map_err(BrokerError::disk("syncing", &self.path))?;
        }
        self.remove_renamed(&left)
    }

    fn remove_renamed(&self, dirs: &[PathBuf]) -> Result<(), BrokerError> {
        for dir in dirs {
            self.disk
                .remove_dir_all(dir)
                .map_err(BrokerError::disk("removing", dir))?;
        }
        Ok(())
    }

    /// Writes the checkpoints.
    pub(crate) fn write_checkpoints(
        &self,
        recovery_points: &Offsets,
        log_start_offsets: &Offsets,
        high_watermarks: &Offsets,
    ) -> Result<(), BrokerError> {
        for (name, offsets) in [
            // Log starts first: a recovery point without its log start would make deleted records visible again.
            (LOG_START_OFFSET_FILE, log_start_offsets),
            (RECOVERY_POINT_FILE, recovery_points),
            (HIGH_WATERMARK_FILE, high_watermarks),
        ] {
            let file = self.path.join(name);
            offset_checkpoint::write(self.disk.as_ref(), &file, offsets)
                .map_err(BrokerError::disk("writing", file))?;
        }
        Ok(())
    }

    /// Notes log start offsets alone: DeleteRecords is durable when it answers.
    pub(crate) fn write_log_start_offsets(&self, offsets: &Offsets) -> Result<(), BrokerError> {
        let file = self.path.join(LOG_START_OFFSET_FILE);
        offset_checkpoint::write(self.disk.as_ref(), &file, offsets)
            .map_err(BrokerError::disk("writing", file))
    }

    /// Notes that every log was closed.
    pub(crate) fn write_clean_shutdown(&self) -> Result<(), BrokerError> {
        let file = self.path.join(CLEAN_SHUTDOWN_FILE);
        self.disk
            .write_file_atomically(&file, b"{\"version\":0}")
            .map_err(BrokerError::disk("writing", file))
    }
}

/// Name of a directory that is being deleted; a long topic is cut to what fits, the id makes it unique.
fn deleted_name(topic: &str, partition: i32, id: Uuid) -> String {
    let suffix = format!("-{partition}.{}{DELETED_SUFFIX}", id.simple());
    let topic_bytes_max = NAME_BYTES_MAX.saturating_sub(suffix.len());
    // Names of topics are ASCII.
    format!("{}{suffix}", topic.get(..topic_bytes_max).unwrap_or(topic))
}

/// Creates a directory with what it lies in, each name synced where it is new.
fn create_durably(disk: &dyn Disk, path: &Path) -> Result<(), BrokerError> {
    let is_missing = |dir: &&Path| matches!(disk.list(dir), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let missing: Vec<_> = path
        .ancestors()
        .filter(|dir| !dir.as_os_str().is_empty())
        .take_while(is_missing)
        .collect();
    disk.create_dir_all(path)
        .map_err(BrokerError::disk("creating", path))?;
    for dir in missing {
        let parent = dir.parent().map(|parent| {
            if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            }
        });
        let Some(parent) = parent else { continue };
        match disk.sync_dir(parent) {
            // A directory that we may enter but not read: its owner has to care for it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(BrokerError::disk("syncing", parent))?,
        }
    }
    Ok(())
}

fn take_lock(dir: &Path) -> Result<std::fs::File, BrokerError> {
    let path = dir.join(LOCK_FILE);
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(BrokerError::disk("opening", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BrokerError::Locked {
            dir: dir.to_owned(),
        }),
        Err(error) => Err(BrokerError::disk("locking", path)(error.into())),
    }
}

/// Reads or creates `meta.properties`; returns the cluster's id.
fn open_properties(disk: &dyn Disk, dir: &Path, node_id: i32) -> Result<String, BrokerError> {
    let path = dir.join(PROPERTIES_FILE);
    let contents = match disk.read_file(&path) {
        Ok(contents) => String::from_utf8_lossy(&contents).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let cluster_id = kafka_id(Uuid::new_v4());
            let text = format!(
                "version=1\nbrooklet.format={FORMAT_VERSION}\ncluster.id={cluster_id}\nnode.id={node_id}\n"
            );
            disk.write_file_atomically(&path, text.as_bytes())
                .map_err(BrokerError::disk("writing", &path))?;
            return Ok(cluster_id);
        }
        Err(error) => return Err(BrokerError::disk("reading", path)(error)),
    };
    let property = |name: &str| {
        contents
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    };
    let corrupt = |reason: String| BrokerError::Corrupt {
        path: path.clone(),
        reason,
    };
    let Some(format) = property("brooklet.format") else {
        return Err(corrupt(
            "has no brooklet.format: this is not a data directory of ours, choose another".into(),
        ));
    };
    let found = format
        .parse::<i64>()
        .map_err(|_| corrupt(format!("brooklet.format {format} is not a number")))?;
    if found > FORMAT_VERSION {
        return Err(BrokerError::NewerFormat {
            path,
            found,
            known: FORMAT_VERSION,
        });
    }
    let cluster_id = property("cluster.id").ok_or_else(|| corrupt("has no cluster.id".into()))?;
    Ok(cluster_id.to_owned())
}

/// An id as Kafka prints it: base64 for URLs, without padding.
pub(crate) fn kafka_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(22);
    for chunk in id.as_bytes().chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for sextet in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * sextet)) & 63;
            // Six bits index an alphabet of 64.
            out.extend(ALPHABET.get(index as usize).map(|byte| char::from(*byte)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::RealDisk;

    fn open(path: &Path) -> Result<DataDir, BrokerError> {
        DataDir::open(Arc::new(RealDisk), path, 1, true)
    }

    #[test]
    fn a_second_process_is_refused_with_the_directorys_name() {
        let dir = tempfile::tempdir().unwrap();
        let held = open(dir.path()).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert!(matches!(refused, BrokerError::Locked { .. }));
        assert!(
            refused
                .to_string()
                .contains(&dir.path().display().to_string())
        );
        drop(held);
        open(dir.path()).unwrap();
    }

    #[test]
    fn the_cluster_id_stays_and_the_marker_is_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        assert!(!first.clean_shutdown);
        first.write_clean_shutdown().unwrap();
        let cluster_id = first.cluster_id.clone();
        drop(first);
        let second = open(dir.path()).unwrap();
        assert_eq!(
            (second.clean_shutdown, &second.cluster_id),
            (true, &cluster_id)
        );
        drop(second);
        assert!(!open(dir.path()).unwrap().clean_shutdown);
    }

    #[test]
    fn a_newer_format_and_a_strange_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PROPERTIES_FILE);
        std::fs::write(&path, "version=1\nbrooklet.format=2\ncluster.id=x\n").unwrap();
        assert!(matches!(
            open(dir.path()),
            Err(BrokerError::NewerFormat { found: 2, .. })
        ));
        std::fs::write(&path, "version=1\ncluster.id=x\n").unwrap();
        assert!(matches!(open(dir.path()), Err(BrokerError::Corrupt { .. })));
    }

    #[test]
    fn ids_are_printed_as_kafka_prints_them() {
        assert_eq!(kafka_id(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(
            kafka_id(Uuid::from_bytes([0xff; 16])),
            "_____________________w"
        );
        assert_eq!(kafka_id(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
    }
}

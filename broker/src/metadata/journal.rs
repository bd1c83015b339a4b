//! The metadata journal: one file of commands, each durable before it is answered.
//!
//! ```text
//! magic "BRKLMETA", format version u32
//! then a frame a command: length u32, crc-32c of the command u32, command
//! ```
//!
//! 1. Opening reads frames until the first that is short, empty or does not match its checksum: a torn tail, never acknowledged.
//! 2. The state is then written as a snapshot over the old file (atomically), so the journal does not grow from run to run
//!    and a torn tail is gone.
//! 3. Appending writes one frame and syncs. After a failed write or sync the journal is poisoned: what is on disk is unknown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Catalog, Command};
use crate::disk::{Disk, DiskFile};
use crate::error::BrokerError;

/// Name of the journal in the data directory.
pub const JOURNAL_FILE: &str = "metadata.journal";

const MAGIC: &[u8; 8] = b"BRKLMETA";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
    poisoned: Option<String>,
}

impl Journal {
    /// Opens the journal of a data directory, with the state that it leads to.
    pub fn open(disk: &dyn Disk, data_dir: &Path) -> Result<(Self, Catalog), BrokerError> {
        let path = data_dir.join(JOURNAL_FILE);
        let contents = match disk.read_file(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(BrokerError::disk("reading", &path)(error)),
        };
        let catalog = parse(&path, &contents)?;
        let mut compacted = header();
        for command in catalog.snapshot() {
            put_frame(&mut compacted, &command);
        }
        if compacted != contents {
            disk.write_file_atomically(&path, &compacted)
                .map_err(BrokerError::disk("writing", &path))?;
        }
        let file = disk
            .open(&path)
            .map_err(BrokerError::disk("opening", &path))?;
        let journal = Self {
            path,
            file,
            end: compacted.len() as u64,
            poisoned: None,
        };
        Ok((journal, catalog))
    }

    /// Writes commands; they are durable when it returns.
    pub fn append(&mut self, commands: &[Command]) -> Result<(), BrokerError> {
        if let Some(reason) = &self.poisoned {
            return Err(BrokerError::Poisoned {
                reason: reason.clone(),
            });
        }
        let mut frames = Vec::new();
        for command in commands {
            put_frame(&mut frames, command);
        }
        let written = self
            .file
            .write_all_at(self.end, &frames)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.poisoned = Some(error.to_string());
            return Err(BrokerError::disk("writing", &self.path)(error));
        }
        self.end += frames.len() as u64;
        Ok(())
    }
}

fn header() -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    header
}

fn put_frame(out: &mut Vec<u8>, command: &Command) {
    let command = command.encode();
    out.extend_from_slice(&(command.len() as u32).to_be_bytes());
    out.extend_from_slice(&checksum(&command).to_be_bytes());
    out.extend_from_slice(&command);
}

fn checksum(bytes: &[u8]) -> u32 {
    // A 32-bit algorithm: the upper half is zero.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn parse(path: &Path, contents: &[u8]) -> Result<Catalog, BrokerError> {
    let mut catalog = Catalog::default();
    if contents.is_empty() {
        return Ok(catalog);
    }
    let corrupt = |reason: &str| BrokerError::Corrupt {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let Some((header, mut rest)) = contents.split_first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt("shorter than its header"));
    };
    let Some((MAGIC, version)) = header.split_first_chunk::<8>() else {
        return Err(corrupt("not a metadata journal"));
    };
    let version = u32::from_be_bytes(
        version
            .try_into()
            .map_err(|_| corrupt("shorter than its header"))?,
    );
    if version > FORMAT_VERSION {
        return Err(BrokerError::NewerFormat {
            path: path.to_owned(),
            found: i64::from(version),
            known: i64::from(FORMAT_VERSION),
        });
    }
    while let Some((prefix, after)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, crc @ ..] = *prefix;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some((command, next)) = after.split_at_checked(length) else {
            break;
        };
        // The checksum of nothing is zero: an empty frame is what a torn write left as zeros. No command is empty.
        if length == 0 || checksum(command) != u32::from_be_bytes(crc) {
            break;
        }
        let command = Command::decode(command)
            .ok_or_else(|| corrupt("holds a command that this version does not know"))?;
        catalog.replay(&command);
        rest = next;
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::disk::RealDisk;

    fn create(catalog: &mut Catalog, name: &str) -> Command {
        let command = catalog
            .decide_create(name, Uuid::new_v4(), 1, BTreeMap::new())
            .unwrap();
        catalog.replay(&command);
        command
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, mut catalog) = Journal::open(&RealDisk, dir.path()).unwrap();
        let commands = [create(&mut catalog, "a"), create(&mut catalog, "b")];
        journal.append(&commands).unwrap();
        let (mut journal, reopened) = Journal::open(&RealDisk, dir.path()).unwrap();
        assert_eq!(reopened.topics().count(), 2);
        journal.append(&[create(&mut catalog, "c")]).unwrap();
        let (_, reopened) = Journal::open(&RealDisk, dir.path()).unwrap();
        assert_eq!(reopened.topics().count(), 3);
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_every_whole_command() {
        let mut catalog = Catalog::default();
        let mut contents = header();
        let mut ends = Vec::new();
        for name in ["a", "b", "c"] {
            put_frame(&mut contents, &create(&mut catalog, name));
            ends.push(contents.len());
        }
        for cut in HEADER_BYTES..=contents.len() {
            let parsed = parse(Path::new("j"), &contents[..cut]).unwrap();
            assert_eq!(
                parsed.topics().count(),
                ends.iter().filter(|end| **end <= cut).count(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_tail_of_zeros_is_torn() {
        let mut catalog = Catalog::default();
        let mut contents = header();
        put_frame(&mut contents, &create(&mut catalog, "a"));
        // The file's length reached the disk before the bytes did.
        contents.resize(contents.len() + 100, 0);
        let parsed = parse(Path::new("j"), &contents).unwrap();
        assert_eq!(parsed.topics().count(), 1);
    }

    #[test]
    fn a_newer_format_and_a_stranger_are_refused() {
        let mut newer = MAGIC.to_vec();
        newer.extend_from_slice(&2_u32.to_be_bytes());
        assert!(matches!(
            parse(Path::new("j"), &newer),
            Err(BrokerError::NewerFormat { found: 2, .. })
        ));
        assert!(matches!(
            parse(Path::new("j"), b"not ours at all"),
            Err(BrokerError::Corrupt { .. })
        ));
    }
}

//! What only stores that stay have to show: reopening, damage, sharing, and death at any moment.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Bound::Unbounded;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::key_schema::WindowKey;
use crate::suite::{pairs, store_suite, windows};
use crate::{
    Backend, Direction, KeyValueStore, Memory, Positions, StoreError, StoreKind, StoreSpec, Stores,
    WindowStore,
};

store_suite!(Backend::RocksDb);

fn keys(name: &str) -> StoreSpec {
    StoreSpec::key_value(name, Backend::RocksDb)
}

fn open(directory: &Path, specs: &[StoreSpec]) -> Result<Stores, StoreError> {
    Stores::open(Some(directory), specs, &Memory::new(8 << 20))
}

fn count(store: &dyn KeyValueStore) -> usize {
    pairs(
        store
            .range(Unbounded, Unbounded, Direction::Forward)
            .unwrap(),
    )
    .len()
}

/// A directory with one commit: key-value store `keys` has `a` at offset 5.
fn committed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = open(directory.path(), &[keys("keys")]).unwrap();
    stores
        .key_value("keys")
        .unwrap()
        .put(b"a", Some(b"1"))
        .unwrap();
    let mut positions = Positions::default();
    positions.set_offset("keys", 5);
    positions.set_metadata("operator", b"time".to_vec());
    stores.commit(&positions).unwrap();
    directory
}

#[test]
fn content_and_positions_are_there_after_reopening_and_the_uncommitted_is_not() {
    let directory = committed();
    let specs = [
        keys("keys"),
        StoreSpec::key_value("volatile", Backend::InMemory),
    ];
    let mut stores = open(directory.path(), &specs).unwrap();
    stores
        .key_value("keys")
        .unwrap()
        .put(b"b", Some(b"2"))
        .unwrap();
    stores
        .key_value("volatile")
        .unwrap()
        .put(b"b", Some(b"2"))
        .unwrap();
    stores.discard_uncommitted();
    let mut positions = Positions::default();
    positions.set_offset("volatile", 9);
    stores.commit(&positions).unwrap();
    stores
        .key_value("keys")
        .unwrap()
        .put(b"c", Some(b"3"))
        .unwrap();
    drop(stores);

    let stores = open(directory.path(), &specs).unwrap();
    assert_eq!(count(&*stores.key_value("keys").unwrap()), 1);
    assert_eq!(
        stores.positions().offsets().collect::<Vec<_>>(),
        [("keys", 5)]
    );
    assert_eq!(stores.positions().metadata("operator"), Some(&b"time"[..]));
}

#[test]
fn a_store_the_topology_left_out_is_there_when_it_comes_back() {
    let directory = committed();
    let stores = open(directory.path(), &[keys("default")]).unwrap();
    assert_eq!(stores.positions().offset("keys"), None);
    assert_eq!(count(&*stores.key_value("default").unwrap()), 0);
    drop(stores);
    let stores = open(directory.path(), &[keys("keys")]).unwrap();
    assert_eq!(stores.positions().offset("keys"), Some(5));
    assert_eq!(count(&*stores.key_value("keys").unwrap()), 1);
}

#[test]
fn a_persistent_store_needs_a_directory() {
    let result = Stores::open(None, &[keys("keys")], &Memory::new(0)).map(|_| ());
    assert!(matches!(result, Err(StoreError::DirectoryMissing { store }) if store == "keys"));
}

#[test]
fn stores_are_open_once_as_long_as_a_handle_or_a_snapshot_lives() {
    let directory = committed();
    let stores = open(directory.path(), &[keys("keys")]).unwrap();
    let (handle, snapshot) = (
        stores.key_value("keys").unwrap(),
        stores.snapshot("keys").unwrap(),
    );
    drop(stores);
    let locked = || {
        matches!(
            open(directory.path(), &[keys("keys")]),
            Err(StoreError::Locked { .. })
        )
    };
    assert!(locked());
    assert!(matches!(
        Stores::delete(directory.path()),
        Err(StoreError::Locked { .. })
    ));
    drop(handle);
    assert!(locked());
    drop(snapshot);
    assert!(!locked());
}

#[test]
fn stores_prepared_on_other_threads_are_opened_on_the_task_s() {
    let parent = tempfile::tempdir().unwrap();
    let memory = Memory::new(8 << 20);
    let prepared: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|task| {
                let (directory, memory) = (parent.path().join(format!("0_{task}")), &memory);
                scope.spawn(move || {
                    Stores::prepare(Some(&directory), &[keys("keys")], memory).unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for prepared in prepared {
        let stores = prepared.open().unwrap();
        stores
            .key_value("keys")
            .unwrap()
            .put(b"a", Some(b"1"))
            .unwrap();
        assert_eq!(count(&*stores.key_value("keys").unwrap()), 1);
    }
}

#[test]
fn a_store_of_another_kind_than_on_disk_is_refused() {
    let directory = committed();
    let specs = [StoreSpec::window("keys", 1000, Backend::RocksDb)];
    let error = open(directory.path(), &specs).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "store keys: is a key-value store, not a window store"
    );
}

#[test]
fn a_window_store_keeps_its_segments_and_stream_time_and_may_change_its_retention() {
    let directory = tempfile::tempdir().unwrap();
    let spec = |retention_ms, segment_interval_ms| StoreSpec {
        name: "windows".to_owned(),
        kind: StoreKind::Window {
            retention_ms,
            segment_interval_ms,
        },
        backend: Backend::RocksDb,
    };
    let mut stores = open(directory.path(), &[spec(1000, 10)]).unwrap();
    let mut store = stores.window("windows").unwrap();
    for start in (0..500).step_by(50) {
        let _ = store.put(b"k", start, Some(b"v")).unwrap();
    }
    stores.commit(&Positions::default()).unwrap();
    drop((stores, store));

    let starts = |store: &dyn WindowStore| {
        let found = windows(store.all(Direction::Forward).unwrap());
        found
            .into_iter()
            .map(|(_, start, _)| start)
            .collect::<Vec<_>>()
    };
    // Another interval in the spec changes nothing on disk: all windows are found where they lie.
    let mut stores = open(directory.path(), &[spec(200, 70)]).unwrap();
    let mut store = stores.window("windows").unwrap();
    assert_eq!(store.observed_stream_time_ms(), 450);
    assert_eq!(starts(&store), [300, 350, 400, 450]);
    let _ = store.put(b"k", 460, Some(b"v")).unwrap();
    stores.commit(&Positions::default()).unwrap();
    drop((stores, store));

    // What the shorter retention let go is gone for good.
    let stores = open(directory.path(), &[spec(1000, 10)]).unwrap();
    assert_eq!(
        starts(&*stores.window("windows").unwrap()),
        [300, 350, 400, 450, 460]
    );
}

#[test]
fn damage_is_named_and_deleting_the_directory_mends_it() {
    type Damage = fn(&Path);
    let manifest = |database: &Path| -> PathBuf {
        let files = fs::read_dir(database)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .into_iter()
            .find(|file| {
                file.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("MANIFEST")
            })
            .unwrap()
    };
    let _ = manifest(&committed().path().join("rocksdb"));
    let damages: [Damage; 4] = [
        |database| fs::write(database.join("CURRENT"), "nonsense").unwrap(),
        |database| fs::write(database.join("CURRENT"), "MANIFEST-999999\n").unwrap(),
        |database| {
            for file in fs::read_dir(database).unwrap() {
                let path = file.unwrap().path();
                if path.to_string_lossy().contains("MANIFEST") {
                    let bytes = vec![0x55; fs::metadata(&path).unwrap().len() as usize];
                    fs::write(&path, bytes).unwrap();
                }
            }
        },
        |database| {
            for file in fs::read_dir(database).unwrap() {
                let path = file.unwrap().path();
                if path.to_string_lossy().contains("MANIFEST") {
                    fs::remove_file(&path).unwrap();
                }
            }
        },
    ];
    for damage in damages {
        let directory = committed();
        damage(&directory.path().join("rocksdb"));
        let error = open(directory.path(), &[keys("keys")])
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(&directory.path().display().to_string()),
            "{text}"
        );

        Stores::delete(directory.path()).unwrap();
        let stores = open(directory.path(), &[keys("keys")]).unwrap();
        assert_eq!(stores.positions().offset("keys"), None);
        assert_eq!(count(&*stores.key_value("keys").unwrap()), 0);
    }
}

#[test]
fn damage_in_a_table_file_is_found_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut stores = open(directory.path(), &[keys("keys")]).unwrap();
    let mut store = stores.key_value("keys").unwrap();
    for key in 0..2000u32 {
        store
            .put(
                &key.to_be_bytes(),
                Some(&incompressible(u64::from(key), 100)),
            )
            .unwrap();
    }
    stores.commit(&Positions::default()).unwrap();
    drop((stores, store));
    // Opening replays the log into a table file.
    drop(open(directory.path(), &[keys("keys")]).unwrap());
    for file in fs::read_dir(directory.path().join("rocksdb")).unwrap() {
        let path = file.unwrap().path();
        let is_table = path.extension().is_some_and(|extension| extension == "sst");
        let mut bytes = fs::read(&path).unwrap();
        // The first half of the store's file is entries; damage further on is found when it is opened.
        if is_table && bytes.len() > 100_000 {
            let end = bytes.len() / 2;
            bytes[..end].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(&path, bytes).unwrap();
        }
    }

    let stores = open(directory.path(), &[keys("keys")]).unwrap();
    let store = stores.key_value("keys").unwrap();
    let read = |key: u32| store.read(&key.to_be_bytes(), &mut Vec::new());
    let error = (0..2000)
        .find_map(|key| read(key).err())
        .expect("the damage is found");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let mut iterator = store
        .range(Unbounded, Unbounded, Direction::Forward)
        .unwrap();
    let error = loop {
        match iterator.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the iteration ended as if all were well"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn expired_windows_give_their_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let spec = StoreSpec {
        name: "windows".to_owned(),
        kind: StoreKind::Window {
            retention_ms: 100,
            segment_interval_ms: 50,
        },
        backend: Backend::RocksDb,
    };
    let mut stores = Stores::open(Some(directory.path()), &[spec], &Memory::new(0)).unwrap();
    let mut store = stores.window("windows").unwrap();
    // 80 KB a segment, 3 of which are kept; 32 MB in all.
    for segment in 0..400i64 {
        for key in 0..80u64 {
            let value = incompressible(segment as u64 * 80 + key, 1000);
            let _ = store
                .put(&key.to_be_bytes(), segment * 50, Some(&value))
                .unwrap();
        }
        stores.commit(&Positions::default()).unwrap();
    }
    drop((stores, store));
    let bytes: u64 = fs::read_dir(directory.path().join("rocksdb"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    // Live windows, a few memtables and the log of them; what is behind them in compaction.
    assert!(bytes < 16 << 20, "{bytes} bytes");
}

/// Bytes that differ with the seed and do not compress.
fn incompressible(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| next_random(&mut state) as u8)
        .take(length)
        .collect()
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn all_stores_together_stay_within_one_budget() {
    let directory = tempfile::tempdir().unwrap();
    let memory = Memory::new(8 << 20);
    let mut tasks: Vec<Stores> = (0..3)
        .map(|task| {
            let directory = directory.path().join(format!("0_{task}"));
            Stores::open(Some(&directory), &[keys("a"), keys("b")], &memory).unwrap()
        })
        .collect();
    let mut out = Vec::new();
    for round in 0..40u32 {
        for stores in &mut tasks {
            for name in ["a", "b"] {
                let mut store = stores.key_value(name).unwrap();
                for key in 0..100u32 {
                    let key = (round * 100 + key).to_be_bytes();
                    store.put(&key, Some(&[round as u8; 1000])).unwrap();
                }
            }
            stores.commit(&Positions::default()).unwrap();
        }
    }
    // 24 MB went in; what is read back comes through the same budget.
    for stores in &tasks {
        let store = stores.key_value("a").unwrap();
        for key in 0..4000u32 {
            assert!(store.read(&key.to_be_bytes(), &mut out).unwrap());
            assert_eq!(out, [(key / 100) as u8; 1000]);
        }
    }
    // Memtables being flushed go over it for a moment: RocksDB's limit is a soft one.
    assert!(
        memory.bytes_used() <= 2 * memory.bytes_max(),
        "{} bytes",
        memory.bytes_used()
    );
}

/// What the child has after its commit `number`, so that the parent can tell exactly one commit from a mixture.
mod scene {
    use super::*;

    pub(super) const KEYS: u64 = 40;
    const RETENTION_MS: i64 = 60_000;

    pub(super) fn specs() -> [StoreSpec; 3] {
        [
            keys("first"),
            keys("second"),
            StoreSpec {
                name: "windows".to_owned(),
                kind: StoreKind::Window {
                    retention_ms: RETENTION_MS,
                    segment_interval_ms: 10_000,
                },
                backend: Backend::RocksDb,
            },
        ]
    }

    /// Commit `number` writes every key whose number it hits; values are long enough for memtables to fill.
    fn writes(number: u64) -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
        (0..1 + number % 7).map(move |i| {
            let key = (number * 3 + i) % KEYS;
            let value = (!(number + key).is_multiple_of(5)).then(|| {
                format!("{number}:")
                    .into_bytes()
                    .repeat(1 + (number % 11 * 300) as usize)
            });
            (key, value)
        })
    }

    pub(super) fn write(stores: &Stores, number: u64) {
        for name in ["first", "second"] {
            let mut store = stores.key_value(name).unwrap();
            for (key, value) in writes(number) {
                store.put(&key.to_be_bytes(), value.as_deref()).unwrap();
            }
        }
        let mut window = stores.window("windows").unwrap();
        let start = number as i64 * 1000;
        let _ = window
            .put(b"w", start, Some(&number.to_be_bytes()))
            .unwrap();
    }

    pub(super) fn positions(number: u64) -> Positions {
        let mut positions = Positions::default();
        for spec in specs() {
            positions.set_offset(spec.name, number as i64);
        }
        positions.set_metadata("operator", number.to_be_bytes().to_vec());
        positions
    }

    pub(super) fn check(stores: &Stores, number: u64) {
        let mut model = std::collections::BTreeMap::new();
        for earlier in 1..=number {
            for (key, value) in writes(earlier) {
                match value {
                    Some(value) => model.insert(key.to_be_bytes().to_vec(), value),
                    None => model.remove(&key.to_be_bytes()[..]),
                };
            }
        }
        for name in ["first", "second"] {
            let store = stores.key_value(name).unwrap();
            let found = pairs(
                store
                    .range(Unbounded, Unbounded, Direction::Forward)
                    .unwrap(),
            );
            assert!(
                found == model.clone().into_iter().collect::<Vec<_>>(),
                "{name} at {number}"
            );
        }
        let now_ms = number as i64 * 1000;
        let expected: Vec<i64> = (1..=number as i64)
            .map(|earlier| earlier * 1000)
            .filter(|start| *start > now_ms - RETENTION_MS)
            .collect();
        let found = windows(
            stores
                .window("windows")
                .unwrap()
                .all(Direction::Forward)
                .unwrap(),
        );
        assert_eq!(
            found.iter().map(|(_, start, _)| *start).collect::<Vec<_>>(),
            expected
        );
        if number > 0 {
            assert_eq!(stores.positions(), &positions(number));
        }
    }

    /// The commit the stores are at.
    pub(super) fn at(stores: &Stores) -> u64 {
        u64::try_from(stores.positions().offset("first").unwrap_or(0)).unwrap()
    }
}

const CRASH_DIRECTORY: &str = "BROOKLET_TEST_CRASH_DIRECTORY";

/// The child commits as fast as it can and says each number once it is committed; the parent kills it when it has
/// heard a certain number, so the kill meets whatever the child is doing by then.
#[test]
fn a_kill_at_any_moment_leaves_exactly_one_commit() {
    // Small, so that flushes and compactions are among what is interrupted.
    let memory = Memory::new(0);
    if let Some(directory) = std::env::var_os(CRASH_DIRECTORY) {
        let mut stores =
            Stores::open(Some(Path::new(&directory)), &scene::specs(), &memory).unwrap();
        let mut out = std::io::stdout();
        for number in scene::at(&stores) + 1.. {
            scene::write(&stores, number);
            stores.commit(&scene::positions(number)).unwrap();
            if writeln!(out, "committed {number}").is_err() {
                return; // The parent is gone.
            }
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut survived = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("rocksdb::tests::a_kill_at_any_moment_leaves_exactly_one_commit")
            .env(CRASH_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let random = next_random(&mut seed);
        // In some rounds before the first commit: while the database is being made or recovered.
        let heard_enough = if round % 4 == 1 { 0 } else { random % 400 };
        let mut acknowledged = survived;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        while heard < heard_enough {
            let line = lines
                .next()
                .expect("the child goes on until it is killed")
                .unwrap();
            if let Some((_, number)) = line.split_once("committed ") {
                acknowledged = number.parse().unwrap();
                heard += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // What else it said before it died.
            if let Some((_, number)) = line.unwrap().split_once("committed ") {
                acknowledged = number.parse().unwrap();
            }
        }

        let stores = Stores::open(Some(directory.path()), &scene::specs(), &memory).unwrap();
        survived = scene::at(&stores);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&survived),
            "round {round}: commit {acknowledged} was acknowledged, {survived} was found"
        );
        scene::check(&stores, survived);
    }
    assert!(
        survived > scene::KEYS,
        "only {survived} commits in all rounds"
    );
}

/// Records of a changelog.
type Piece = Vec<(Vec<u8>, Vec<u8>)>;

/// Fifty rows, piece `number` of a changelog of a thousand keys.
fn piece(number: u64) -> Piece {
    let row = |at: u64| {
        let key = format!("key-{}", (number * 50 + at) * 7 % 1000).into_bytes();
        (key, incompressible(number + 1, 400))
    };
    (0..50).map(row).collect()
}

/// As many windows; time goes on with each piece, and most of what was before expires by and by.
fn piece_of_windows(number: u64) -> Piece {
    let row = |at: u64| {
        let mut key = Vec::new();
        WindowKey {
            key: format!("key-{}", at * 7 % 10).as_bytes(),
            window_start_ms: i64::try_from(number * 30 + at * 11 % 40).unwrap(),
            sequence: 0,
        }
        .append_to(&mut key);
        (key, incompressible(number + 1, 400))
    };
    (0..50).map(row).collect()
}

/// All that a store shows.
fn shown(stores: &Stores, spec: &StoreSpec) -> Vec<(Vec<u8>, i64, Vec<u8>)> {
    match spec.kind {
        StoreKind::KeyValue => {
            let store = stores.key_value(&spec.name).unwrap();
            let all = pairs(
                store
                    .range(Unbounded, Unbounded, Direction::Forward)
                    .unwrap(),
            );
            all.into_iter()
                .map(|(key, value)| (key, 0, value))
                .collect()
        }
        StoreKind::Window { .. } => {
            let store = stores.window(&spec.name).unwrap();
            let time = store.observed_stream_time_ms();
            let all = store.fetch_range(Unbounded, Unbounded, 0, i64::MAX, Direction::Forward);
            let mut all = windows(all.unwrap());
            all.push((b"stream time".to_vec(), time, Vec::new()));
            all
        }
    }
}

/// As above, while much of a changelog is restored. The child says what it has restored, and where it has finished for good; the parent goes on
/// from where it was cut off, a little way, and then from what that has left.
fn killed_during_a_bulk_restoration(test: &str, spec: &StoreSpec, piece: fn(u64) -> Piece) {
    const PIECES_BULK: u64 = 90;
    // Small, so that runs are among what is interrupted.
    let memory = Memory::new(0);
    let specs = [spec.clone(), keys("other")];
    let open = |directory: &Path| Stores::open(Some(directory), &specs, &memory).unwrap();
    let restore = |stores: &mut Stores, number: u64| {
        let rows = piece(number);
        let end = i64::try_from((number + 1) * 50).unwrap();
        let records = rows.iter().map(|(key, value)| (&**key, Some(&**value)));
        stores.restore("store", records, end).unwrap();
        end
    };
    let next = |stores: &Stores| {
        let position = stores.positions().offset("store").unwrap_or(0);
        u64::try_from(position).unwrap() / 50
    };
    if let Some(directory) = std::env::var_os(CRASH_DIRECTORY) {
        let mut stores = open(Path::new(&directory));
        let mut out = std::io::stdout();
        stores.begin_bulk("store").unwrap();
        for number in next(&stores).. {
            let end = restore(&mut stores, number);
            let word = if (number + 1) % PIECES_BULK == 0 {
                stores.finish_bulk("store").unwrap();
                stores.begin_bulk("store").unwrap();
                "finished"
            } else {
                "restored"
            };
            if writeln!(out, "{word} {end}").is_err() {
                return; // The parent is gone.
            }
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let model_directory = tempfile::tempdir().unwrap();
    let mut model = open(model_directory.path());
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let mut survived = 0;
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1", test])
            .env(CRASH_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut finished, mut restored) = (survived, survived);
        let mut hear = |line: String| {
            let said = |word: &str| Some(line.split_once(word)?.1.parse::<i64>().unwrap());
            finished = said("finished ").unwrap_or(finished);
            restored = said("finished ").or(said("restored ")).unwrap_or(restored);
        };
        for _ in 0..20 + next_random(&mut seed) % 300 {
            let line = lines.next();
            hear(line.expect("the child goes on until it is killed").unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.for_each(|line| hear(line.unwrap()));

        let mut stores = open(directory.path());
        let position = stores.positions().offset("store").unwrap_or(0);
        // The last piece may have been written and not said.
        assert!(
            (finished..=restored + 50).contains(&position),
            "round {round}: finished {finished}, restored {restored}, found {position}"
        );
        let ahead = stores.ahead("store").unwrap_or(position);
        assert!(
            (position..=restored + 50).contains(&ahead),
            "round {round}: restored {restored}, found {position}, rows up to {ahead}"
        );
        // As far as rows may be, in the ordinary way, and a little further.
        let until = u64::try_from(ahead).unwrap() / 50 + 3;
        for number in next(&stores)..until {
            survived = restore(&mut stores, number);
        }
        for number in next(&model)..until {
            restore(&mut model, number);
        }
        let (found, expected) = (shown(&stores, spec), shown(&model, spec));
        assert!(
            found == expected,
            "round {round}: at {survived} there are {} rows, not the {} of its pieces",
            found.len(),
            expected.len()
        );
    }
    assert!(survived > 0, "nothing survived of all rounds");
}

#[test]
fn a_kill_during_a_bulk_restoration_leaves_what_goes_on_to_be_the_whole() {
    killed_during_a_bulk_restoration(
        "rocksdb::tests::a_kill_during_a_bulk_restoration_leaves_what_goes_on_to_be_the_whole",
        &keys("store"),
        piece,
    );
}

#[test]
fn a_kill_during_a_bulk_restoration_of_windows_leaves_what_goes_on_to_be_the_whole() {
    let kind = StoreKind::Window {
        retention_ms: 2_000,
        segment_interval_ms: 300,
    };
    killed_during_a_bulk_restoration(
        "rocksdb::tests::a_kill_during_a_bulk_restoration_of_windows_leaves_what_goes_on_to_be_the_whole",
        &StoreSpec {
            kind,
            ..keys("store")
        },
        piece_of_windows,
    );
}

/// A kill between taking a run in and saying so, made by hand: the rows are there, the position is not.
#[test]
fn rows_beyond_the_position_are_said_to_be_there_until_they_are_restored_again() {
    let directory = tempfile::tempdir().unwrap();
    let specs = [keys("store")];
    {
        let memory = Memory::new(0);
        let mut stores = Stores::open(Some(directory.path()), &specs, &memory).unwrap();
        stores.begin_bulk("store").unwrap();
        stores
            .restore("store", [(&b"a"[..], Some(&b"1"[..]))], 5)
            .unwrap();
        stores.finish_bulk("store").unwrap();
        assert_eq!(stores.ahead("store"), None);
    }
    {
        let path = directory.path().join("rocksdb");
        let database =
            rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, ["store/store"]).unwrap();
        database.put("ahead/store", 9i64.to_be_bytes()).unwrap();
        let family = database.cf_handle("store/store").unwrap();
        database.put_cf(family, b"b", b"early").unwrap();
    }
    let mut stores = open(directory.path(), &specs).unwrap();
    assert_eq!(stores.positions().offset("store"), Some(5));
    assert_eq!(stores.ahead("store"), Some(9));
    stores.begin_bulk("store").unwrap();
    stores
        .restore("store", [(&b"b"[..], Some(&b"2"[..]))], 9)
        .unwrap();
    stores.finish_bulk("store").unwrap();
    assert_eq!(stores.ahead("store"), None);
    drop(stores);
    let stores = open(directory.path(), &specs).unwrap();
    assert_eq!(stores.ahead("store"), None);
    assert_eq!(stores.positions().offset("store"), Some(9));
    assert_eq!(count(&*stores.key_value("store").unwrap()), 2);
}

/// What was not synced goes, from the end: the log being written is cut anywhere. (Older logs were synced before a
/// flush, as were the table files.)
#[test]
fn a_loss_of_power_leaves_exactly_one_commit() {
    let memory = Memory::new(0);
    let before = tempfile::tempdir().unwrap();
    let mut stores = Stores::open(Some(before.path()), &scene::specs(), &memory).unwrap();
    let database = before.path().join("rocksdb");
    let newest = |extension: &str| {
        let files = fs::read_dir(&database)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .filter(|file| file.extension().is_some_and(|found| found == extension))
            .max()
    };
    let log_bytes = || fs::metadata(newest("log").unwrap()).unwrap().len();
    // Until some of it was flushed and a good part is in the log.
    for number in 1.. {
        scene::write(&stores, number);
        stores.commit(&scene::positions(number)).unwrap();
        if number > 700 && log_bytes() > 200_000 {
            break;
        }
    }
    drop(stores);

    assert!(newest("sst").is_some(), "nothing was flushed before");
    let (log, log_bytes) = (newest("log").unwrap(), log_bytes());
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let after = tempfile::tempdir().unwrap();
        let copy = after.path().join("rocksdb");
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(&database).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let cut = copy.join(log.file_name().unwrap());
        let kept = next_random(&mut seed) % log_bytes;
        fs::OpenOptions::new()
            .write(true)
            .open(cut)
            .unwrap()
            .set_len(kept)
            .unwrap();

        let stores = Stores::open(Some(after.path()), &scene::specs(), &memory).unwrap();
        let number = scene::at(&stores);
        scene::check(&stores, number);
        found.insert(number);
    }
    assert!(
        found.len() > 4,
        "only commits {found:?} were found, the cuts met nothing"
    );
}

//! Options, and the memory they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DataBlockIndexType, InfoLogger, LogLevel, Options,
    WriteBufferManager,
};

/// No budget goes below this: RocksDB needs a few blocks and one small memtable to work at all.
const BUDGET_BYTES_MIN: usize = 4 << 20;

/// A memtable is flushed at this size, or earlier when the budget says so.
const MEMTABLE_BYTES_MAX: usize = 16 << 20;

/// Smaller runs of restored rows make too many files, larger ones are not sorted quicker.
const RUN_BYTES_MIN: usize = 1 << 20;
const RUN_BYTES_MAX: usize = 16 << 20;

/// Open files of one database. State of a task is a few dozen files; more than this are opened and closed as needed.
const OPEN_FILES_MAX: i32 = 128;

/// The budget of all persistent stores of a process (`state.memory.max.bytes`): blocks, indexes and filters that
/// were read, and memtables that were not flushed yet.
///
/// Cloning shares it. Uncommitted writes are not in it: [`Stores::uncommitted_bytes`](crate::Stores::uncommitted_bytes)
/// counts those.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    cache: Cache,
    memtables: WriteBufferManager,
    bytes_max: usize,
    /// Stores that are being restored in bulk.
    bulks: AtomicUsize,
}

/// The room that one of the stores has which are restored in bulk at the same time.
pub(super) struct BulkShare(Memory);

impl BulkShare {
    /// How large a run of rows may become. Two of them, and what they are written with, are about half of the budget, all stores together:
    /// what memtables may take of it, which are empty then.
    pub(super) fn run_bytes(&self) -> usize {
        let Shared {
            bytes_max, bulks, ..
        } = &*self.0.0;
        let bulks = bulks.load(Ordering::Relaxed).max(1);
        (bytes_max / 4 / bulks).clamp(RUN_BYTES_MIN, RUN_BYTES_MAX)
    }
}

impl Drop for BulkShare {
    fn drop(&mut self) {
        self.0.0.bulks.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// A budget in bytes; at least 4 MiB are used. Half of it may be memtables, and what they take, blocks give.
    pub fn new(bytes_max: usize) -> Memory {
        let bytes_max = bytes_max.max(BUDGET_BYTES_MIN);
        let cache = Cache::new_lru_cache(bytes_max);
        Memory(Arc::new(Shared {
            // Stalling writers could block a task on a flush of another; flushes begin well before the limit.
            memtables: WriteBufferManager::new_write_buffer_manager_with_cache(
                bytes_max / 2,
                false,
                cache.clone(),
            ),
            cache,
            bytes_max,
            bulks: AtomicUsize::new(0),
        }))
    }

    /// The budget in bytes.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// What is in use, in bytes.
    pub fn bytes_used(&self) -> usize {
        self.0.cache.get_usage()
    }

    pub(super) fn bulk_share(&self) -> BulkShare {
        self.0.bulks.fetch_add(1, Ordering::Relaxed);
        BulkShare(self.clone())
    }

    fn memtable_bytes_max(&self) -> usize {
        (self.0.bytes_max / 8).clamp(1 << 20, MEMTABLE_BYTES_MAX)
    }
}

/// Options of a database.
pub(super) fn database(memory: &Memory) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&memory.0.memtables);
    // Two threads for the whole process: one compacts while one flushes.
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    // A restart replays at most this much.
    options.set_max_total_wal_size((2 * memory.memtable_bytes_max()) as u64);
    // Writes to the log in order, and no statistics, and no LOG file: warnings go to tracing.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_info_logger(InfoLogger::new_callback_logger(
        LogLevel::Warn,
        |level, message| match level {
            LogLevel::Warn => {
                tracing::warn!(target: "brooklet_state_stores::rocksdb", "{}", message.trim_end())
            }
            _ => {
                tracing::error!(target: "brooklet_state_stores::rocksdb", "{}", message.trim_end())
            }
        },
    ));
    options
}

/// Options of the column family of a store.
///
/// ## Level compaction, not universal
/// Kafka Streams uses universal: fewer bytes written, but now and then a store is rewritten whole, at twice its size on
/// disk and with the threads busy for as long. Here commits are deduplicated before they arrive, so there is less to
/// write, and level compaction works in small steps with a tenth of the space. The price is more bytes written for
/// stores far larger than memory.
pub(super) fn column(memory: &Memory) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks(memory));
    options.set_compression_type(DBCompressionType::Lz4);
    // Files of the first level live short, and what writes them is waited for by a restoration.
    options.set_compression_per_level(&[DBCompressionType::None, DBCompressionType::Lz4]);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_write_buffer_size(memory.memtable_bytes_max());
    options.set_max_write_buffer_number(3);
    options.set_arena_block_size(256 << 10);
    // A read of a key that is not there, the first of each key, ends at the memtable's filter.
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    options.set_target_file_size_base(32 << 20);
    options.set_max_bytes_for_level_base(128 << 20);
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_SLOWDOWN);
    options.set_level_zero_stop_writes_trigger(LEVEL_0_STOP);
    options
}

fn blocks(memory: &Memory) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&memory.0.cache);
    blocks.set_block_size(8 << 10);
    // A hash index in each block: tasks read single keys far more than ranges.
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    // Indexes and filters count in the budget too.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(6);
    blocks
}

/// Options of the table files that a store is restored with in bulk. They live short too, as those of the first level do.
pub(super) fn restored(memory: &Memory) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks(memory));
    options.set_compression_type(DBCompressionType::None);
    options
}

/// From how many files of the first level on a store's writes are slowed down, and stopped until some are merged. Above what a restoration
/// in bulk leaves: the commits after it do not wait until that is merged.
const LEVEL_0_SLOWDOWN: i32 = 64;
const LEVEL_0_STOP: i32 = 96;

/// When a store's files of the first level are merged: as RocksDB has it by default.
pub(super) const LEVEL_0: [(&str, &str); 1] = [("level0_file_num_compaction_trigger", "4")];

/// And while much is restored: later, in fewer and larger steps. Nobody reads meanwhile.
pub(super) const LEVEL_0_BULK: [(&str, &str); 1] = [("level0_file_num_compaction_trigger", "32")];

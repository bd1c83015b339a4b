//! What the fuzz targets share: an allocator that counts, so that "no allocation beyond the bytes received" is asserted and not hoped for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what this thread has allocated, whether or not it was freed again.
pub struct Counting;

thread_local! {
    static ALLOCATED_BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // While a thread ends its counter is gone.
    let _ = ALLOCATED_BYTES.try_with(|allocated| allocated.set(allocated.get() + bytes as u64));
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size.saturating_sub(layout.size()));
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// In memory an element of a message is larger than its bytes on the wire, by this factor at the most (measured by these targets).
const BYTES_PER_BYTE_MAX: u64 = 512;
/// What decoding may need apart from its input: tables, buffers of decompressors.
const BYTES_BESIDE_MAX: u64 = 64 << 10;

/// Runs `work` on an input of so many bytes and asserts that what it allocated, in total, is in proportion to them.
pub fn in_proportion<T>(input_bytes: usize, what: &str, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATED_BYTES.with(Cell::get);
    let result = work();
    let allocated = ALLOCATED_BYTES.with(Cell::get) - before;
    let allowed = input_bytes as u64 * BYTES_PER_BYTE_MAX + BYTES_BESIDE_MAX;
    assert!(
        allocated <= allowed,
        "{what}: {allocated} bytes allocated for {input_bytes} received"
    );
    result
}

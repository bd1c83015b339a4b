//! Points at which a crash test kills the process. Without the feature `fault-points` there are none, and this costs nothing.
//!
//! A program arms one by name ([`arm`]); the process then ends there as by kill -9: no destructor runs and nothing is flushed.

/// A place that a crash may fall on; see docs/design/exactly-once.md.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub(crate) fn point(_name: &'static str) {}

/// Whether a transaction is to fail here. Without points none is.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub(crate) fn undoes() -> bool {
    false
}

/// Says that there are no points to arm: the library was built without them.
#[cfg(not(feature = "fault-points"))]
pub fn arm(_name: &str, _passing: u64) -> bool {
    false
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    struct Armed {
        name: String,
        /// The passing at which the process ends, from one.
        passing: u64,
        passed: AtomicU64,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();
    static ENDING: Mutex<()> = Mutex::new(());

    /// Ends the process by SIGKILL when it comes to the point `name` for the `passing`th time. Only the first call of a process counts.
    /// Whether there is such a point.
    pub fn arm(name: &str, passing: u64) -> bool {
        let points = [
            super::POINTS,
            super::RESTORATION_POINTS,
            super::UNDOING_POINTS,
        ];
        let known = points.iter().any(|points| points.contains(&name));
        known
            && ARMED
                .set(Armed {
                    name: name.to_owned(),
                    passing: passing.max(1),
                    passed: AtomicU64::new(0),
                })
                .is_ok()
    }

    /// Of the times that records were processed the first, and every so many, when undoing is to be cut off.
    const UNDONE_EVERY: u64 = 2;

    static PROCESSED: AtomicU64 = AtomicU64::new(0);

    /// Whether a transaction is to fail here: where a crash is to fall on its undoing, nothing else might begin one.
    pub(crate) fn undoes() -> bool {
        let armed = ARMED.get();
        armed.is_some_and(|armed| super::UNDOING_POINTS.contains(&&*armed.name))
            && PROCESSED
                .fetch_add(1, Ordering::SeqCst)
                .is_multiple_of(UNDONE_EVERY)
    }

    /// A place that a crash may fall on.
    pub(crate) fn point(name: &'static str) {
        let Some(armed) = ARMED.get() else { return };
        if armed.name == name && armed.passed.fetch_add(1, Ordering::SeqCst) + 1 == armed.passing {
            let _one = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
            // SIGKILL does not return; if it could not be sent, nothing more may run here either.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            std::process::abort();
        }
    }
}

#[cfg(feature = "fault-points")]
pub use armed::arm;
#[cfg(feature = "fault-points")]
pub(crate) use armed::{point, undoes};

/// The points at which a restoration is cut off: a piece of a changelog was taken; all of a store's was.
pub const RESTORATION_POINTS: &[&str] = &["restoring", "restored"];

/// The points at which the undoing of a transaction is cut off: it is aborted; the tasks are open again. While one is armed, transactions fail.
pub const UNDOING_POINTS: &[&str] = &["transaction-aborted", "tasks-reopened"];

/// The points of this library, in the order in which a commit comes to them.
pub const POINTS: &[&str] = &[
    "processed",
    "caches-flushed",
    "output-acknowledged",
    "offsets-sent",
    "before-commit",
    "commit-asked",
    "transaction-committed",
    "stores-committed",
];

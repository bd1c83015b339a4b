//! SIGINT and SIGTERM stop the application cleanly.

use std::thread;

use crate::error::StreamsError;

use super::streams::StopHandle;

/// From now on, SIGINT and SIGTERM call `stop`; a second one ends the process at once, whatever is not committed. The thread that waits
/// for them has a small runtime of its own, so this works with and without a tokio runtime around.
pub(crate) fn stop_on_signal(stop: StopHandle) -> Result<(), StreamsError> {
    let failed = |error: std::io::Error| {
        StreamsError::Other(format!("signals cannot be waited for: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    // Registered here, so that a signal that comes as soon as this returns is not missed.
    let mut signals = {
        let _entered = runtime.enter();
        Signals::register().map_err(failed)?
    };
    thread::Builder::new()
        .name("brooklet-signals".to_owned())
        .spawn(move || {
            runtime.block_on(signals.next());
            tracing::info!("stopping; a second signal ends the process at once");
            stop.stop();
            runtime.block_on(signals.next());
            std::process::exit(130);
        })
        .map_err(failed)?;
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn register() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Without SIGTERM, the interrupt alone.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn register() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // When it cannot be waited for, nothing stops the program but its caller.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

//! SIGINT and SIGTERM stop the application cleanly.

use std::thread;

use crate::error::StreamsError;

use super::streams::StopHandle;

/// From now on, SIGINT and SIGTERM call `stop`. The thread that waits for them has a small runtime of its own, so this works with
/// and without a tokio runtime around.
pub(crate) fn stop_on_signal(stop: StopHandle) -> Result<(), StreamsError> {
    let failed = |error: std::io::Error| {
        StreamsError::Other(format!("signals cannot be waited for: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    thread::Builder::new()
        .name("brooklet-signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                #[cfg(unix)]
                {
                    use tokio::signal::unix::{SignalKind, signal};
                    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
                        tokio::select! {
                            _ = tokio::signal::ctrl_c() => {}
                            _ = terminate.recv() => {}
                        }
                        return;
                    }
                }
                // Without SIGTERM, the interrupt alone.
                let _ = tokio::signal::ctrl_c().await;
            });
            tracing::info!("stopping");
            stop.stop();
        })
        .map_err(failed)?;
    Ok(())
}

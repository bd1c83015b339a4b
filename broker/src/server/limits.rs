//! What all connections share: how many there may be, and the bytes of requests and answers that may be held for them.
//!
//! - Requests: a large frame takes its bytes from a pool before it is read, a small one when it is pipelined behind an unanswered one; it gives
//!   them back when its answer is written. When the pool is empty nothing more is read: the senders wait, the memory does not grow. The first
//!   small request of a connection is always read, so that nobody is shut out by others.
//! - Answers: fetches may be large, and their size is known only when they are read. While the answers that are not written hold more than the
//!   bound, no fetch is begun; a peer that takes nothing meanwhile loses its connection. What is sent from a file is held by nobody, and not counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::broker::Broker;
use crate::config::BrokerConfig;

/// Frames up to this size are read without a share of the pool, unless they are pipelined.
pub(super) const SMALL_FRAME_BYTES: usize = 64 * 1024;

/// The shared bounds of one server.
pub(super) struct Limits {
    broker: Broker,
    connections: Mutex<Connections>,
    request_bytes: Arc<Semaphore>,
    request_bytes_max: usize,
    response_bytes_max: i64,
    response_bytes_freed: Notify,
    /// How long a peer that holds memory may do nothing.
    pub(super) stall: Duration,
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Connections {
    count: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// Why a connection is closed at once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooMany {
    #[error("max.connections reached: {0}")]
    Connections(usize),
    #[error("max.connections.per.ip reached: {0}")]
    PerIp(usize),
}

impl Connections {
    fn admit(&mut self, ip: IpAddr, config: &BrokerConfig) -> Result<(), TooMany> {
        if self.count >= config.connections_max {
            return Err(TooMany::Connections(self.count));
        }
        let max = config
            .connections_per_ip_max_overrides
            .get(&ip)
            .copied()
            .unwrap_or(config.connections_per_ip_max);
        let count = self.per_ip.get(&ip).copied().unwrap_or(0);
        if count >= max {
            return Err(TooMany::PerIp(count));
        }
        self.count += 1;
        *self.per_ip.entry(ip).or_default() += 1;
        Ok(())
    }

    fn leave(&mut self, ip: IpAddr) {
        self.count -= 1;
        if let Entry::Occupied(mut entry) = self.per_ip.entry(ip) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Limits {
    pub(super) fn new(broker: Broker) -> Arc<Self> {
        let config = broker.config();
        let request_bytes_max = config
            .request_bytes_queued_max
            .clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            connections: Mutex::default(),
            request_bytes: Arc::new(Semaphore::new(request_bytes_max)),
            request_bytes_max,
            response_bytes_max: i64::try_from(config.response_bytes_queued_max).unwrap_or(i64::MAX),
            response_bytes_freed: Notify::new(),
            stall: Duration::from_millis(u64::try_from(config.stall_ms_max).unwrap_or(u64::MAX)),
            broker,
        })
    }

    /// A place among the connections, given back when it is dropped.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Place, TooMany> {
        let admitted = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(ip, self.broker.config());
        let metrics = self.broker.metrics();
        match admitted {
            Ok(()) => metrics.connections_opened.fetch_add(1, Ordering::Relaxed),
            Err(_) => metrics.connections_refused.fetch_add(1, Ordering::Relaxed),
        };
        admitted.map(|()| Place {
            limits: self.clone(),
            ip,
        })
    }

    /// Waits for a share of the pool of request bytes. A request larger than the pool takes all of it.
    pub(super) async fn request(self: &Arc<Self>, bytes: usize) -> Option<RequestBytes> {
        let share = bytes.min(self.request_bytes_max);
        // Frames are shorter than i32 can say.
        let permits = u32::try_from(share).unwrap_or(u32::MAX);
        let permit = self.request_bytes.clone().acquire_many_owned(permits);
        // The semaphore is never closed.
        let permit = permit.await.ok()?;
        let held = i64::from(permits);
        let queued = &self.broker.metrics().request_bytes_queued;
        queued.fetch_add(held, Ordering::Relaxed);
        Some(RequestBytes {
            limits: self.clone(),
            held,
            _permit: permit,
        })
    }

    /// Whether answers hold more than they may.
    pub(super) fn is_full_of_answers(&self) -> bool {
        self.queued().load(Ordering::Acquire) > self.response_bytes_max
    }

    /// Waits until answers hold less than they may.
    pub(super) async fn room_for_an_answer(&self) {
        loop {
            let freed = self.response_bytes_freed.notified();
            tokio::pin!(freed);
            // Listening before looking: what is freed in between is not missed.
            freed.as_mut().enable();
            if !self.is_full_of_answers() {
                return;
            }
            freed.await;
        }
    }

    /// Counts an answer until the guard is dropped.
    pub(super) fn answer(self: &Arc<Self>, bytes: usize) -> Option<AnswerBytes> {
        let held = i64::try_from(bytes).unwrap_or(i64::MAX);
        (held > 0).then(|| {
            self.queued().fetch_add(held, Ordering::AcqRel);
            AnswerBytes {
                limits: self.clone(),
                held,
            }
        })
    }

    fn queued(&self) -> &AtomicI64 {
        &self.broker.metrics().response_bytes_queued
    }
}

/// A place among the connections.
pub(super) struct Place {
    limits: Arc<Limits>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .leave(self.ip);
        let closed = &self.limits.broker.metrics().connections_closed;
        closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A share of the pool of request bytes.
pub(super) struct RequestBytes {
    limits: Arc<Limits>,
    held: i64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for RequestBytes {
    fn drop(&mut self) {
        let queued = &self.limits.broker.metrics().request_bytes_queued;
        queued.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// The bytes of an answer that is not written yet.
pub(super) struct AnswerBytes {
    limits: Arc<Limits>,
    held: i64,
}

impl Drop for AnswerBytes {
    fn drop(&mut self) {
        self.limits.queued().fetch_sub(self.held, Ordering::AcqRel);
        self.limits.response_bytes_freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let mut config = BrokerConfig::new("d");
        config.connections_max = 4;
        config.connections_per_ip_max = 2;
        let [one, two, three]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap());
        config.connections_per_ip_max_overrides = [(three, 0)].into();
        let mut connections = Connections::default();
        assert_eq!(connections.admit(three, &config), Err(TooMany::PerIp(0)));
        assert_eq!(connections.admit(one, &config), Ok(()));
        assert_eq!(connections.admit(one, &config), Ok(()));
        assert_eq!(connections.admit(one, &config), Err(TooMany::PerIp(2)));
        assert_eq!(connections.admit(two, &config), Ok(()));
        assert_eq!(connections.admit(two, &config), Ok(()));
        assert_eq!(
            connections.admit(two, &config),
            Err(TooMany::Connections(4))
        );
        connections.leave(one);
        assert_eq!(connections.admit(one, &config), Ok(()));
        for ip in [one, one, two, two] {
            connections.leave(ip);
        }
        assert!(connections.per_ip.is_empty() && connections.count == 0);
    }
}

//! Keys of windowed results: `key ‖ window start in ms (8 bytes, big-endian)`, as Kafka Streams' `TimeWindowedSerializer` writes them.

use std::fmt;

use super::{Deserializer, HasSerde, Payload, SerdeError, Serializer, SharedSerde, default_serde};

/// How many bytes follow the key.
const START_BYTES: usize = 8;

/// A span of event time, in milliseconds since the epoch: from `start`, inclusive, to `end`, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    /// First millisecond.
    pub start: i64,
    /// Millisecond after the last.
    pub end: i64,
}

impl Window {
    /// The window of `size_ms` that starts at `start`; its end stops at the end of time.
    pub fn starting_at(start: i64, size_ms: i64) -> Self {
        Self {
            start,
            end: start.saturating_add(size_ms),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.end)
    }
}

/// A key in a window. Prints as Kafka's `Windowed`: `[key@start/end]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
}

impl<K> Windowed<K> {
    /// `key` in `window`.
    pub fn new(key: K, window: Window) -> Self {
        Self { key, window }
    }
}

impl<K: fmt::Display> fmt::Display for Windowed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}@{}]", self.key, self.window)
    }
}

/// The serde of [`Windowed`] keys of windows of one size. Only the start is written: who reads must know the size.
#[derive(Clone)]
pub struct TimeWindowed<K> {
    key: SharedSerde<K>,
    size_ms: i64,
}

impl<K> TimeWindowed<K> {
    /// Windows of `size_ms` milliseconds over keys of `key`.
    pub fn new(key: SharedSerde<K>, size_ms: i64) -> Self {
        Self { key, size_ms }
    }
}

/// Windows whose size is not known: they are written as any, and read with the end of time as their end, as Kafka Streams does.
impl<K: HasSerde> Default for TimeWindowed<K> {
    fn default() -> Self {
        Self::new(default_serde(), i64::MAX)
    }
}

impl<K: HasSerde> HasSerde for Windowed<K> {
    type Serde = TimeWindowed<K>;
}

impl<K: 'static> Serializer<Windowed<K>> for TimeWindowed<K> {
    fn serialize(
        &self,
        topic: &str,
        value: &Windowed<K>,
        out: &mut Vec<u8>,
    ) -> Result<(), SerdeError> {
        self.key.serialize(topic, &value.key, out)?;
        out.extend_from_slice(&value.window.start.to_be_bytes());
        Ok(())
    }

    fn is_null(&self, value: &Windowed<K>) -> bool {
        self.key.is_null(&value.key)
    }

    fn unpartitioned_bytes(&self) -> usize {
        START_BYTES
    }
}

impl<K: 'static> Deserializer<Windowed<K>> for TimeWindowed<K> {
    fn deserialize(&self, topic: &str, data: Payload<'_>) -> Result<Windowed<K>, SerdeError> {
        let Some((key, start)) = data.as_slice().split_last_chunk::<START_BYTES>() else {
            return Err(SerdeError::new(format_args!(
                "windowed key ends in {START_BYTES} bytes of window start, found {} bytes",
                data.len()
            )));
        };
        let start = i64::from_be_bytes(*start);
        if start < 0 {
            return Err(SerdeError::new(format_args!(
                "windowed key has a window start of {start} ms, want 0 or more"
            )));
        }
        let key = self.key.deserialize(topic, data.narrowed(key))?;
        Ok(Windowed {
            key,
            window: Window::starting_at(start, self.size_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::serde::default_serde;

    #[test]
    fn the_key_comes_first_then_the_start_of_the_window() {
        let serde = TimeWindowed::new(default_serde::<String>(), 100);
        let key = Windowed::new(
            "k".to_owned(),
            Window {
                start: 258,
                end: 358,
            },
        );
        let mut out = Vec::new();
        serde.serialize("topic", &key, &mut out).unwrap();
        assert_eq!(out, [b'k', 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(
            serde.deserialize("topic", Payload::from(&out[..])).unwrap(),
            key
        );
        assert_eq!(key.to_string(), "[k@258/358]");
    }

    #[test]
    fn the_default_serde_reads_windows_without_end() {
        let serde = default_serde::<Windowed<String>>();
        let mut out = Vec::new();
        serde
            .serialize(
                "topic",
                &Windowed::new(
                    "k".to_owned(),
                    Window {
                        start: 258,
                        end: 358,
                    },
                ),
                &mut out,
            )
            .unwrap();
        let read = serde.deserialize("topic", Payload::from(&out[..])).unwrap();
        assert_eq!(
            read,
            Windowed::new(
                "k".to_owned(),
                Window {
                    start: 258,
                    end: i64::MAX
                }
            )
        );
    }

    #[test]
    fn a_short_or_negative_start_is_an_error() {
        let serde = TimeWindowed::new(default_serde::<String>(), 100);
        let error = serde
            .deserialize("topic", Payload::from(&[0; 7][..]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "windowed key ends in 8 bytes of window start, found 7 bytes"
        );
        let error = serde
            .deserialize("topic", Payload::from(&[0xff; 8][..]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "windowed key has a window start of -1 ms, want 0 or more"
        );
    }

    #[test]
    fn the_end_stops_at_the_end_of_time() {
        assert_eq!(Window::starting_at(i64::MAX - 1, 10).end, i64::MAX);
    }

    #[test]
    fn a_bytes_key_shares_the_fetched_batch() {
        let batch = Bytes::from_static(b"key\0\0\0\0\0\0\0\x01");
        let serde = TimeWindowed::new(default_serde::<Bytes>(), 1);
        let read = serde
            .deserialize("topic", Payload::shared(&batch, &batch))
            .unwrap();
        assert_eq!(read.key.as_ptr(), batch.as_ptr());
    }
}

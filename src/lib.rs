//! Kafka Streams for Rust, with its own Kafka-compatible, log-compacting broker.
//!
//! An application is a topology ([`StreamsBuilder`](prelude::StreamsBuilder)), a cluster ([`Cluster`]) and [`Streams`], which runs the one on the other:
//!
//! ```
//! use brooklet::prelude::*;
//! use brooklet::topics::{self, NewTopic, TopicWriter};
//!
//! # let directory = tempfile::tempdir()?;
//! # let data = directory.path();
//! let cluster = Cluster::embedded(data.join("broker"));      // or Cluster::kafka("host:9092")
//! topics::create(&cluster, &[NewTopic::new("lines", 1), NewTopic::new("counts", 1)])?;
//! let mut lines = TopicWriter::<String, String>::new(&cluster, "lines", Produced::default())?;
//! lines.send(&Record::new("hamlet".to_owned(), "to be or not to be".to_owned(), 0))?;
//! lines.flush()?;
//!
//! let builder = StreamsBuilder::new();
//! builder
//!     .stream::<String, String>("lines", Consumed::default())
//!     .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
//!     .group_by(|_, word| word.clone())
//!     .count(Materialized::default())
//!     .to_stream()
//!     .to("counts", Produced::default());
//!
//! let streams = Streams::new("word-count", builder.build()?)
//!     .cluster(cluster.clone())
//!     .state_dir(data.join("state"))
//!     .set("commit.interval.ms", "100")
//!     .start()?;
//! streams.wait_until_caught_up(std::time::Duration::from_secs(60))?; // a service calls run_until_stopped()
//! streams.stop()?;
//!
//! let mut counts = std::collections::BTreeMap::new();
//! topics::read(&cluster, "counts", &Consumed::<String, i64>::default(), |_, _, count| {
//!     counts.insert(count.key, count.value);
//! })?;
//! assert_eq!(counts["be"], 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The map of the project is in `docs/ARCHITECTURE.md`.

mod cluster;
mod embedded;

pub use brooklet_streams_core::{
    ProcessError, Record, StreamsError, avro_serde, clock, json_serde, processor, serde,
    test_driver, typed_store,
};
pub use brooklet_streams_core::{RunningStreams, State, StopHandle, Streams};
pub use cluster::{Cluster, Flush};

/// Points at which crash tests kill the process; see `docs/design/exactly-once.md`.
#[doc(hidden)]
pub mod fault {
    pub use brooklet_broker::fault::POINTS as BROKER_POINTS;
    pub use brooklet_streams_core::fault::{POINTS, RESTORATION_POINTS, UNDOING_POINTS};

    /// Ends the process by SIGKILL when it comes to the point `name` for the `passing`th time. Whether there is such a point.
    pub fn arm(name: &str, passing: u64) -> bool {
        brooklet_streams_core::fault::arm(name, passing)
            || brooklet_broker::fault::arm(name, passing)
    }
}

/// Topics from outside of a topology: create them, write typed records, read them to their end.
pub mod topics {
    pub use brooklet_streams_core::client::NewTopic;
    pub use brooklet_streams_core::runtime::topics::{
        TopicWriter, create, end_offsets, read, request,
    };
}

/// What an application's `main` returns.
pub type Result<T, E = StreamsError> = std::result::Result<T, E>;

/// What most programs use.
pub mod prelude {
    pub use brooklet_streams_core::config::{ErrorResponse, ProcessingGuarantee};
    pub use brooklet_streams_core::serde::{
        Avro, HasSerde, Json, Serde, TimeWindowed, Windowed, default_serde,
    };
    pub use brooklet_streams_core::topology::{AutoOffsetReset, Consumed, Produced, Topology};
    pub use brooklet_streams_core::{
        Headers, ProcessError, Record, RunningStreams, Streams, StreamsError,
    };
    pub use brooklet_streams_dsl::*;

    pub use crate::cluster::{Cluster, Flush};
}

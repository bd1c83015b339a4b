//! `KStream`: a stream of independent records.
//!
//! | question | file |
//! |---|---|
//! | what a handle is, `process` | here |
//! | operators that look at one record, `merge`, `split` | `stateless.rs` |
//! | grouping by key | `grouping.rs` |
//! | joins with tables | `joins.rs` |
//! | writing to topics, repartitioning | `topics.rs` |

mod grouping;
mod joins;
mod stateless;
mod topics;

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorSupplier};
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::SharedSerde;

use crate::plan::naming;
use crate::plan::{Handle, Lower, NodeKind};

pub(crate) use topics::RepartitionTopic;

/// A stream of independent records: a nameable, cheaply cloned handle on a node of the plan.
///
/// `K` and `V` mean present. A stream that carries nulls has `Option<K>` or `Option<V>`; a null read into a type without null drops the
/// record, which is counted. Every operator makes a new node below this one, so a stream can be used more than once:
///
/// ```
/// use brooklet_streams_dsl::{Consumed, KStream, Produced, StreamsBuilder};
///
/// fn shout(words: &KStream<String, String>) -> KStream<String, String> {
///     words.map_values(|_key, word| word.to_uppercase())
/// }
///
/// # fn main() -> Result<(), brooklet_streams_dsl::TopologyError> {
/// let builder = StreamsBuilder::new();
/// let words = builder.stream::<String, String>("words", Consumed::default());
/// shout(&words).to("loud", Produced::default());
/// words.filter(|_key, word| word.len() < 4).to("short", Produced::default());
/// let topology = builder.build()?;
/// assert!(topology.describe().to_string().contains("--> KSTREAM-FILTER-0000000003, KSTREAM-MAPVALUES-0000000001"));
/// # Ok(())
/// # }
/// ```
pub struct KStream<K, V> {
    pub(crate) at: Handle,
    /// Known from where the keys were read or grouped.
    pub(crate) key: Option<SharedSerde<K>>,
    /// Known from where the values were read.
    pub(crate) value: Option<SharedSerde<V>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            at: self.at.clone(),
            key: self.key.clone(),
            value: self.value.clone(),
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for KStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KStream")
            .field(&self.at.plan().node(self.at.id()).name.as_str())
            .finish()
    }
}

/// What `for_each` leaves: nothing follows, but it can be named.
pub struct Terminal(Handle);

impl Terminal {
    /// Names the node.
    pub fn named(self, name: impl Into<String>) {
        self.0.plan().give_name(self.0.id(), name.into());
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Terminal")
            .field(&self.0.plan().node(self.0.id()).name.as_str())
            .finish()
    }
}

/// Any closure's error as the one that the engine reports.
fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> ProcessError {
    ProcessError::new(error)
}

impl<K: Datum, V: Datum> KStream<K, V> {
    pub(crate) fn new(
        at: Handle,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
    ) -> Self {
        Self {
            at,
            key,
            value,
            types: PhantomData,
        }
    }

    /// Names the node that the last call made, in `describe()`, metrics and errors. Otherwise it is called as Kafka Streams calls it.
    pub fn named(self, name: impl Into<String>) -> Self {
        self.at.plan().give_name(self.at.id(), name.into());
        self
    }

    /// A child node with this processor.
    fn child<K2: Datum, V2: Datum, P>(
        &self,
        kind: NodeKind,
        prefix: &str,
        supplier: impl Fn() -> P + Send + Sync + 'static,
    ) -> Handle
    where
        P: Processor<K, V, K2, V2>,
    {
        self.at.child(kind, prefix, declare(supplier))
    }

    /// Runs a processor of the Processor API on the stream, with stores that were added to the builder (KIP-820). The keys it forwards count as
    /// new.
    pub fn process<K2: Datum, V2: Datum, S>(&self, supplier: S, stores: &[&str]) -> KStream<K2, V2>
    where
        S: ProcessorSupplier<K, V, K2, V2>,
    {
        let supplier = Arc::new(supplier);
        let stores: Vec<String> = stores.iter().map(|store| (*store).to_owned()).collect();
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let supplier = Arc::clone(&supplier);
            let node = lowering.add_processor::<K, V, K2, V2>(
                id,
                move || supplier.processor(),
                &[parent],
                None,
            )?;
            let stores: Vec<&str> = stores.iter().map(String::as_str).collect();
            lowering.topology.connect(node, &stores)
        });
        KStream::new(
            self.at.child(NodeKind::NewKey, naming::PROCESSOR, lower),
            None,
            None,
        )
    }
}

/// Declares a processor below a node's only parent.
pub(crate) fn declare<K: Datum, V: Datum, K2: Datum, V2: Datum, P>(
    supplier: impl Fn() -> P + Send + Sync + 'static,
) -> Lower
where
    P: Processor<K, V, K2, V2>,
{
    let supplier = Arc::new(supplier);
    Arc::new(move |id, lowering| {
        let parent = lowering.parent::<K, V>(id)?;
        let supplier = Arc::clone(&supplier);
        lowering.add_processor::<K, V, K2, V2>(id, move || supplier(), &[parent], None)?;
        Ok(())
    })
}

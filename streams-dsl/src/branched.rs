//! `split`: a stream into branches, each a stream of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use brooklet_streams_core::record::Datum;

use crate::kstream::{KStream, declare};
use crate::operators::pass_through::PassThrough;
use crate::operators::split::{Predicate, Split};
use crate::outcome::Verdict;
use crate::plan::naming::{self, Name};
use crate::plan::{Handle, Lower, NodeKind};

/// What [`KStream::split`] returns: add branches, then end with one of the `…default_branch` methods.
///
/// Each record goes to the first branch that accepts it. The result maps each branch's name to its stream: the splitter's name with the branch's
/// name, or its number counted from 1 (0 for the default branch), behind it (KIP-418).
///
/// ```
/// use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
///
/// let builder = StreamsBuilder::new();
/// let orders = builder.stream::<String, i64>("orders", Consumed::default());
/// let branches = orders.split().named("by-size-").branch_as("large", |_key, pieces| *pieces > 100).default_branch_as("small");
/// branches["by-size-large"].to("large-orders", Produced::default());
/// branches["by-size-small"].to("small-orders", Produced::default());
/// ```
pub struct SplitStream<K, V> {
    source: KStream<K, V>,
    splitter: Handle,
    branches: SharedBranches<K, V>,
    streams: BTreeMap<String, KStream<K, V>>,
}

/// What the splitter needs to know when the topology is built, after all branches were added.
type SharedBranches<K, V> = Arc<Mutex<Branches<K, V>>>;

struct Branches<K, V> {
    predicates: Vec<Arc<Predicate<K, V>>>,
    has_default: bool,
}

impl<K: Datum, V: Datum> SplitStream<K, V> {
    pub(crate) fn new(source: KStream<K, V>) -> Self {
        let branches: SharedBranches<K, V> = Arc::new(Mutex::new(Branches {
            predicates: Vec::new(),
            has_default: false,
        }));
        let shared = Arc::clone(&branches);
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let (predicates, has_default) = {
                let branches = shared.lock().unwrap_or_else(PoisonError::into_inner);
                (
                    Arc::<[_]>::from(branches.predicates.as_slice()),
                    branches.has_default,
                )
            };
            let supplier = move || Split {
                predicates: Arc::clone(&predicates),
                has_default,
            };
            lowering.add_processor::<K, V, K, V>(id, supplier, &[parent], None)?;
            Ok(())
        });
        let splitter = source.at.child(NodeKind::SameKey, naming::BRANCH, lower);
        Self {
            source,
            splitter,
            branches,
            streams: BTreeMap::new(),
        }
    }

    /// Names the splitter: the first part of every branch's name. To be called before the branches are added.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.splitter
            .plan()
            .give_name(self.splitter.id(), name.into());
        self
    }

    /// The records that this predicate accepts and those of the earlier branches do not.
    #[must_use]
    pub fn branch<R: Verdict>(
        self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        let number = self.streams.len() + 1;
        self.branch_as(number.to_string(), predicate)
    }

    /// As [`SplitStream::branch`], under a name.
    #[must_use]
    pub fn branch_as<R: Verdict>(
        mut self,
        name: impl Into<String>,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        let predicate: Arc<Predicate<K, V>> =
            Arc::new(move |key, value| predicate(key, value).verdict());
        self.branches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .predicates
            .push(predicate);
        self.add(&name.into());
        self
    }

    /// Ends with a branch for all other records.
    pub fn default_branch(self) -> BTreeMap<String, KStream<K, V>> {
        self.default_branch_as("0")
    }

    /// As [`SplitStream::default_branch`], under a name.
    pub fn default_branch_as(mut self, name: impl Into<String>) -> BTreeMap<String, KStream<K, V>> {
        self.branches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .has_default = true;
        self.add(&name.into());
        self.streams
    }

    /// Ends; all other records are left out.
    pub fn no_default_branch(self) -> BTreeMap<String, KStream<K, V>> {
        self.streams
    }

    fn add(&mut self, suffix: &str) {
        let mut plan = self.splitter.plan();
        let name = format!("{}{suffix}", plan.node(self.splitter.id()).name.as_str());
        plan.names.node(naming::BRANCH);
        let lower = declare::<K, V, K, V, _>(|| PassThrough);
        let id = plan.add(
            NodeKind::SameKey,
            Name::automatic(name.clone()),
            vec![self.splitter.id()],
            lower,
        );
        drop(plan);
        let stream = KStream::new(
            self.splitter.at(id),
            self.source.key.clone(),
            self.source.value.clone(),
        );
        if self.streams.insert(name.clone(), stream).is_some() {
            self.splitter
                .plan()
                .report(format!("split has two branches of the name {name}"));
        }
    }
}

impl<K, V> fmt::Debug for SplitStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SplitStream")
            .field(&self.streams.keys())
            .finish()
    }
}

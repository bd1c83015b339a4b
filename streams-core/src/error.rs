//! What can go wrong, and what a caller would do differently.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use brooklet_state_stores::StoreError;

use crate::client::ClientError;

/// A failure while a record is processed: the user's closure or processor, a serde, or a store.
///
/// The engine adds the node's name where the error passes it first.
#[derive(Debug)]
pub struct ProcessError {
    /// Name of the node in which it happened, as `describe()` prints it.
    pub node: Option<Arc<str>>,
    source: Box<dyn Error + Send + Sync>,
}

impl ProcessError {
    /// Wraps any error, or a message.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            node: None,
            source: source.into(),
        }
    }

    /// Names the node, unless a node nearer to the cause has done so.
    #[must_use]
    pub fn at(mut self, node: &Arc<str>) -> Self {
        self.node.get_or_insert_with(|| Arc::clone(node));
        self
    }

    /// Whether no handler may let the task go on: a store or the producer has failed, so what was done so far is in doubt.
    pub(crate) fn is_final(&self) -> bool {
        let source: &(dyn Error + 'static) = &*self.source;
        // A typed store wraps what its bytes report in its name.
        std::iter::successors(Some(source), |&error| error.source())
            .any(|error| error.is::<ClientError>() || error.is::<StoreError>())
    }

    /// The cause.
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

// Not `std::error::Error`: so that `?` turns any error of a user's closure into a `ProcessError`.
impl<E: Error + Send + Sync + 'static> From<E> for ProcessError {
    fn from(source: E) -> Self {
        Self::new(source)
    }
}

/// Bytes that a serde could not read, or a value that it could not write.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SerdeError {
    message: String,
}

impl SerdeError {
    /// An error that says what was expected and what was found.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
        }
    }
}

/// A topology that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Two nodes, stores or internal topics of one name.
    #[error("{what} {name} is declared twice; give one of them another name")]
    Duplicate {
        /// node, store, topic
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that refers to nothing.
    #[error("{what} {name} is not declared in this topology")]
    Unknown {
        /// node, store
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A topic, node or store name outside `[a-zA-Z0-9._-]{{1,249}}`.
    #[error(
        "{name:?} is not a valid name: use 1 to 249 of the letters a-z, A-Z, digits, '.', '_' and '-'"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// Anything else that the declaration gets wrong; the message names the nodes.
    #[error("{0}")]
    Invalid(String),
}

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// The topology cannot be built or run.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A setting is wrong; the message names it.
    #[error("setting {name}: {message}")]
    Config {
        /// The setting's name, as Kafka spells it.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A state store.
    #[error(transparent)]
    Store(#[from] brooklet_state_stores::StoreError),
    /// The cluster, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A record could not be processed.
    #[error("task {task}, {topic}-{partition} at offset {offset}: {error}")]
    Process {
        /// The task, as `0_3`.
        task: String,
        /// Topic of the record.
        topic: String,
        /// Partition of the record.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// What happened, and in which node.
        error: ProcessError,
    },
    /// A task failed outside of a record: while it was built, in a punctuation, or in a commit.
    #[error("task {task}: {error}")]
    Task {
        /// The task, as `0_3`.
        task: String,
        /// What happened, and in which node.
        error: ProcessError,
    },
    /// Another instance of the application is running.
    #[error("{0}")]
    SecondInstance(String),
    /// Anything else; the message names the thing.
    #[error("{0}")]
    Other(String),
}

//! Features (KIP-584): what the broker could run at which level, and the level it runs at, as a fresh Kafka 4.3 cluster tells it.
//!
//! Clients read these: Java's producer takes the newer transaction protocol only where `transaction.version` is finalized at 2. The levels
//! of this broker are fixed: nothing is ever upgraded or downgraded. Left out are features of what is not served (`share.version`) or
//! needs several brokers (`eligible.leader.replicas.version`).

/// One feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name for it.
    pub name: &'static str,
    /// Lowest supported level.
    pub min: i16,
    /// Highest supported level.
    pub max: i16,
    /// The level in force.
    pub finalized: i16,
}

/// Every feature.
pub static FEATURES: &[Feature] = &[
    Feature {
        name: "group.version",
        min: 0,
        max: 1,
        finalized: 1,
    },
    Feature {
        name: "kraft.version",
        min: 0,
        max: 1,
        finalized: 1,
    },
    // 3.3-IV3 to 4.3-IV0.
    Feature {
        name: "metadata.version",
        min: 7,
        max: 30,
        finalized: 30,
    },
    Feature {
        name: "streams.version",
        min: 0,
        max: 1,
        finalized: 1,
    },
    Feature {
        name: "transaction.version",
        min: 0,
        max: 2,
        finalized: 2,
    },
];

/// The feature of a name.
pub fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finalized_level_is_supported() {
        for feature in FEATURES {
            assert!(
                (feature.min..=feature.max).contains(&feature.finalized),
                "{}",
                feature.name
            );
        }
    }
}

//! Times in buckets that grow with them: any percentile within 3 %, in a few kilobytes.

/// Buckets a power of two is divided into.
const PARTS: u64 = 32;
/// Powers of two from `PARTS` up that a 64-bit number of microseconds can have, and one run of exact buckets below.
const RUNS: usize = 60;

/// A count for each bucket.
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_us: u128,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; RUNS * PARTS as usize],
            count: 0,
            sum_us: 0,
            max_us: 0,
        }
    }
}

/// Below `PARTS` each number has its bucket; above, the five bits after the highest one say which.
fn bucket(us: u64) -> usize {
    if us < PARTS {
        return us as usize;
    }
    let shift = us.ilog2() - PARTS.ilog2();
    (u64::from(shift) * PARTS + (us >> shift)) as usize
}

/// The highest number of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let parts = u128::from(bucket % PARTS + PARTS + 1);
    u64::try_from((parts << shift) - 1).unwrap_or(u64::MAX)
}

impl Histogram {
    pub(super) fn record(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket(us)) {
            *count += 1;
        }
        self.count += 1;
        self.sum_us += u128::from(us);
        self.max_us = self.max_us.max(us);
    }

    pub(super) fn mean_us(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64)
    }

    pub(super) fn max_us(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_us)
    }

    /// What this share of the times is not above; 0 when there are none.
    pub(super) fn percentile_us(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return highest(bucket).min(self.max_us);
            }
        }
        self.max_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_the_bucket_whose_end_is_the_next_above_it() {
        let numbers = (0..5000).chain((3..64).flat_map(|power| {
            let power = 1_u64 << power;
            [power - 1, power, power + power / 3]
        }));
        for us in numbers.chain([u64::MAX]) {
            let bucket = bucket(us);
            assert!(us <= highest(bucket), "{us}");
            assert!(bucket == 0 || us > highest(bucket - 1), "{us}");
            assert!(bucket < RUNS * PARTS as usize, "{us}");
            // Within 1/32.
            assert!(highest(bucket) as f64 <= us as f64 * 1.04 + 1.0, "{us}");
        }
    }

    #[test]
    fn percentiles_are_what_so_many_are_not_above() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_us(0.5), 0);
        for us in 1..=1000 {
            histogram.record(us);
        }
        for (share, expected) in [(0.5, 500.0), (0.95, 950.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.percentile_us(share) as f64;
            assert!(
                (expected..=expected * 1.04).contains(&found),
                "{share}: {found}"
            );
        }
        assert_eq!(histogram.max_us(), Some(1000));
    }
}

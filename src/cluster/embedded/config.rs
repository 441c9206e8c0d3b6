//! How an embedded cluster is made: its size, its speed, its habits. Speeds come from an integer table, so that every build agrees.

use crate::runtime::{Group, Micros};

/// How long operations take at the median, before any fault.
#[derive(Clone, Debug)]
pub struct Latency {
    /// A read by key.
    pub read: Micros,
    /// A page of a scan.
    pub scan: Micros,
    /// A plain write, without the wait for the majority.
    pub write: Micros,
    /// A transaction, without the wait for the majority.
    pub transact: Micros,
    /// Anything that is not document traffic.
    pub admin: Micros,
    /// From a majority commit to its event.
    pub changes: Micros,
    /// What each document read adds, in nanoseconds.
    pub per_read_ns: u64,
    /// What each document written in a transaction adds, in nanoseconds.
    pub per_write_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            read: Micros(2_000),
            scan: Micros(3_000),
            write: Micros(1_800),
            transact: Micros(4_000),
            admin: Micros(5_000),
            changes: Micros(1_500),
            per_read_ns: 2_500,
            per_write_ns: 25_000,
        }
    }
}

/// What an embedded cluster is like when nothing is wrong with it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tells the clusters of one run apart: their draws are independent.
    pub id: u32,
    /// The members are called `<name>-0`, `<name>-1`, …
    pub name: String,
    /// The group in which late writes run: it should die with nobody but the cluster.
    pub group: Group,
    /// Members of the replica set; the first is primary at the start.
    pub nodes: usize,
    /// Median latencies.
    pub latency: Latency,
    /// How far a healthy secondary is behind.
    pub replication: Micros,
    /// How far back change streams can resume.
    pub oplog_window: Micros,
    /// How long an operation tries to reach the cluster before it fails.
    pub op_timeout: Micros,
    /// How long an applied write waits for its majority before its outcome is unknown.
    pub majority_timeout: Micros,
    /// The shortest and the longest election.
    pub election: (Micros, Micros),
    /// How long after an election a read without a sufficient `after` may still be answered by the old primary.
    pub stale_for: Micros,
    /// How often the cluster time moves while nobody writes.
    pub noop_every: Micros,
    /// How often the primary looks for documents that a TTL index lets expire (a server: every 60 s).
    pub expire_every: Micros,
    /// The most events in one batch of a change stream (a transaction is never split).
    pub batch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            id: 0,
            name: "node".into(),
            group: Group(900),
            nodes: 3,
            latency: Latency::default(),
            replication: Micros(1_200),
            oplog_window: Micros::from_secs(3_600),
            op_timeout: Micros::from_secs(2),
            majority_timeout: Micros::from_secs(10),
            election: (Micros::from_ms(1_000), Micros::from_ms(2_000)),
            stale_for: Micros::from_secs(3),
            noop_every: Micros::from_ms(100),
            expire_every: Micros::from_secs(5),
            batch: 1_000,
        }
    }
}

/// Quantiles of a log-normal distribution with sigma 0.45, in percent of its median.
const SPREAD: [u64; 64] = [
    34, 41, 45, 49, 52, 54, 56, 59, 61, 63, 64, 66, 68, 70, 71, 73, 75, 76, 78, 79, 81, 83, 84, 86, 87, 89, 91, 92, 94,
    96, 97, 99, 101, 103, 105, 106, 108, 110, 112, 114, 116, 119, 121, 123, 126, 128, 131, 134, 137, 140, 144, 147,
    151, 155, 160, 165, 171, 177, 185, 194, 206, 221, 245, 297,
];

/// A latency around `median` for 64 random bits: mostly within half and twice, one in 256 a multiple of that.
pub(super) fn spread(median: Micros, bits: u64) -> Micros {
    let percent = SPREAD[(bits & 63) as usize];
    let tail = if (bits >> 6) & 255 == 0 { 2 + ((bits >> 14) & 3) } else { 1 };
    Micros(median.0.saturating_mul(percent * tail) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::keyed_hash;

    #[test]
    fn latencies_spread_around_their_median_with_a_tail() {
        let mut all: Vec<u64> = (0..100_000).map(|n| spread(Micros(1_000), keyed_hash(1, 1, 1, n)).0).collect();
        all.sort_unstable();
        let at = |permille: usize| all[all.len() * permille / 1_000];
        assert!((950..1_050).contains(&at(500)), "p50 {}", at(500));
        assert!((2_200..3_600).contains(&at(990)), "p99 {}", at(990));
        assert!(at(999) > 3_500, "p99.9 {}", at(999));
    }
}

//! What weighs on the servers, and what tidegate does about it.

use serde::{Deserialize, Serialize};

use crate::runtime::Micros;

/// tidegate's own work is slower than it could be, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThrottleView {
    /// What holds it back: `replication lag`, `legacy write p99`.
    pub signal: String,
    /// As it was last seen over its limit, with its unit; `None` when that is not known.
    pub actual: Option<String>,
    /// The limit, with its unit.
    pub limit: String,
    /// For how long.
    pub held: Micros,
    /// The speed of copying, comparing and mending, 0 (stopped) to 1.
    pub speed: f64,
    /// The speed of the tails, 0 to 1.
    pub tail_speed: f64,
    /// All of it in words.
    pub text: String,
}

/// What servers say about their load: the worst of both clusters. `None` where none says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadView {
    /// Free tickets for reads, of how many.
    pub read_tickets: Option<(u32, u32)>,
    /// Free tickets for writes, of how many.
    pub write_tickets: Option<(u32, u32)>,
    /// Operations that wait.
    pub queued: Option<u64>,
    /// The share of the cache that is not on disk yet.
    pub cache_dirty: Option<f64>,
    /// The share of the cache that is in use.
    pub cache_used: Option<f64>,
    /// A server holds writes back by itself.
    pub flow_control: Option<bool>,
    /// Write conflicts a second.
    pub conflicts: Option<f64>,
    /// Age of the older of the two.
    pub age: Option<Micros>,
}

/// Who measured the latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LatencySource {
    /// Applications, which report them with their acknowledgements.
    Applications,
    /// The servers, whose figures hold tidegate's own operations too.
    Servers,
}

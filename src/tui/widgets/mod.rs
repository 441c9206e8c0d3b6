//! One file a panel. Each draws from the snapshot into the canvas it is given and knows nothing of its neighbours.

mod distribution;
mod events;
mod gates;
mod heat;
pub(crate) mod identity;
mod lag;
mod percentiles;
mod pipeline;
mod reconcile;
mod rest;
mod spark;
pub mod verdict;

pub(crate) use distribution::distribution;
pub(crate) use events::events;
pub(crate) use gates::gates;
pub(crate) use heat::heat;
pub(crate) use lag::lag;
pub(crate) use percentiles::percentiles;
pub(crate) use pipeline::pipeline;
pub(crate) use reconcile::reconcile;
pub(crate) use rest::{has_rest, rest, rest_height};

use crate::runtime::Micros;
use crate::snapshot::Snapshot;

/// The p99 limit on next for reads or writes, when a gate sets one: the line drawn into the latency panels.
pub(crate) fn latency_gate(s: &Snapshot, writes: bool) -> Option<Micros> {
    let kind = if writes { "write" } else { "read" };
    let gate = s.gates.iter().find(|g| {
        g.unit == "ms" && g.limit.is_finite() && g.limit > 0.0 && g.name.contains("p99") && g.name.contains(kind)
    })?;
    Some(Micros((gate.limit * 1e3) as u64))
}

/// `reads` or `writes`.
pub(crate) fn kind(writes: bool) -> &'static str {
    if writes { "writes" } else { "reads" }
}

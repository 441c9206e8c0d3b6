//! Reads `[throttle]`: the limits that tidegate keeps its own work to.

use super::reader::{Reader, Table};
use crate::runtime::Micros;

/// Limits on tidegate's own load; `None` where the plan says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throttle {
    /// Replication lag, and the lag of what is applied.
    pub max_lag: Option<Micros>,
    /// Copying goes at most so fast, documents a second.
    pub max_docs_per_second: Option<u32>,
    /// The share of a server's tickets that must be free.
    pub min_tickets: Option<f64>,
    /// Operations that may wait on a server.
    pub max_queue: Option<u32>,
    /// The share of the cache that may be not on disk yet.
    pub max_dirty_ratio: Option<f64>,
    /// How many times slower than without tidegate's work applications may become.
    pub max_latency_ratio: Option<f64>,
    /// How far back the oplog must reach.
    pub min_oplog_window: Option<Micros>,
}

impl Throttle {
    /// The share of tickets that must be free where the plan says nothing.
    pub const MIN_TICKETS: f64 = 0.1;
    /// The operations that may wait where the plan says nothing.
    pub const MAX_QUEUE: u32 = 64;
    /// The dirty share of the cache where the plan says nothing: a server has applications write it out from 20 % on.
    pub const MAX_DIRTY_RATIO: f64 = 0.15;
    /// The slow-down where the plan says nothing.
    pub const MAX_LATENCY_RATIO: f64 = 1.5;
}

/// Its keys; `max_rate` is an older name of `max_docs_per_second`.
const KEYS: [&str; 8] = [
    "max_lag",
    "max_docs_per_second",
    "max_rate",
    "min_tickets",
    "max_queue",
    "max_dirty_ratio",
    "max_latency_ratio",
    "min_oplog_window",
];

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>) -> Throttle {
    let Some(t) = r.table(t, "throttle", "[throttle]") else { return Throttle::default() };
    r.only(&t, &KEYS);
    if let Some(old) = t.table.get("max_rate").filter(|_| t.table.contains_key("max_docs_per_second")) {
        let help = "leave `max_rate` out: it is the older name of `max_docs_per_second`";
        r.error(old.span(), "`[throttle]` limits the same thing twice", "", Some(help.into()));
    }
    let rate = if t.table.contains_key("max_rate") { "max_rate" } else { "max_docs_per_second" };
    Throttle {
        max_lag: span(r, &t, "max_lag", Micros::from_ms(100), Micros::from_secs(3_600)),
        max_docs_per_second: count(r, &t, rate),
        min_tickets: within(
            r,
            &t,
            "min_tickets",
            (0.0, 0.9),
            "the share of tickets that must be free; 0 leaves them out",
        ),
        max_queue: count(r, &t, "max_queue"),
        max_dirty_ratio: within(r, &t, "max_dirty_ratio", (0.01, 1.0), "a share of the cache; 1 leaves it out"),
        max_latency_ratio: within(r, &t, "max_latency_ratio", (1.1, 1_000.0), "1.5 allows half as slow again"),
        min_oplog_window: span(r, &t, "min_oplog_window", Micros::from_secs(60), Micros::from_secs(30 * 86_400)),
    }
}

fn count(r: &mut Reader, t: &Table<'_, '_>, key: &str) -> Option<u32> {
    r.integer(t, key, 1, u32::MAX.into()).and_then(|n| u32::try_from(n.value).ok())
}

fn span(r: &mut Reader, t: &Table<'_, '_>, key: &str, from: Micros, to: Micros) -> Option<Micros> {
    t.table.contains_key(key).then(|| r.duration_in(t, key, from, to, from))
}

fn within(r: &mut Reader, t: &Table<'_, '_>, key: &str, (from, to): (f64, f64), help: &str) -> Option<f64> {
    let n = r.number(t, key)?;
    if !(from..=to).contains(&n.value) {
        let expected = format!("expected {from} to {to}");
        r.error(n.span, format!("`{key}` is out of range"), expected, Some(help.into()));
        return None;
    }
    Some(n.value)
}

//! The metric names that gates and triggers may use: their units, whether they have a side, and how many samples they need.

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// A latency; written as a duration, held in microseconds.
    Latency,
    /// An age or a lag; written as a duration, held in microseconds.
    Duration,
    /// A share, 0 to 1.
    Ratio,
    /// So many a second (or times the budgeted rate).
    Rate,
    /// A plain number.
    Count,
}

impl UnitKind {
    /// True for values that are written as durations.
    #[must_use]
    pub fn is_time(self) -> bool {
        matches!(self, UnitKind::Latency | UnitKind::Duration)
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricName {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: UnitKind,
    /// True when it is kept per side and a gate must name one.
    pub has_side: bool,
    /// For a percentile, its q in thousandths.
    pub permille: Option<u16>,
    /// `min_samples` when the plan does not say.
    pub default_samples: u64,
}

impl MetricName {
    /// The fewest samples that say anything: n(1−q) ≥ 10 for a percentile, else 1.
    #[must_use]
    pub fn least_samples(&self) -> u64 {
        self.permille.map_or(1, |q| 10_000u64.div_ceil(u64::from(1000 - q.min(999))))
    }
}

const fn sided(name: &'static str, unit: UnitKind, default_samples: u64) -> MetricName {
    MetricName { name, unit, has_side: true, permille: None, default_samples }
}

const fn plain(name: &'static str, unit: UnitKind, default_samples: u64) -> MetricName {
    MetricName { name, unit, has_side: false, permille: None, default_samples }
}

const fn percentile(name: &'static str, q: u16) -> MetricName {
    let default_samples = 10_000u64.div_ceil(1000 - q as u64);
    MetricName { name, unit: UnitKind::Latency, has_side: true, permille: Some(q), default_samples }
}

/// Every metric, by name.
pub const METRICS: &[MetricName] = &[
    percentile("latency.read.p50", 500),
    percentile("latency.read.p90", 900),
    percentile("latency.read.p99", 990),
    percentile("latency.read.p999", 999),
    sided("latency.read.max", UnitKind::Latency, 1),
    sided("latency.read.mean", UnitKind::Latency, 20),
    percentile("latency.write.p50", 500),
    percentile("latency.write.p90", 900),
    percentile("latency.write.p99", 990),
    percentile("latency.write.p999", 999),
    sided("latency.write.max", UnitKind::Latency, 1),
    sided("latency.write.mean", UnitKind::Latency, 20),
    sided("errors.read.rate", UnitKind::Ratio, 100),
    sided("errors.write.rate", UnitKind::Ratio, 100),
    sided("throughput.read", UnitKind::Rate, 1),
    sided("throughput.write", UnitKind::Rate, 1),
    plain("slo.read.budget_left", UnitKind::Ratio, 100),
    plain("slo.read.burn_rate", UnitKind::Rate, 100),
    plain("slo.write.budget_left", UnitKind::Ratio, 100),
    plain("slo.write.burn_rate", UnitKind::Rate, 100),
    plain("shadow.mismatch_ratio", UnitKind::Ratio, 100),
    plain("reads.stale_age", UnitKind::Duration, 1),
    plain("lag.replication", UnitKind::Duration, 1),
    plain("lag.apply", UnitKind::Duration, 1),
    plain("lag.reverse", UnitKind::Duration, 1),
    plain("reconcile.missing", UnitKind::Count, 1),
    plain("reconcile.extra", UnitKind::Count, 1),
    plain("reconcile.differing", UnitKind::Count, 1),
    plain("reconcile.checked_ratio", UnitKind::Ratio, 1),
    plain("writes.stray", UnitKind::Count, 1),
    plain("writes.at_risk", UnitKind::Count, 1),
    plain("freeze.duration", UnitKind::Duration, 1),
    plain("oplog.window", UnitKind::Duration, 1),
    plain("tickets.read", UnitKind::Count, 1),
    plain("tickets.write", UnitKind::Count, 1),
    plain("queue.depth", UnitKind::Count, 1),
    plain("cache.dirty_ratio", UnitKind::Ratio, 1),
    plain("conflicts.rate", UnitKind::Rate, 1),
];

/// What `compare = "distribution"` compares. n(1-q) >= 10 for the slowest hundredth is the least; the default finds a doubled p99 as
/// reliably as docs/gates.md says.
pub(super) const DISTRIBUTIONS: &[MetricName] = &[distribution("latency.read"), distribution("latency.write")];

const fn distribution(name: &'static str) -> MetricName {
    MetricName { name, unit: UnitKind::Latency, has_side: false, permille: Some(990), default_samples: 5_000 }
}

/// The metric of that name.
#[must_use]
pub fn metric(name: &str) -> Option<&'static MetricName> {
    METRICS.iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_need_ten_samples_beyond_them() {
        let least = |n| metric(n).unwrap().least_samples();
        assert_eq!(
            ["latency.read.p50", "latency.read.p90", "latency.read.p99", "latency.write.p999"].map(least),
            [20, 100, 1_000, 10_000]
        );
        assert!(METRICS.iter().all(|m| m.default_samples >= m.least_samples()));
    }
}

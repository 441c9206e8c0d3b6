//! What the names of metrics mean to this room and how a screen words them.

use super::OpKind;
use crate::route::Side;

/// Share of shadow reads that differed.
pub const SHADOW_MISMATCH: &str = "shadow.mismatch_ratio";

/// What a latency metric takes from a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The median.
    P50,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
    /// 99.9th percentile.
    P999,
    /// The largest.
    Max,
    /// The mean.
    Mean,
}

impl Quantile {
    /// Samples below which the figure is not to be trusted: n·(1−q) ≥ 10.
    #[must_use]
    pub fn min_samples(self) -> u64 {
        match self {
            Quantile::P50 => 20,
            Quantile::P90 => 100,
            Quantile::P99 => 1_000,
            Quantile::P999 => 10_000,
            Quantile::Max | Quantile::Mean => 1,
        }
    }
}

fn op(text: &str) -> Option<OpKind> {
    match text {
        "read" => Some(OpKind::Read),
        "write" => Some(OpKind::Write),
        _ => None,
    }
}

/// `latency.{read,write}.{p50,p90,p99,p999,max,mean}`.
#[must_use]
pub fn latency(metric: &str) -> Option<(OpKind, Quantile)> {
    let (kind, what) = metric.strip_prefix("latency.")?.split_once('.')?;
    let what = match what {
        "p50" => Quantile::P50,
        "p90" => Quantile::P90,
        "p99" => Quantile::P99,
        "p999" => Quantile::P999,
        "max" => Quantile::Max,
        "mean" => Quantile::Mean,
        _ => return None,
    };
    Some((op(kind)?, what))
}

/// `errors.{read,write}.rate`.
#[must_use]
pub fn error_rate(metric: &str) -> Option<OpKind> {
    op(metric.strip_prefix("errors.")?.strip_suffix(".rate")?)
}

/// `throughput.{read,write}`.
#[must_use]
pub fn throughput(metric: &str) -> Option<OpKind> {
    op(metric.strip_prefix("throughput.")?)
}

/// What is computed against an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SloMetric {
    /// How fast the error budget is being spent, as a multiple of the rate that just uses it up.
    BurnRate,
    /// What is left of it.
    BudgetLeft,
}

/// `slo.{read,write}.{burn_rate,budget_left}`.
#[must_use]
pub fn slo(metric: &str) -> Option<(OpKind, SloMetric)> {
    let (kind, what) = metric.strip_prefix("slo.")?.split_once('.')?;
    let what = match what {
        "burn_rate" => SloMetric::BurnRate,
        "budget_left" => SloMetric::BudgetLeft,
        _ => return None,
    };
    Some((op(kind)?, what))
}

/// `latency.{read,write}`: a whole distribution.
#[must_use]
pub fn distribution(metric: &str) -> Option<OpKind> {
    op(metric.strip_prefix("latency.")?)
}

/// True for gauges whose worst moment in a window counts, not the last one: lags, ages and durations.
#[must_use]
pub fn takes_worst(metric: &str) -> bool {
    metric.starts_with("lag.") || matches!(metric, "freeze.duration" | "reads.stale_age" | "queue.depth")
}

/// The unit a screen shows a metric in, and what its value is multiplied by for it.
#[must_use]
pub fn unit(metric: &str) -> (&'static str, f64) {
    if metric.starts_with("latency.") {
        ("ms", 1e-3)
    } else if metric.starts_with("lag.") || matches!(metric, "freeze.duration" | "reads.stale_age" | "oplog.window") {
        ("s", 1e-6)
    } else if metric.starts_with("errors.") || metric.ends_with("_ratio") || metric.ends_with(".budget_left") {
        ("%", 100.0)
    } else if metric.ends_with(".burn_rate") {
        ("x", 1.0)
    } else if metric == "conflicts.rate" {
        ("/s", 1.0)
    } else {
        ("", 1.0)
    }
}

/// A short name: `next read p99`, `lag apply`, `next write error rate`.
#[must_use]
pub fn label(metric: &str, side: Option<Side>) -> String {
    let words = if let Some((_, rest)) = metric.split_once('.').filter(|(room, _)| *room == "latency") {
        rest.replace('.', " ")
    } else if let Some(op) = metric.strip_prefix("errors.").and_then(|m| m.strip_suffix(".rate")) {
        format!("{op} error rate")
    } else if let Some(op) = metric.strip_prefix("throughput.") {
        format!("{op} throughput")
    } else {
        metric.replace(['.', '_'], " ")
    };
    match side {
        Some(side) => format!("{} {words}", side.name()),
        None => words,
    }
}

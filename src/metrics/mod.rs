//! What a rollout measures: latency histograms, gauges and ratios, in time slices that any window can be put together
//! from.
//!
//! Histograms are merged, percentiles never averaged. Nothing in here judges a figure or reads a clock: every call is
//! given the time. A figure that is not known is `None` or NaN, never 0.

use std::collections::BTreeMap;

use crate::plan::Slo;
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{HEAT_COLUMN, LatencyView};

pub mod axis;
mod gauge;
mod latency;
pub mod names;
mod ring;
mod slo;

pub use gauge::Gauge;
pub use latency::{Classes, LatencySeries, WindowStats};
pub use slo::MAX_BURN_WINDOW;

use gauge::Ratio;
use latency::VIEW_SPAN;
use names::Quantile;
use slo::SloSeries;

pub use crate::route::OpKind;

/// The longest window that can be asked for.
pub const MAX_WINDOW: Micros = Micros::from_secs(300);

/// A metric over a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Latencies, lags and ages in microseconds, ratios 0 to 1, rates a second, counts plain. NaN when the window says
    /// nothing.
    pub value: f64,
    /// Samples in the window: operations, comparisons or settings of a gauge.
    pub samples: u64,
    /// Age of the newest one, inside the window or before it.
    pub age: Micros,
}

/// All series of a rollout.
pub struct Metrics {
    latency: [[LatencySeries; 2]; 2],
    /// When latencies last came from a server, which does not tell how many operations failed.
    served: [[Option<Micros>; 2]; 2],
    /// By name, then legacy, next, no side.
    gauges: BTreeMap<&'static str, [Option<Gauge>; 3]>,
    shadow: Ratio,
    /// The plan's objective, and reads and writes measured by it.
    slo: Option<(Slo, [SloSeries; 2])>,
    stage_began: Micros,
}

/// The latencies of a window as they were measured, for a comparison and for evidence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Classes of the merged histogram.
    pub classes: Classes,
    /// Operations in them.
    pub count: u64,
    /// Age of the newest one, inside the window or before it.
    pub age: Micros,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// No measurements yet.
    #[must_use]
    pub fn new() -> Self {
        Metrics {
            latency: std::array::from_fn(|_| std::array::from_fn(|_| LatencySeries::new())),
            served: Default::default(),
            gauges: BTreeMap::new(),
            shadow: Ratio::new(),
            slo: None,
            stage_began: Micros::ZERO,
        }
    }

    /// Measures against an objective from now on; without one the metrics `slo.…` are not known.
    pub fn set_slo(&mut self, slo: Option<Slo>) {
        self.slo = slo.map(|slo| (slo, std::array::from_fn(|_| SloSeries::new())));
    }

    /// A stage begins: from now on [`Metrics::sample`] looks at nothing measured before. Views keep showing it.
    pub fn begin_stage(&mut self, now: Micros) {
        self.stage_began = now;
        for series in self.latency.iter_mut().flatten() {
            series.cut(now);
        }
        for gauge in self.gauges.values_mut().flatten().flatten() {
            gauge.cut(now);
        }
        self.shadow.cut(now);
        for series in self.slo.iter_mut().flat_map(|(_, s)| s) {
            series.cut(now);
        }
    }

    /// `n` operations that succeeded took `value` each and ended at `at`.
    pub fn record_latency(&mut self, op: OpKind, side: Side, at: Micros, value: Micros, n: u64) {
        self.latency[op as usize][side as usize].record_n(at, value, n);
        if let Some((slo, series)) = &mut self.slo {
            let good = slo.latency.is_none_or(|most| value <= most);
            series[op as usize].record(side, at, if good { n } else { 0 }, if good { 0 } else { n });
        }
    }

    /// As [`Metrics::record_latency`], but as a server has it, which does not tell how many others failed: for as long as a window
    /// holds such operations its share of errors is not known, and an objective is not measured by them.
    pub fn record_served(&mut self, op: OpKind, side: Side, at: Micros, value: Micros, n: u64) {
        self.latency[op as usize][side as usize].record_n(at, value, n);
        let served = &mut self.served[op as usize][side as usize];
        *served = (*served).max(Some(at));
    }

    /// Operations of the window came from a server.
    fn is_served(&self, op: OpKind, side: Side, window: Micros, now: Micros) -> bool {
        // Windows are made of whole slices.
        let reach = window.min(MAX_WINDOW) + HEAT_COLUMN;
        self.served[op as usize][side as usize].is_some_and(|at| now.since(at) <= reach)
    }

    /// `n` operations failed at `at`. They count in the error rate only: a failure's latency says nothing about the
    /// side's speed.
    pub fn record_errors(&mut self, op: OpKind, side: Side, at: Micros, n: u64) {
        self.latency[op as usize][side as usize].record_errors(at, n);
        if let Some((_, series)) = &mut self.slo {
            series[op as usize].record(side, at, 0, n);
        }
    }

    /// Shadow reads compared, and how many of them were found different.
    pub fn record_shadow(&mut self, at: Micros, compared: u64, mismatched: u64) {
        self.shadow.record(at, mismatched, compared);
    }

    /// Sets a gauge by its metric name, in the unit of [`Sample::value`]. Set it again whenever it is confirmed, even
    /// unchanged: an old value is stale and no gate passes on it. NaN says that it could not be measured.
    pub fn set(&mut self, name: &'static str, side: Option<Side>, at: Micros, value: f64) {
        let began = self.stage_began;
        let gauge = &mut self.gauges.entry(name).or_default()[slot(side)];
        gauge.get_or_insert_with(|| Gauge::from_stage(began)).set(at, value);
    }

    /// The latencies of one kind of operation on one side.
    #[must_use]
    pub fn latency(&self, op: OpKind, side: Side) -> &LatencySeries {
        &self.latency[op as usize][side as usize]
    }

    /// The same as a screen shows it.
    #[must_use]
    pub fn latency_view(&self, op: OpKind, side: Side, now: Micros) -> LatencyView {
        let view = self.latency(op, side).view(now);
        let error_ratio = view.error_ratio.filter(|_| !self.is_served(op, side, VIEW_SPAN, now));
        LatencyView { error_ratio, ..view }
    }

    /// A gauge, if it was ever set.
    #[must_use]
    pub fn gauge(&self, name: &str, side: Option<Side>) -> Option<&Gauge> {
        self.gauges.get(name)?[slot(side)].as_ref()
    }

    /// A metric over the last `window` (at most [`MAX_WINDOW`], burn rates [`MAX_BURN_WINDOW`]), never reaching back before the stage began. `None`
    /// when the name is unknown, the side is missing, or nothing was measured in this stage.
    ///
    /// A burn rate is that of both sides together, or of one when a side is given; an error budget is always both sides', and over
    /// the objective's period. Gauges of lags, ages and durations answer with the largest value of the window, other gauges with the latest.
    #[must_use]
    pub fn sample(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        let (asked, window, since) = (window, window.min(MAX_WINDOW), self.stage_began);
        let latency = |op| side.map(|s| self.latency(op, s));
        if let Some((op, what)) = names::latency(metric) {
            let series = latency(op)?;
            let newest = series.newest().filter(|at| *at >= since)?;
            let w = series.window_since(now, window, since);
            let value = match what {
                Quantile::P50 => w.p50,
                Quantile::P90 => w.p90,
                Quantile::P99 => w.p99,
                Quantile::P999 => w.p999,
                Quantile::Max => w.max,
                Quantile::Mean => w.mean,
            };
            let value = value.map_or(f64::NAN, |v| v.0 as f64);
            return Some(Sample { value, samples: w.count, age: now.since(newest) });
        }
        if let Some(op) = names::error_rate(metric) {
            let series = latency(op)?;
            if side.is_some_and(|side| self.is_served(op, side, window, now)) {
                return None;
            }
            let newest = series.newest_any().filter(|at| *at >= since)?;
            let w = series.window_since(now, window, since);
            let all = w.count.saturating_add(w.errors);
            return Some(Sample { value: w.errors as f64 / all as f64, samples: all, age: now.since(newest) });
        }
        if let Some(op) = names::throughput(metric) {
            let series = latency(op)?;
            let newest = series.newest().filter(|at| *at >= since)?;
            let w = series.window_since(now, window, since);
            return Some(Sample { value: w.rate(), samples: w.count, age: now.since(newest) });
        }
        if metric == names::SHADOW_MISMATCH {
            return self.shadow.sample(window, since, now);
        }
        if let Some((op, what)) = names::slo(metric) {
            let (slo, series) = self.slo.as_ref()?;
            let series = &series[op as usize];
            return match what {
                names::SloMetric::BurnRate => series.burn_rate(slo, side, asked, since, since, now),
                names::SloMetric::BudgetLeft => series.budget_left(slo, since, now),
            };
        }
        let gauge = self.gauge(metric, side).or_else(|| self.gauge(metric, None))?;
        gauge.sample(names::takes_worst(metric), window, since, now)
    }

    /// The same, but a burn rate's window may reach back before the stage, as long as something was measured in it.
    #[must_use]
    pub fn sample_across(&self, metric: &str, side: Option<Side>, window: Micros, now: Micros) -> Option<Sample> {
        match (names::slo(metric), &self.slo) {
            (Some((op, names::SloMetric::BurnRate)), Some((slo, series))) => {
                series[op as usize].burn_rate(slo, side, window, Micros::ZERO, self.stage_began, now)
            }
            _ => self.sample(metric, side, window, now),
        }
    }

    /// The latencies of the last `window`, as [`Metrics::sample`] looks at them. `None` when nothing was measured in this stage.
    #[must_use]
    pub fn distribution(&self, op: OpKind, side: Side, window: Micros, now: Micros) -> Option<Distribution> {
        let series = self.latency(op, side);
        let newest = series.newest().filter(|at| *at >= self.stage_began)?;
        let classes = series.classes_since(now, window, self.stage_began);
        let count = classes.iter().fold(0, |n: u64, c| n.saturating_add(c.1));
        Some(Distribution { classes, count, age: now.since(newest) })
    }
}

fn slot(side: Option<Side>) -> usize {
    side.map_or(2, |s| s as usize)
}

#[cfg(test)]
mod tests;

//! Latencies of one kind of operation on one side.

use std::cell::RefCell;

use hdrhistogram::Histogram;

use super::axis;
use super::names::Quantile;
use super::ring::Ring;
use crate::runtime::Micros;
use crate::snapshot::{HEAT_COLUMN, HEAT_ROWS, HeatColumn, LATENCY_BINS, LatencyView};

/// Latencies are recorded as 1 µs to 60 s; what lies outside is counted at the nearer end.
const RANGE: (u64, u64) = (1, 60_000_000);
/// Slices kept: five minutes of whole ones and the one being filled.
const SLICES: usize = 61;
const HEAT_COLUMNS: usize = 120;
const HISTORY: usize = 60;
/// A point of the history needs so many samples (n·(1−q) ≥ 1): it is drawn as a line, not read as a figure.
const HISTORY_SAMPLES: u64 = 100;
/// Windows remembered between two samples: without samples they move on all the same.
const ASKED: usize = 16;
/// What a view's figures are computed over.
pub(super) const VIEW_SPAN: Micros = Micros::from_secs(60);

type Hist = Histogram<u32>;

/// A histogram to two significant digits (10 kB).
#[allow(clippy::expect_used)] // the bounds are constants that the library accepts: low ≥ 1, high ≥ 2 · low, digits ≤ 5
fn histogram() -> Hist {
    Hist::new_with_bounds(RANGE.0, RANGE.1, 2).expect("valid bounds")
}

#[derive(Clone, Debug)]
struct Slice {
    /// Made by the first sample, so that a slice of errors only stays small.
    hist: Option<Hist>,
    count: u64,
    sum: u64,
    max: u64,
    errors: u64,
    newest: Option<Micros>,
    newest_any: Micros,
    /// p99, settled when the next slice begins.
    p99: Option<Micros>,
    /// The histogram's classes, settled with it: a hundred instead of thousands of counters to merge.
    settled: Option<Classes>,
}

impl Slice {
    fn new(at: Micros) -> Self {
        Slice {
            hist: None,
            count: 0,
            sum: 0,
            max: 0,
            errors: 0,
            newest: None,
            newest_any: at,
            p99: None,
            settled: None,
        }
    }

    fn merge(&mut self, o: &Slice) {
        if let Some(h) = &o.hist {
            let all = self.hist.get_or_insert_with(histogram);
            match &o.settled {
                Some(classes) => {
                    classes
                        .iter()
                        .for_each(|(us, n)| all.saturating_record_n(*us, u32::try_from(*n).unwrap_or(u32::MAX)));
                }
                // Both have the same bounds, so every value of one fits into the other.
                None => drop(all.add(h)),
            }
        }
        self.count = self.count.saturating_add(o.count);
        self.sum = self.sum.saturating_add(o.sum);
        self.max = self.max.max(o.max);
        self.errors = self.errors.saturating_add(o.errors);
        self.newest = self.newest.max(o.newest);
        self.newest_any = self.newest_any.max(o.newest_any);
    }

    /// The upper end of the histogram's class that holds the quantile, at most 1 % above the true value and never above
    /// the largest.
    fn quantile(&self, q: f64) -> Option<Micros> {
        let h = self.hist.as_ref().filter(|_| self.count > 0)?;
        Some(Micros(h.value_at_quantile(q).min(self.max)))
    }

    /// Nothing is recorded in it any more, as far as one can know.
    fn settle(&mut self) {
        self.p99 = self.history_point();
        self.settled = self.hist.as_ref().map(classes);
    }

    fn history_point(&self) -> Option<Micros> {
        self.quantile(0.99).filter(|_| self.count >= HISTORY_SAMPLES)
    }
}

/// Latencies as (upper end of a class in µs, operations in it), rising, without empty classes.
pub type Classes = Vec<(u64, u64)>;

fn classes(h: &Hist) -> Classes {
    h.iter_recorded()
        .map(|v| (h.highest_equivalent(v.value_iterated_to()), v.count_at_value().into()))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// A window of a series. Percentiles are those of the merged histograms, `None` without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WindowStats {
    /// Operations that succeeded.
    pub count: u64,
    /// Operations that failed.
    pub errors: u64,
    /// The time the window really covers: whole slices, not before the stage or the first sample.
    pub covered: Micros,
    /// The median.
    pub p50: Option<Micros>,
    /// 90th percentile.
    pub p90: Option<Micros>,
    /// 99th percentile.
    pub p99: Option<Micros>,
    /// 99.9th percentile.
    pub p999: Option<Micros>,
    /// The largest.
    pub max: Option<Micros>,
    /// The mean.
    pub mean: Option<Micros>,
    /// When the newest operation that succeeded ended.
    pub newest: Option<Micros>,
}

impl WindowStats {
    /// Operations that succeeded, a second; over at least one second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.covered.as_secs_f64().max(1.0)
    }

    /// Failed operations as a share of all; `None` without operations.
    #[must_use]
    pub fn error_ratio(&self) -> Option<f64> {
        let all = self.count.saturating_add(self.errors);
        (all > 0).then(|| self.errors as f64 / all as f64)
    }
}

/// Latencies in slices of 5 s over the last five minutes, and heat-map columns over the last ten. A window is made of
/// whole slices, so it may reach up to 5 s further back than asked. At most about 0.7 MB, however much is recorded.
#[derive(Clone, Debug)]
pub struct LatencySeries {
    slices: Ring<Slice>,
    heat: Ring<[u32; HEAT_ROWS]>,
    first: Option<Micros>,
    newest: Option<Micros>,
    newest_any: Option<Micros>,
    /// Windows that were asked for since the last sample came: gates and triggers ask for the same ones again and again.
    asked: RefCell<Vec<(Slices, WindowStats)>>,
}

/// The first and the last slice of a window, and how many there are.
type Slices = (Micros, Micros, usize);

impl Default for LatencySeries {
    fn default() -> Self {
        LatencySeries::new()
    }
}

impl LatencySeries {
    /// No samples.
    #[must_use]
    pub fn new() -> Self {
        LatencySeries {
            slices: Ring::new(HEAT_COLUMN, SLICES),
            heat: Ring::new(HEAT_COLUMN, HEAT_COLUMNS),
            first: None,
            newest: None,
            newest_any: None,
            asked: RefCell::default(),
        }
    }

    /// An operation that ended at `at` took `value`.
    pub fn record(&mut self, at: Micros, value: Micros) {
        self.record_n(at, value, 1);
    }

    /// `n` operations that ended at `at` took `value` each. What is older than five minutes is not kept.
    pub fn record_n(&mut self, at: Micros, value: Micros, n: u64) {
        if n == 0 {
            return;
        }
        let us = value.0.clamp(RANGE.0, RANGE.1);
        let small = u32::try_from(n).unwrap_or(u32::MAX);
        let Some(s) = self.touch(at) else { return };
        s.hist.get_or_insert_with(histogram).saturating_record_n(us, small);
        s.count = s.count.saturating_add(n);
        s.sum = s.sum.saturating_add(us.saturating_mul(n));
        s.max = s.max.max(us);
        s.newest = s.newest.max(Some(at));
        self.newest = self.newest.max(Some(at));
        if let Some((column, _)) = self.heat.slice(at, || [0; HEAT_ROWS]) {
            let cell = &mut column[axis::row(value)];
            *cell = cell.saturating_add(small);
        }
    }

    /// `n` operations failed at `at`.
    pub fn record_errors(&mut self, at: Micros, n: u64) {
        if n > 0
            && let Some(s) = self.touch(at)
        {
            s.errors = s.errors.saturating_add(n);
        }
    }

    fn touch(&mut self, at: Micros) -> Option<&mut Slice> {
        self.asked.get_mut().clear();
        if self.slices.slice(at, || Slice::new(at))?.1
            && let Some(done) = self.slices.last_but_one()
        {
            done.settle();
        }
        self.first = Some(self.first.map_or(at, |f| f.min(at)));
        self.newest_any = self.newest_any.max(Some(at));
        let (s, _) = self.slices.slice(at, || Slice::new(at))?;
        s.newest_any = s.newest_any.max(at);
        // A late sample: whatever was settled is settled anew when looked at.
        s.p99 = None;
        s.settled = None;
        Some(s)
    }

    /// From `now` on, samples go into slices of their own: see [`LatencySeries::window_since`].
    pub fn cut(&mut self, now: Micros) {
        self.slices.cut(now);
    }

    /// When the newest operation that succeeded ended.
    #[must_use]
    pub fn newest(&self) -> Option<Micros> {
        self.newest
    }

    /// When the newest operation ended, failed ones included.
    #[must_use]
    pub fn newest_any(&self) -> Option<Micros> {
        self.newest_any
    }

    fn merged(&self, now: Micros, span: Micros, since: Micros) -> Slice {
        let mut all = Slice::new(Micros::ZERO);
        for (_, s) in self.slices.window(now, span, since) {
            all.merge(s);
        }
        all
    }

    /// The last `span` before `now`, at most five minutes.
    #[must_use]
    pub fn window(&self, now: Micros, span: Micros) -> WindowStats {
        self.window_since(now, span, Micros::ZERO)
    }

    /// The same, leaving out slices that began before `since`, the moment of a [`LatencySeries::cut`].
    #[must_use]
    pub fn window_since(&self, now: Micros, span: Micros, since: Micros) -> WindowStats {
        let span = span.min(super::MAX_WINDOW);
        let mut starts = self.slices.window(now, span, since).map(|(start, _)| start);
        let Some(first) = starts.next() else { return self.stats(&Slice::new(Micros::ZERO), now, span, since) };
        let which = starts.fold((first, first, 1), |(first, _, n), start| (first, start, n + 1));
        let known = self.asked.borrow().iter().find(|(slices, _)| *slices == which).map(|(_, stats)| *stats);
        if let Some(known) = known {
            return WindowStats { covered: self.covered(now, span, since), ..known };
        }
        let stats = self.stats(&self.merged(now, span, since), now, span, since);
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= ASKED {
            asked.clear();
        }
        asked.push((which, stats));
        stats
    }

    fn covered(&self, now: Micros, span: Micros, since: Micros) -> Micros {
        now.since(self.slices.window_start(now, span).max(since).max(self.first.unwrap_or(now)))
    }

    fn stats(&self, all: &Slice, now: Micros, span: Micros, since: Micros) -> WindowStats {
        WindowStats {
            count: all.count,
            errors: all.errors,
            covered: self.covered(now, span, since),
            p50: all.quantile(0.5),
            p90: all.quantile(0.9),
            p99: all.quantile(0.99),
            p999: all.quantile(0.999),
            max: (all.count > 0).then_some(Micros(all.max)),
            mean: all.sum.checked_div(all.count).map(Micros),
            newest: all.newest,
        }
    }

    /// What was measured in the last `span`, leaving out slices that began before `since`, as classes of at most 1 % width.
    #[must_use]
    pub fn classes_since(&self, now: Micros, span: Micros, since: Micros) -> Classes {
        let all = self.merged(now, span.min(super::MAX_WINDOW), since);
        all.hist.as_ref().map(classes).unwrap_or_default()
    }

    /// Any quantile of the last `span`; `None` without samples.
    #[must_use]
    pub fn quantile(&self, now: Micros, span: Micros, q: f64) -> Option<Micros> {
        self.merged(now, span.min(super::MAX_WINDOW), Micros::ZERO).quantile(q)
    }

    /// The last 60 s, as a screen shows them.
    #[must_use]
    pub fn view(&self, now: Micros) -> LatencyView {
        let all = self.merged(now, VIEW_SPAN, Micros::ZERO);
        let w = self.stats(&all, now, VIEW_SPAN, Micros::ZERO);
        let enough = |q: Quantile, v: Option<Micros>| v.filter(|_| w.count >= q.min_samples());
        let mut bins = [0_u32; LATENCY_BINS];
        if let Some(h) = &all.hist {
            for v in h.iter_recorded() {
                let cell = &mut bins[axis::bin(Micros(h.median_equivalent(v.value_iterated_to())))];
                *cell = cell.saturating_add(v.count_at_value());
            }
        }
        LatencyView {
            count: w.count,
            rate: w.rate(),
            p50: enough(Quantile::P50, w.p50),
            p90: enough(Quantile::P90, w.p90),
            p99: enough(Quantile::P99, w.p99),
            p999: enough(Quantile::P999, w.p999),
            max: w.max,
            p99_history: self.p99_history(now),
            bins,
            heat: self.heat_columns(now),
            age: self.newest.map(|at| now.since(at)),
            error_ratio: w.error_ratio(),
        }
    }

    /// p99 of each 5-s column, oldest first, the one being filled last; begins with the first column that has data.
    fn p99_history(&self, now: Micros) -> Vec<Option<Micros>> {
        let column = |at: Micros| at.0 / HEAT_COLUMN.0;
        let last = column(now);
        let from = last.saturating_sub(HISTORY as u64 - 1);
        let mut slices = self.slices.all().filter(|(s, _)| (from..=last).contains(&column(*s))).peekable();
        let Some(first) = slices.peek().map(|(s, _)| column(*s)) else { return Vec::new() };
        (first..=last)
            .map(|c| {
                let (_, s) = slices.next_if(|(s, _)| column(*s) == c)?;
                if slices.peek().is_none_or(|(s, _)| column(*s) != c) {
                    return s.p99.or_else(|| s.history_point());
                }
                // A stage began inside this column.
                let mut all = s.clone();
                while let Some((_, s)) = slices.next_if(|(s, _)| column(*s) == c) {
                    all.merge(s);
                }
                all.history_point()
            })
            .collect()
    }

    /// Up to 120 columns, oldest first, without gaps; begins with the first column that has data.
    fn heat_columns(&self, now: Micros) -> Vec<HeatColumn> {
        let last = Micros(now.0 - now.0 % HEAT_COLUMN.0);
        let from = last.since(HEAT_COLUMN * (HEAT_COLUMNS as u64 - 1));
        let mut out: Vec<HeatColumn> = Vec::new();
        for (start, rows) in self.heat.all().filter(|(s, _)| (from..=last).contains(s)) {
            while let Some(gap) = out.last().map(|c| c.start + HEAT_COLUMN).filter(|gap| *gap < start) {
                out.push(HeatColumn { start: gap, rows: [0; HEAT_ROWS] });
            }
            out.push(HeatColumn { start, rows: *rows });
        }
        while let Some(gap) = out.last().map(|c| c.start + HEAT_COLUMN).filter(|gap| *gap <= last) {
            out.push(HeatColumn { start: gap, rows: [0; HEAT_ROWS] });
        }
        out
    }
}

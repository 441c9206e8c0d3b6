//! Values that are set, and shares of counts: one slice a second for five minutes.

use super::Sample;
use super::ring::Ring;
use crate::runtime::Micros;

const SECOND: Micros = Micros::from_secs(1);
const SECONDS: usize = 301;

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Micros,
    latest: f64,
    /// The largest of the second; NaN once a NaN was set in it.
    max: f64,
    n: u64,
}

/// A value that is set now and then, with its largest value of each of the last 300 seconds. At most about 15 kB.
#[derive(Clone, Debug)]
pub struct Gauge {
    points: Ring<Point>,
    last: Option<(Micros, f64)>,
}

impl Default for Gauge {
    fn default() -> Self {
        Gauge::new()
    }
}

impl Gauge {
    /// Never set.
    #[must_use]
    pub fn new() -> Self {
        Gauge { points: Ring::new(SECOND, SECONDS), last: None }
    }

    pub(super) fn from_stage(began: Micros) -> Self {
        let mut gauge = Gauge::new();
        gauge.cut(began);
        gauge
    }

    /// From `now` on, points go into slices of their own.
    pub(super) fn cut(&mut self, now: Micros) {
        self.points.cut(now);
    }

    /// Sets the value; NaN says that it could not be measured.
    pub fn set(&mut self, at: Micros, value: f64) {
        if self.last.is_none_or(|(last, _)| at >= last) {
            self.last = Some((at, value));
        }
        let fresh = Point { at, latest: value, max: value, n: 0 };
        let Some((p, _)) = self.points.slice(at, || fresh) else { return };
        if at >= p.at {
            (p.at, p.latest) = (at, value);
        }
        p.max = worse(p.max, value);
        p.n += 1;
    }

    /// The latest value and when it was set.
    #[must_use]
    pub fn latest(&self) -> Option<(Micros, f64)> {
        self.last
    }

    /// How long ago it was last set.
    #[must_use]
    pub fn age(&self, now: Micros) -> Option<Micros> {
        self.last.map(|(at, _)| now.since(at))
    }

    /// The largest value of the last `span`; NaN when it could not be measured throughout, `None` without a value.
    #[must_use]
    pub fn max(&self, now: Micros, span: Micros) -> Option<f64> {
        self.points.window(now, span, Micros::ZERO).map(|(_, p)| p.max).reduce(worse)
    }

    /// The latest value of each of the last `n` seconds, oldest first; `None` for seconds without one. Begins with the
    /// first known second.
    #[must_use]
    pub fn history(&self, now: Micros, n: usize) -> Vec<Option<f64>> {
        let last = now.0 / SECOND.0;
        let from = (last + 1).saturating_sub(n as u64);
        let mut out: Vec<Option<f64>> = Vec::new();
        let mut first = None;
        for (start, p) in self.points.all() {
            let second = start.0 / SECOND.0;
            if !(from..=last).contains(&second) {
                continue;
            }
            let i = (second - *first.get_or_insert(second)) as usize;
            if out.len() <= i {
                out.resize(i + 1, None);
            }
            out[i] = Some(p.latest).filter(|v| v.is_finite());
        }
        if let Some(first) = first {
            out.resize((last - first) as usize + 1, None);
        }
        out
    }

    /// The worst or the latest value of the window. Without one in the window, the latest of the stage: its age tells
    /// that it is old.
    pub(super) fn sample(&self, worst: bool, window: Micros, since: Micros, now: Micros) -> Option<Sample> {
        let (at, latest) = self.last.filter(|(at, _)| *at >= since)?;
        let (mut value, mut samples) = (None, 0);
        for (_, p) in self.points.window(now, window, since) {
            value = Some(value.map_or(p.max, |v| worse(v, p.max)));
            samples += p.n;
        }
        let value = value.filter(|_| worst).unwrap_or(latest);
        Some(Sample { value, samples: samples.max(1), age: now.since(at) })
    }
}

/// The larger one; NaN wins, so that a gap in the measurements cannot be hidden by a good value.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// A share of counts over time.
#[derive(Clone, Debug)]
pub(super) struct Ratio {
    counts: Ring<(u64, u64)>,
    newest: Option<Micros>,
}

impl Ratio {
    pub(super) fn new() -> Self {
        Ratio { counts: Ring::new(SECOND, SECONDS), newest: None }
    }

    pub(super) fn cut(&mut self, now: Micros) {
        self.counts.cut(now);
    }

    /// `part` of `whole` at `at`.
    pub(super) fn record(&mut self, at: Micros, part: u64, whole: u64) {
        if let Some(((p, w), _)) = self.counts.slice(at, || (0, 0)) {
            *p = p.saturating_add(part);
            *w = w.saturating_add(whole);
            if whole > 0 {
                self.newest = self.newest.max(Some(at));
            }
        }
    }

    pub(super) fn sample(&self, window: Micros, since: Micros, now: Micros) -> Option<Sample> {
        let newest = self.newest.filter(|at| *at >= since)?;
        let slices = self.counts.window(now, window, since);
        let (part, whole) =
            slices.fold((0_u64, 0_u64), |(p, w), (_, (a, b))| (p.saturating_add(*a), w.saturating_add(*b)));
        Some(Sample { value: part as f64 / whole as f64, samples: whole, age: now.since(newest) })
    }
}

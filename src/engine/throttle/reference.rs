//! How fast the application was when tidegate was not at work: what its latency is compared with.

use super::signals::{Ground, is_of_application};
use crate::metrics::OpKind;
use crate::route::Side;
use crate::runtime::Micros;

/// What is compared.
pub(super) const SERIES: [(OpKind, Side); 4] = [
    (OpKind::Read, Side::Legacy),
    (OpKind::Write, Side::Legacy),
    (OpKind::Read, Side::Next),
    (OpKind::Write, Side::Next),
];

/// The window of a comparison.
const WINDOW: Micros = Micros::from_secs(10);
/// The window of a reference: longer, so that it is steadier than what is compared with it.
const LONG: Micros = Micros::from_secs(30);
/// Below this many operations a p99 says nothing (n·(1−q) ≥ 2: slowing down costs little, and should come soon).
const SAMPLES: u64 = 200;
/// A slow-down by less is nothing a user notices.
const NOTICED: Micros = Micros::from_ms(2);
/// Without any operation for so long there is no application to compare.
const GONE: Micros = Micros::from_secs(60);
/// Operations that ended longer ago say nothing about now.
const FRESH: Micros = Micros::from_secs(10);
/// Hardly at work for so long without the latency coming back, tidegate is not what makes it slow.
const NOT_OURS: Micros = Micros::from_secs(60);

/// What a series is called.
pub(super) fn name(op: OpKind, side: Side) -> String {
    format!("{} {} p99", side.name(), if op == OpKind::Read { "read" } else { "write" })
}

/// One series: as it was without tidegate's work, and as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reference {
    /// p99 while nothing was copied, compared or mended.
    pub before: Option<Micros>,
    /// p99 of the last seconds; `None` when too little is known of them.
    pub now: Option<Micros>,
    /// There were operations until a moment ago, and now there are none, or too few.
    quiet: bool,
    /// What it was while nothing was copied, compared or mended, whatever it became the measure since.
    idle: Option<Micros>,
    /// For how long tidegate had hardly been at work when it became the measure last.
    taken_at: Micros,
}

impl Reference {
    /// The most that `now` may be; `None` while there is nothing to compare.
    pub(super) fn limit(&self, ratio: f64) -> Option<Micros> {
        self.limit_above(ratio, NOTICED)
    }

    /// The same where a slow-down by less than `noticed` is nothing.
    pub(super) fn limit_above(&self, ratio: f64, noticed: Micros) -> Option<Micros> {
        let before = self.before.filter(|_| !self.quiet)?;
        Some(Micros((before.0 as f64 * ratio) as u64).max(before + noticed))
    }

    /// Takes what `now` says against its `limit`. What is `calm` is the reference while tidegate is idle; and where it is still over the
    /// limit after tidegate has hardly been at work for `patience`, for it is about as slow whatever tidegate does. One good moment
    /// between does not count: what comes and goes on a busy machine is no doing of a few pieces either. From there on the reference
    /// follows once a `patience`, in both directions, and never further up than three times what it was and four times `noticed`: a few
    /// pieces do something all the same, and must not drag the application down step by step.
    pub(super) fn settle(
        &mut self,
        limit: Option<Micros>,
        pace: Pace,
        (patience, noticed): (Micros, Micros),
        calm: impl FnOnce() -> Option<Micros>,
    ) {
        let over = self.now.zip(limit).is_some_and(|(now, limit)| now > limit);
        if pace.low_for < self.taken_at {
            self.taken_at = Micros::ZERO;
        }
        if pace.idle {
            self.before = calm().or(self.before);
            self.idle = self.before;
        } else if (over || self.before > self.idle)
            && pace.low_for.since(self.taken_at) >= patience
            && let (Some(calm), Some(idle)) = (calm(), self.idle)
        {
            self.before = Some(calm.clamp(idle, Micros(3 * idle.0 + 4 * noticed.0)));
            self.taken_at = pace.low_for;
        }
    }
}

/// How hard tidegate itself works.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Not at all.
    pub idle: bool,
    /// Hardly, for so long: next to its slowest, or stopped.
    pub low_for: Micros,
}

/// One for each series, and one for what a probe takes.
#[derive(Clone, Debug, Default)]
pub(super) struct References([Reference; 4], pub(super) Reference);

impl References {
    pub(super) fn of(&self, op: OpKind, side: Side) -> &Reference {
        &self.0[2 * side as usize + op as usize]
    }

    /// Forgets the applications' latencies: from now on they have another source, or are those of another share of the traffic.
    pub(super) fn forget(&mut self) {
        self.0 = Default::default();
    }

    /// Looks at the latencies of this moment.
    pub(super) fn look(&mut self, g: &Ground<'_>, pace: Pace) {
        let ratio = g.latency_ratio();
        g.live.probes.look(&mut self.1, g.now, ratio, pace);
        for (op, side) in SERIES {
            let r = &mut self.0[2 * side as usize + op as usize];
            let series = g.live.metrics.latency(op, side);
            let age = series.newest().map(|at| g.now.since(at));
            if !is_of_application(g, op, side) || age.is_none_or(|age| age > GONE) {
                *r = Reference::default();
                continue;
            }
            let p99 = |window| {
                let w = series.window(g.now, window);
                w.p99.filter(|_| w.count >= SAMPLES)
            };
            r.now = p99(WINDOW).filter(|_| age.is_some_and(|age| age <= FRESH));
            // An application that does little is no reason to hold anything up; one whose reports stop is.
            r.quiet = r.now.is_none() && age.is_some_and(|age| age <= FRESH);
            r.settle(r.limit(ratio), pace, (NOT_OURS, NOTICED), || p99(LONG));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_room_for_what_nobody_notices() {
        let of = |before: Option<u64>| Reference { before: before.map(Micros), ..Reference::default() }.limit(1.5);
        assert_eq!(of(Some(20_000)), Some(Micros(30_000)));
        assert_eq!(of(Some(1_000)), Some(Micros(3_000)));
        assert_eq!(of(None), None);
    }

    #[test]
    fn an_application_that_does_little_holds_nothing_up() {
        let quiet = Reference { before: Some(Micros(20_000)), quiet: true, ..Reference::default() };
        assert_eq!(quiet.limit(1.5), None);
        let silent = Reference { quiet: false, ..quiet };
        assert_eq!(silent.limit(1.5), Some(Micros(30_000)), "not known: no growth");
    }

    #[test]
    fn what_stays_slow_while_tidegate_hardly_works_becomes_the_measure() {
        let ms = Micros::from_ms;
        let mut r = Reference { before: Some(ms(20)), idle: Some(ms(20)), ..Reference::default() };
        let mut settle = |now: u64, low_for: u64, calm: u64| {
            r.now = Some(ms(now));
            let pace = Pace { idle: false, low_for: Micros::from_secs(low_for) };
            r.settle(r.limit(1.5), pace, (NOT_OURS, NOTICED), || Some(ms(calm)));
            r.before.map(|b| b.0 / 1_000)
        };
        assert_eq!(settle(50, 59, 45), Some(20), "not for long enough");
        assert_eq!(settle(29, 61, 45), Some(20), "within the limit");
        assert_eq!(settle(50, 62, 45), Some(45));
        assert_eq!(settle(90, 100, 60), Some(45), "once a minute");
        assert_eq!(settle(90, 122, 60), Some(60));
        assert_eq!(settle(900, 182, 600), Some(68), "so far and no further");
        assert_eq!(settle(30, 242, 25), Some(25), "down again");
        assert_eq!(settle(30, 302, 10), Some(20), "never below what it was");
        assert_eq!(settle(50, 5, 45), Some(20), "another time of little work");
    }
}

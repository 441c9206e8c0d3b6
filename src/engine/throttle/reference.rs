//! How fast the application was when tidegate was not at work: what its latency is compared with.

use super::signals::{Ground, is_of_application};
use crate::metrics::OpKind;
use crate::plan::Throttle;
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
/// At its slowest for so long without the latency coming back, tidegate is not what makes it slow.
pub(super) const NOT_OURS: Micros = Micros::from_secs(60);

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
    /// It has been over its limit since.
    pub over_since: Option<Micros>,
}

impl Reference {
    /// The most that `now` may be; `None` while there is nothing to compare.
    pub(super) fn limit(&self, ratio: f64) -> Option<Micros> {
        let before = self.before.filter(|_| !self.quiet)?;
        Some(Micros((before.0 as f64 * ratio) as u64).max(before + NOTICED))
    }
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

    /// Looks at the latencies of this moment. While tidegate is idle they are the reference. One that has been over its limit for a minute
    /// in which tidegate was at its slowest (`floored`) stays slow whatever tidegate does.
    pub(super) fn look(&mut self, g: &Ground<'_>, idle: bool, floored: bool) {
        let ratio = g.plan.max_latency_ratio.unwrap_or(Throttle::MAX_LATENCY_RATIO);
        g.live.probes.look(&mut self.1, g.now, ratio, idle, floored);
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
            let over = r.now.zip(r.limit(ratio)).is_some_and(|(now, limit)| now > limit);
            r.over_since = over.then(|| r.over_since.unwrap_or(g.now));
            if idle {
                r.before = p99(LONG).or(r.before);
            } else if floored && r.over_since.is_some_and(|since| g.now.since(since) >= NOT_OURS) {
                r.before = r.now.or(r.before);
            }
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
}

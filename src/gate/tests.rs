use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::plan::Trigger;

/// Answers every question with the same samples, one a side.
#[derive(Default)]
struct Fixed {
    next: Cell<Option<Sample>>,
    legacy: Cell<Option<Sample>>,
}

impl MetricSource for Fixed {
    fn sample(&self, _: &str, side: Option<Side>, _: Micros, _: Micros) -> Option<Sample> {
        if side == Some(Side::Legacy) { self.legacy.get() } else { self.next.get() }
    }
}

const GOOD: Sample = Sample { value: 10_000.0, samples: 2_000, age: Micros::from_ms(100) };

fn next(sample: Option<Sample>) -> Fixed {
    Fixed { next: Cell::new(sample), ..Fixed::default() }
}

fn gate(metric: &str, bound: Bound, hold_s: u64) -> GateState {
    GateState::new(Gate {
        metric: metric.into(),
        side: Some(Side::Next),
        bound,
        window: Micros::from_secs(60),
        hold_for: Micros::from_secs(hold_s),
        min_samples: 1_000,
    })
}

fn s(secs: u64) -> Micros {
    Micros::from_secs(secs)
}

#[test]
fn a_gate_holds_for_its_time_before_it_passes() {
    let mut g = gate("latency.read.p99", Bound::Max(25_000.0), 30);
    g.reset(s(100));
    let source = next(Some(GOOD));
    for t in 100..130 {
        let v = g.evaluate(&source, s(t));
        assert_eq!((v.verdict, v.held), (Verdict::Holding, s(t - 100)));
    }
    let v = g.evaluate(&source, s(130));
    assert_eq!(v.verdict, Verdict::Pass);
    assert_eq!(
        (v.name.as_str(), v.actual, v.limit, v.unit, v.relation),
        ("next read p99", Some(10.0), 25.0, "ms", "<=")
    );
    assert_eq!(v.room, Some(0.6));
    source.next.set(Some(Sample { value: 26_000.0, ..GOOD }));
    assert_eq!(g.evaluate(&source, s(131)).verdict, Verdict::Fail);
    let v = g.evaluate(&source, s(134));
    assert_eq!((v.verdict, v.held), (Verdict::Fail, s(3)));
    assert!(v.room.is_some_and(|r| r < 0.0));
    source.next.set(Some(GOOD));
    assert_eq!(g.evaluate(&source, s(135)).held, Micros::ZERO);
}

#[test]
fn what_is_not_known_neither_passes_nor_counts() {
    let cases = [
        (None, Verdict::Inconclusive),
        (Some(Sample { value: f64::NAN, ..GOOD }), Verdict::Inconclusive),
        (Some(Sample { value: f64::NEG_INFINITY, ..GOOD }), Verdict::Inconclusive),
        (Some(Sample { samples: 999, ..GOOD }), Verdict::Inconclusive),
        (Some(Sample { age: Micros(6_000_001), ..GOOD }), Verdict::Stale),
    ];
    for (sample, verdict) in cases {
        let mut g = gate("latency.read.p99", Bound::Max(25_000.0), 2);
        for t in 0..3 {
            g.evaluate(&next(Some(GOOD)), s(t));
        }
        assert_eq!(g.evaluate(&next(Some(GOOD)), s(3)).verdict, Verdict::Pass);
        let v = g.evaluate(&next(sample), s(4));
        assert_eq!((v.verdict, v.held), (verdict, Micros::ZERO));
        assert_eq!(g.evaluate(&next(Some(GOOD)), s(5)).verdict, Verdict::Holding);
    }
}

#[test]
fn a_percentile_needs_the_samples_that_make_it_one() {
    let mut g = gate("latency.read.p999", Bound::Max(25_000.0), 0);
    assert_eq!(g.evaluate(&next(Some(GOOD)), s(1)).min_samples, 10_000);
    assert_eq!(g.evaluate(&next(Some(GOOD)), s(1)).verdict, Verdict::Inconclusive);
}

#[test]
fn a_silence_between_evaluations_starts_the_time_anew() {
    let mut g = gate("lag.apply", Bound::Max(2e6), 10);
    let source = next(Some(GOOD));
    g.evaluate(&source, s(0));
    let v = g.evaluate(&source, s(2_700));
    assert_eq!((v.verdict, v.held, v.unit), (Verdict::Holding, Micros::ZERO, "s"));
    assert_eq!(g.evaluate(&source, s(2_705)).held, s(5));
    assert_eq!(g.evaluate(&source, s(2_000)).held, Micros::ZERO, "nor does a clock that goes back help");
}

#[test]
fn a_ratio_needs_both_sides() {
    let mut g = gate("latency.read.p99", Bound::MaxRatioToLegacy(1.5), 0);
    let source = next(Some(GOOD));
    assert_eq!(g.evaluate(&source, s(1)).verdict, Verdict::Inconclusive);
    for (legacy, verdict) in [
        (Sample { value: 8_000.0, ..GOOD }, Verdict::Pass),
        (Sample { value: 6_000.0, ..GOOD }, Verdict::Fail),
        (Sample { samples: 10, ..GOOD }, Verdict::Inconclusive),
        (Sample { age: s(30), ..GOOD }, Verdict::Stale),
        (Sample { value: 0.0, ..GOOD }, Verdict::Inconclusive),
        (Sample { value: f64::NAN, ..GOOD }, Verdict::Inconclusive),
    ] {
        source.legacy.set(Some(legacy));
        assert_eq!(g.evaluate(&source, s(1)).verdict, verdict, "{legacy:?}");
    }
    source.legacy.set(Some(Sample { value: 8_000.0, ..GOOD }));
    let v = g.evaluate(&source, s(1));
    assert_eq!((v.name.as_str(), v.actual, v.unit), ("next/legacy read p99", Some(1.25), "x"));
}

#[test]
fn a_lower_limit_and_a_limit_of_zero() {
    let mut g = gate("reconcile.checked_ratio", Bound::Min(1.0), 0);
    let v = g.evaluate(&next(Some(Sample { value: 0.99, ..GOOD })), s(1));
    assert_eq!((v.verdict, v.relation, v.unit, v.limit), (Verdict::Fail, ">=", "%", 100.0));
    let mut g = gate("reconcile.missing", Bound::Max(0.0), 0);
    let v = g.evaluate(&next(Some(Sample { value: 0.0, ..GOOD })), s(1));
    assert_eq!((v.verdict, v.room), (Verdict::Pass, Some(0.0)));
    let v = g.evaluate(&next(Some(Sample { value: 1.0, ..GOOD })), s(1));
    assert_eq!((v.verdict, v.room), (Verdict::Fail, Some(-1.0)));
    assert_eq!(v.name, "next reconcile missing");
}

fn trigger(hold_s: u64) -> TriggerState {
    TriggerState::new(Trigger {
        metric: "errors.write.rate".into(),
        side: Some(Side::Next),
        above: 0.01,
        window: s(30),
        hold_for: s(hold_s),
        action: crate::plan::Action::default(),
    })
}

const BAD: Sample = Sample { value: 0.023, ..GOOD };

#[test]
fn a_breach_that_lasts_trips_once_and_a_blip_never() {
    let mut t = trigger(15);
    let source = next(Some(BAD));
    for at in 0..15 {
        assert_eq!(t.evaluate(&source, s(at)), None);
    }
    let tripped = t.evaluate(&source, s(15)).expect("tripped");
    assert_eq!(tripped.text, "next write error rate is 2.3 %, above 1 % for 15.0s");
    assert_eq!(tripped.evidence["held_ms"], 15_000);
    assert_eq!(t.evaluate(&source, s(16)), None, "once a breach");
    t.reset(s(17));
    assert_eq!(t.evaluate(&source, s(17)), None);
    t.reset(s(18));
    for round in 0..10_u64 {
        for at in 0..15 {
            let sample = if at < 14 { BAD } else { Sample { value: 0.0, ..GOOD } };
            assert_eq!(t.evaluate(&next(Some(sample)), s(20 + round * 15 + at)), None);
        }
    }
}

#[test]
fn a_trigger_says_when_legacy_breaches_too() {
    let mut t = trigger(0);
    let source = next(Some(BAD));
    source.legacy.set(Some(BAD));
    assert!(t.evaluate(&source, s(1)).expect("tripped").text.ends_with("legacy breaches too"));
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Good,
    Breach,
    Unknown(Option<Sample>),
}

fn history() -> impl Strategy<Value = Vec<(u64, Seen)>> {
    let seen = prop_oneof![
        8 => Just(Seen::Good),
        1 => Just(Seen::Breach),
        1 => prop_oneof![
            Just(None),
            Just(Some(Sample { value: f64::NAN, ..GOOD })),
            Just(Some(Sample { value: f64::INFINITY, ..GOOD })),
            (0_u64..1_000).prop_map(|samples| Some(Sample { samples, ..GOOD })),
            (6_000_001_u64..100_000_000).prop_map(|age| Some(Sample { age: Micros(age), ..GOOD })),
        ].prop_map(Seen::Unknown),
    ];
    prop::collection::vec((1_u64..7_000_000, seen), 1..80)
}

proptest! {
    #[test]
    fn only_uninterrupted_good_data_passes(history in history(), hold_s in 0_u64..40) {
        let mut g = gate("latency.read.p99", Bound::Max(25_000.0), hold_s);
        let mut t = TriggerState::new(Trigger {
            metric: "latency.read.p99".into(), side: Some(Side::Next), above: 25_000.0, window: s(60), hold_for: s(hold_s),
            action: crate::plan::Action::default(),
        });
        let (mut now, mut good_since, mut bad_since) = (0, None, None);
        for (step, seen) in history {
            now += step;
            let (sample, good, bad) = match seen {
                Seen::Good => (Some(GOOD), true, false),
                Seen::Breach => (Some(Sample { value: 25_001.0, ..GOOD }), false, true),
                Seen::Unknown(sample) => (sample, false, false),
            };
            let fresh = step <= MAX_GAP.0;
            good_since = good.then(|| good_since.filter(|_| fresh).unwrap_or(now));
            // A trigger does with fewer samples than a gate, so a thin sample may end a breach or be no news; either
            // way it is good.
            bad_since = bad.then(|| bad_since.filter(|_| fresh).unwrap_or(now));
            let v = g.evaluate(&next(sample), Micros(now));
            let wanted = good_since.is_some_and(|since: u64| now - since >= hold_s * 1_000_000);
            prop_assert_eq!(v.verdict == Verdict::Pass, wanted, "{:?} at {}", seen, now);
            prop_assert_eq!(v.verdict == Verdict::Fail, bad);
            if t.evaluate(&next(sample), Micros(now)).is_some() {
                prop_assert!(bad_since.is_some_and(|since: u64| now - since >= hold_s * 1_000_000));
            }
        }
    }
}

use std::cell::Cell;

use super::trigger_tests::trigger;
use super::*;
use crate::plan::{Bound, Gate, Trigger};
use crate::snapshot::Verdict;

/// Answers every question with the same samples, one a side.
#[derive(Default)]
pub(super) struct Fixed {
    pub(super) next: Cell<Option<Sample>>,
    pub(super) legacy: Cell<Option<Sample>>,
}

impl MetricSource for Fixed {
    fn sample(&self, _: &str, side: Option<Side>, _: Micros, _: Micros) -> Option<Sample> {
        if side == Some(Side::Legacy) { self.legacy.get() } else { self.next.get() }
    }

    fn distribution(&self, _: OpKind, _: Side, _: Micros, _: Micros) -> Option<Distribution> {
        None
    }
}

pub(super) const GOOD: Sample = Sample { value: 10_000.0, samples: 2_000, age: Micros::from_ms(100) };

pub(super) fn next(sample: Option<Sample>) -> Fixed {
    Fixed { next: Cell::new(sample), ..Fixed::default() }
}

pub(super) fn gate(metric: &str, bound: Bound, hold_s: u64) -> GateState {
    GateState::new(Gate {
        metric: metric.into(),
        side: Some(Side::Next),
        bound,
        window: Micros::from_secs(60),
        long_window: None,
        hold_for: Micros::from_secs(hold_s),
        min_samples: 1_000,
    })
}

pub(super) fn s(secs: u64) -> Micros {
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

/// Burn rates by window: the short one, and any longer.
struct Burn(f64, f64);

impl MetricSource for Burn {
    fn sample(&self, _: &str, side: Option<Side>, window: Micros, _: Micros) -> Option<Sample> {
        let value = if window > s(300) { self.1 } else { self.0 };
        (side.is_none()).then_some(Sample { value, ..GOOD })
    }

    fn distribution(&self, _: OpKind, _: Side, _: Micros, _: Micros) -> Option<Distribution> {
        None
    }
}

#[test]
fn of_two_windows_a_gate_takes_the_worse_and_a_trigger_the_better() {
    for (short, long) in [(1.0, 1.0), (20.0, 1.0), (1.0, 20.0), (20.0, 20.0), (f64::NAN, 20.0), (20.0, f64::NAN)] {
        let mut g = GateState::new(Gate {
            metric: "slo.read.burn_rate".into(),
            side: None,
            bound: Bound::Max(14.4),
            window: s(300),
            long_window: Some(s(3_600)),
            hold_for: Micros::ZERO,
            min_samples: 100,
        });
        let mut t = TriggerState::new(Trigger {
            metric: "slo.read.burn_rate".into(),
            side: None,
            above: 14.4,
            window: s(300),
            long_window: Some(s(3_600)),
            ..trigger(0)
        });
        let (source, known) = (Burn(short, long), !short.is_nan() && !long.is_nan());
        let v = g.evaluate(&source, s(1));
        assert_eq!(v.verdict == Verdict::Pass, known && short.max(long) <= 14.4, "{short} {long}");
        assert_eq!(v.verdict == Verdict::Inconclusive, !known);
        assert_eq!(t.evaluate(&source, s(1)).is_some(), known && short.min(long) > 14.4, "{short} {long}");
    }
}

#[test]
fn a_baseline_is_taken_whole_kept_and_compared_with() {
    let wanted = [("latency.read.p99".to_owned(), s(60), 1_000)];
    let source = Fixed::default();
    let take = |source: &Fixed, measured| Baseline::take(&wanted, source, measured, s(90));
    assert_eq!(take(&source, s(30)), Err("legacy read p99 is measured for 30.0s of 1m00s".into()));
    assert_eq!(take(&source, s(60)), Err("legacy read p99 has 0 of 1000 samples".into()));
    source.legacy.set(Some(Sample { samples: 999, ..GOOD }));
    assert!(take(&source, s(60)).is_err());
    source.legacy.set(Some(Sample { age: s(60), ..GOOD }));
    assert!(take(&source, s(60)).is_err());
    source.legacy.set(Some(GOOD));
    let taken = take(&source, s(60)).expect("complete");
    let json = serde_json::to_value(&taken).expect("plain");
    let taken: Baseline = serde_json::from_value(json).expect("the same again");
    let bound = Bound::MaxRatioToBaseline(1.5);
    let mut g = gate("latency.read.p99", bound, 0).with_baseline(Some(std::sync::Arc::new(taken)));
    for (now, verdict) in [(15_000.0, Verdict::Pass), (15_001.0, Verdict::Fail), (f64::NAN, Verdict::Inconclusive)] {
        source.next.set(Some(Sample { value: now, ..GOOD }));
        let v = g.evaluate(&source, s(1));
        assert_eq!((v.name.as_str(), v.unit, v.verdict), ("next/baseline read p99", "x", verdict));
    }
    let mut g = gate("latency.read.p99", bound, 0);
    assert_eq!(g.evaluate(&source, s(1)).verdict, Verdict::Inconclusive, "without a baseline");
    let none = Baseline::default();
    let mut g = gate("latency.read.p99", bound, 0).with_baseline(Some(std::sync::Arc::new(none)));
    assert_eq!(g.evaluate(&source, s(1)).verdict, Verdict::Inconclusive, "with one of other metrics");
}

#[test]
fn evidence_carries_what_was_measured() {
    let mut m = Metrics::new();
    for t in 0..60 {
        m.record_latency(OpKind::Read, Side::Next, s(t), Micros::from_ms(20 + t % 3), 100);
        m.record_latency(OpKind::Read, Side::Legacy, s(t), Micros::from_ms(20), 100);
    }
    let sum = |classes: &serde_json::Value| {
        classes.as_array().expect("classes").iter().map(|c| c[1].as_u64().expect("a count")).sum::<u64>()
    };
    let mut g = gate("latency.read.p99", Bound::MaxRatioToLegacy(1.5), 0);
    assert_eq!(g.evaluate(&m, s(60)).verdict, Verdict::Pass);
    let e = g.evidence(&m);
    assert_eq!((&e["verdict"], &e["window_ms"], &e["age_ms"]), (&"pass".into(), &60_000.into(), &1_000.into()));
    for (i, side) in ["next", "legacy"].into_iter().enumerate() {
        let side_of = &e["measured"][i];
        assert_eq!((&side_of["side"], &side_of["samples"]), (&side.into(), &6_000.into()));
        assert_eq!(sum(&side_of["classes_us"]), 6_000);
    }
    let mut g = gate("latency.read", Bound::LikeLegacy { false_alarm: 0.01, max_ratio: 1.0 }, 0);
    let v = g.evaluate(&m, s(60));
    assert_eq!((v.verdict, v.name.as_str(), v.unit), (Verdict::Fail, "next reads like legacy", "%"));
    let e = g.evidence(&m);
    assert_eq!(sum(&e["comparison"]["next"]["classes_us"]), 6_000);
    assert_eq!(e["comparison"]["tails"].as_array().map(Vec::len), Some(5));
    let mut t = TriggerState::new(Trigger { metric: "latency.read.p99".into(), above: 1_000.0, ..trigger(0) });
    let e = t.evaluate(&m, s(60)).expect("tripped").evidence;
    assert_eq!((sum(&e["measured"][0]["classes_us"]), sum(&e["measured"][1]["classes_us"])), (3_000, 3_000));
}

#[test]
fn a_comparison_is_not_made_of_stale_thin_or_one_sided_data() {
    let compare = || gate("latency.read", Bound::LikeLegacy { false_alarm: 0.01, max_ratio: 1.0 }, 0);
    let mut m = Metrics::new();
    assert_eq!(compare().evaluate(&m, s(60)).verdict, Verdict::Inconclusive);
    m.record_latency(OpKind::Read, Side::Next, s(59), Micros::from_ms(20), 5_000);
    assert_eq!(compare().evaluate(&m, s(60)).verdict, Verdict::Inconclusive);
    m.record_latency(OpKind::Read, Side::Legacy, s(59), Micros::from_ms(20), 999);
    assert_eq!(compare().evaluate(&m, s(60)).verdict, Verdict::Inconclusive);
    m.record_latency(OpKind::Read, Side::Legacy, s(60), Micros::from_ms(20), 1);
    let mut g = compare();
    assert_eq!(g.evaluate(&m, s(60)).verdict, Verdict::Pass);
    m.record_latency(OpKind::Read, Side::Legacy, s(64), Micros::from_ms(20), 1_000);
    assert_eq!(g.evaluate(&m, s(66)).verdict, Verdict::Stale, "next has gone silent since the look");
    assert_eq!(g.evaluate(&m, s(300)).verdict, Verdict::Stale);
}

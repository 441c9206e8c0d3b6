//! What must hold of every history of measurements.

use std::cell::Cell;

use proptest::prelude::*;

use super::tests::{Fixed, GOOD, gate, next, s};
use super::trigger_tests::trigger;
use super::*;
use crate::plan::{Action, Bound, Clear, RollbackMode, Trigger};
use crate::snapshot::Verdict;

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

/// Each side as it was seen, with latencies all in one class.
struct Both {
    next: Option<Sample>,
    legacy: Option<Sample>,
}

impl MetricSource for Both {
    fn sample(&self, _: &str, side: Option<Side>, _: Micros, _: Micros) -> Option<Sample> {
        if side == Some(Side::Legacy) { self.legacy } else { self.next }
    }

    fn distribution(&self, _: OpKind, side: Side, window: Micros, now: Micros) -> Option<Distribution> {
        let seen = self.sample("", Some(side), window, now)?;
        Some(Distribution { classes: vec![(seen.value as u64, seen.samples)], count: seen.samples, age: seen.age })
    }
}

fn usable(seen: Option<Sample>) -> bool {
    seen.is_some_and(|x| x.value.is_finite() && x.samples >= 1_000 && x.age <= s(6))
}

fn side_seen() -> impl Strategy<Value = Option<Sample>> {
    prop_oneof![
        12 => (1.0_f64..60_000.0).prop_map(|value| Some(Sample { value, ..GOOD })),
        1 => Just(None),
        // A histogram has no NaN: where nothing can be computed there are no samples either.
        1 => Just(Some(Sample { value: f64::NAN, samples: 0, ..GOOD })),
        1 => (0_u64..1_000).prop_map(|samples| Some(Sample { samples, ..GOOD })),
        1 => (6_000_001_u64..100_000_000).prop_map(|age| Some(Sample { age: Micros(age), ..GOOD })),
    ]
}

proptest! {
    #[test]
    fn only_uninterrupted_good_data_passes(history in history(), hold_s in 0_u64..40) {
        let mut g = gate("latency.read.p99", Bound::Max(25_000.0), hold_s);
        let clear = Clear { below: 25_000.0, hold_for: Micros::ZERO };
        let mut t = TriggerState::new(Trigger {
            metric: "latency.read.p99".into(), above: 25_000.0, window: s(60), min_samples: 100, clear, ..trigger(hold_s)
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

    #[test]
    fn nothing_unknown_ever_passes_whatever_the_gate(
        kind in 0..5_usize,
        hold_s in 0_u64..30,
        history in prop::collection::vec((1_u64..7_000_000, side_seen(), side_seen()), 1..40),
    ) {
        let bound = [
            Bound::Max(25_000.0),
            Bound::Min(1.0),
            Bound::MaxRatioToLegacy(2.0),
            Bound::MaxRatioToBaseline(2.0),
            Bound::LikeLegacy { false_alarm: 0.05, max_ratio: 1.0 },
        ][kind];
        let metric = if kind == 4 { "latency.read" } else { "latency.read.p99" };
        let baseline = {
            let source = Fixed { legacy: Cell::new(Some(GOOD)), ..Fixed::default() };
            Baseline::take(&[(metric.to_owned(), s(60), 1_000)], &source, s(60), s(60)).ok().map(std::sync::Arc::new)
        };
        let mut g = gate(metric, bound, hold_s).with_baseline(baseline);
        g.reset(Micros::ZERO);
        let (mut now, mut good_since) = (0_u64, None);
        for (step, next, legacy) in history {
            now += step;
            let source = Both { next, legacy };
            let needs_legacy = matches!(kind, 2 | 4);
            let known = usable(next) && (!needs_legacy || usable(legacy));
            let v = g.evaluate(&source, Micros(now));
            let judged = matches!(v.verdict, Verdict::Pass | Verdict::Holding | Verdict::Fail);
            prop_assert_eq!(judged, known, "{:?} of {:?} {:?}", v.verdict, next, legacy);
            good_since = (known && v.verdict != Verdict::Fail)
                .then(|| good_since.filter(|_| step <= MAX_GAP.0).unwrap_or(now));
            if v.verdict == Verdict::Pass {
                prop_assert!(good_since.is_some_and(|since: u64| now - since >= hold_s * 1_000_000));
            }
        }
    }

    #[test]
    fn a_blip_shorter_than_for_never_trips(
        hold_s in 1_u64..60,
        back in any::<bool>(),
        blips in prop::collection::vec((1_u64..60_000_000, 1_u64..10_000_000, 0.010_01_f64..10.0), 1..20),
    ) {
        let action = if back { Action::Rollback(RollbackMode::Hard) } else { Action::Pause };
        let mut t = TriggerState::new(Trigger { action, ..trigger(hold_s) });
        let mut now = 0;
        for (length, rest, value) in blips {
            // Looked at four times a second, as the engine does.
            let end = now + length.min(hold_s * 1_000_000 - 1);
            while now <= end {
                let source = next(Some(Sample { value, ..GOOD }));
                prop_assert_eq!(t.evaluate(&source, Micros(now)), None);
                now += 250_000;
            }
            now = now.max(end + 1);
            for _ in 0..=rest / 250_000 {
                prop_assert_eq!(t.evaluate(&next(Some(Sample { value: 0.01, ..GOOD })), Micros(now)), None);
                now += 250_000;
            }
        }
    }
}

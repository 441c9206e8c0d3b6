use super::tests::{GOOD, next, s};
use super::*;
use crate::plan::{Action, Clear, RollbackMode, Trigger};

pub(super) fn trigger(hold_s: u64) -> Trigger {
    Trigger {
        metric: "errors.write.rate".into(),
        side: Some(Side::Next),
        above: 0.01,
        window: s(30),
        long_window: None,
        hold_for: s(hold_s),
        min_samples: 20,
        clear: Clear { below: 0.01, hold_for: Micros::ZERO },
        action: Action::Pause,
    }
}

const BAD: Sample = Sample { value: 0.023, ..GOOD };

#[test]
fn a_breach_that_lasts_trips_once_and_a_blip_never() {
    let mut t = TriggerState::new(trigger(15));
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
fn a_trigger_never_rolls_back_while_legacy_breaches_too() {
    for (mode, word) in [(RollbackMode::Soft, "soft rollback"), (RollbackMode::Hard, "hard rollback")] {
        let back = Trigger { action: Action::Rollback(mode), ..trigger(0) };
        let source = next(Some(BAD));
        let tripped = TriggerState::new(back.clone()).evaluate(&source, s(1)).expect("tripped");
        assert_eq!((tripped.action, &tripped.evidence["action"]), (Action::Rollback(mode), &word.into()));

        source.legacy.set(Some(BAD));
        let tripped = TriggerState::new(back.clone()).evaluate(&source, s(1)).expect("tripped");
        assert_eq!(tripped.action, Action::Pause);
        assert!(
            tripped.text.ends_with("legacy breaches too, so going back would not help: paused instead of rolled back")
        );
        assert_eq!((&tripped.evidence["wanted"], &tripped.evidence["action"]), (&word.into(), &"pause".into()));

        // What is not known of legacy is no breach of it.
        for legacy in [Sample { age: s(60), ..BAD }, Sample { samples: 3, ..BAD }, Sample { value: f64::NAN, ..BAD }] {
            source.legacy.set(Some(legacy));
            let tripped = TriggerState::new(back.clone()).evaluate(&source, s(1)).expect("tripped");
            assert_eq!(tripped.action, Action::Rollback(mode), "{legacy:?}");
        }
    }
}

#[test]
fn a_trigger_that_pauses_says_when_legacy_breaches_too() {
    let source = next(Some(BAD));
    source.legacy.set(Some(BAD));
    let tripped = TriggerState::new(trigger(0)).evaluate(&source, s(1)).expect("tripped");
    assert!(tripped.action == Action::Pause && tripped.text.ends_with("; legacy breaches too"), "{}", tripped.text);
}

#[test]
fn a_trigger_trips_again_only_once_it_has_cleared() {
    let mut t = TriggerState::new(Trigger { clear: Clear { below: 0.005, hold_for: s(5) }, ..trigger(0) });
    let mut at = 0;
    let mut see = |value: Option<f64>, secs: u64| {
        let source = next(value.map(|value| Sample { value, ..GOOD }));
        let mut trips = 0;
        for _ in 0..secs {
            trips += usize::from(t.evaluate(&source, s(at)).is_some());
            at += 1;
        }
        trips
    };
    assert_eq!(see(Some(0.02), 3), 1);
    assert_eq!(see(Some(0.008), 60) + see(Some(0.02), 3), 0, "between the two limits it has not cleared");
    assert_eq!(see(Some(0.001), 5) + see(Some(0.02), 3), 0, "nor for long enough");
    assert_eq!(see(None, 60) + see(Some(0.02), 3), 0, "nor by not being known");
    assert_eq!(see(Some(0.001), 6) + see(Some(0.02), 3), 1);
}

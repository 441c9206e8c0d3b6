use proptest::prelude::*;

use super::*;

fn s(n: u64) -> Micros {
    Micros::from_secs(n)
}

fn lag(actual: Option<f64>) -> Reading {
    Reading {
        name: "replication lag".into(),
        actual: actual.map(|x| x * 1e6),
        limit: 5e6,
        stop: Some(10e6),
        least: false,
        unit: Unit::Time,
    }
}

fn tickets(actual: Option<f64>) -> Reading {
    let name = "free read tickets".into();
    Reading { name, actual, limit: 0.1, stop: Some(0.025), least: true, unit: Unit::Share }
}

const FLOOR: u32 = 50;

fn bulk() -> Controller {
    Controller::new(FLOOR, true)
}

/// Steps once a second from `from` on and answers the speeds.
fn run(c: &mut Controller, from: u64, readings: &[Reading], seconds: u64) -> Vec<u32> {
    (from..from + seconds)
        .map(|t| {
            c.step(s(t), readings);
            c.speed()
        })
        .collect()
}

#[test]
fn it_backs_off_at_once_and_comes_back_step_by_step() {
    let mut c = bulk();
    assert_eq!(run(&mut c, 0, &[lag(Some(1.0))], 3), [1_000; 3]);
    assert_eq!(c.reason(), None);
    assert_eq!(run(&mut c, 3, &[lag(Some(6.1))], 5), [600, 600, 360, 360, 216]);
    assert_eq!(c.reason().unwrap(), "replication lag 6.1s > 5.0s, 22 % of full speed");
    assert_eq!(c.cause().unwrap().since, s(3));
    assert_eq!(run(&mut c, 8, &[lag(Some(4.5))], 10), [216; 10], "under the limit, not well under it");
    assert_eq!(c.reason().unwrap(), "replication lag 4.5s (limit 5.0s), 22 % of full speed");
    assert_eq!(run(&mut c, 18, &[lag(Some(1.0))], 5), [216, 216, 216, 266, 316]);
    assert_eq!(c.reason().unwrap(), "32 % of full speed after replication lag, growing");
    assert_eq!(run(&mut c, 23, &[lag(Some(1.0))], 14).last(), Some(&1_000));
    assert_eq!((c.reason(), c.cause()), (None, None));
}

#[test]
fn far_beyond_a_limit_it_stops_and_goes_on_from_the_floor() {
    let mut c = bulk();
    assert_eq!(run(&mut c, 0, &[lag(Some(12.0))], 2), [0, 0]);
    assert_eq!(c.reason().unwrap(), "replication lag 12.0s > 5.0s, stopped until it is below 10.0s");
    assert_eq!(run(&mut c, 2, &[lag(Some(12.0))], 30).last(), Some(&0));
    assert_eq!(run(&mut c, 32, &[lag(Some(9.0))], 5), [FLOOR; 5]);
    let mut tail = Controller::new(250, false);
    assert_eq!(run(&mut tail, 0, &[lag(Some(99.0))], 60).last(), Some(&250), "what must not stop does not");
}

#[test]
fn what_is_not_known_stops_growth_and_not_the_work() {
    let mut c = bulk();
    assert_eq!(run(&mut c, 0, &[lag(None)], 60), [1_000; 60]);
    run(&mut c, 60, &[lag(Some(20.0))], 20);
    assert_eq!(run(&mut c, 80, &[lag(None)], 60), [FLOOR; 60], "neither stopped nor faster");
    assert_eq!(c.reason().unwrap(), "replication lag is not known, 5 % of full speed");
    assert_eq!(run(&mut c, 140, &[lag(Some(1.0)), tickets(None)], 60), [FLOOR; 60]);
    assert_eq!(run(&mut c, 200, &[lag(Some(1.0)), tickets(Some(0.9))], 60).last(), Some(&1_000));
}

#[test]
fn of_several_the_worst_is_named() {
    let mut c = bulk();
    c.step(s(0), &[lag(Some(5.5)), tickets(Some(0.05))]);
    assert_eq!(c.reason().unwrap(), "free read tickets 5.0 % < 10.0 %, 60 % of full speed");
    c.step(s(1), &[lag(Some(5.5)), tickets(Some(0.0))]);
    assert_eq!(c.reason().unwrap(), "free read tickets 0.0 % < 10.0 %, stopped until it is above 2.5 %");
}

fn reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        proptest::option::weighted(0.8, 0.0..20.0_f64).prop_map(lag),
        proptest::option::weighted(0.8, 0.0..1.0_f64).prop_map(tickets),
        Just(lag(Some(f64::NAN))),
    ]
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds_and_grows_only_when_all_is_known_and_well(
        steps in proptest::collection::vec((1_u64..4, proptest::collection::vec(reading(), 0..4)), 1..200),
        floor in 1_u32..400,
        may_stop in any::<bool>(),
    ) {
        let mut c = Controller::new(floor, may_stop);
        let mut now = Micros::ZERO;
        for (seconds, readings) in steps {
            let (before, stopped) = (c.speed, c.stopped);
            now += s(seconds);
            c.step(now, &readings);
            let bad = readings.iter().any(|r| r.pressure().is_none_or(|p| p > WELL_UNDER));
            prop_assert!((floor..=FULL).contains(&c.speed));
            prop_assert!(!bad || c.speed <= before, "grew on {readings:?}");
            prop_assert!(c.speed <= before + GROW, "grew too much");
            prop_assert!(c.speed >= (before * KEEP / FULL).max(floor), "fell too much");
            let over = readings.iter().any(|r| r.pressure().is_some_and(|p| p > 1.0));
            prop_assert!(over || c.speed >= before, "fell although nothing is over its limit");
            prop_assert!(!c.stopped || (may_stop && readings.iter().any(Reading::stops)));
            prop_assert_eq!(c.reason().is_some(), !c.is_full(), "a reason whenever it is held down");
            prop_assert!(!stopped || over || !c.stopped);
        }
        // Whatever it went through, it recovers.
        let at = now;
        for n in 1..=60 {
            c.step(at + s(n), &[lag(Some(0.1)), tickets(Some(0.9))]);
        }
        prop_assert_eq!(c.speed(), FULL);
    }
}

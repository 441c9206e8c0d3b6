//! Openings and closings, where clocks are set forwards and back too, and against a search minute by minute.

#![allow(clippy::unwrap_used, clippy::panic)]
use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// `2026-11-27 18:00`, on a zone's clocks.
fn ms(text: &str, in_zone: &str) -> i64 {
    instant(text.replace(' ', "T").parse().unwrap(), &zone(in_zone))
}

fn window(days: &[Weekday], from: &str, to: &str, in_zone: &str) -> Window {
    let minutes = |t: &str| {
        let (h, m) = t.split_once(':').unwrap();
        h.parse::<u16>().unwrap() * 60 + m.parse::<u16>().unwrap()
    };
    Window { days: days.to_vec(), from: minutes(from), to: minutes(to), zone: zone(in_zone) }
}

fn freeze(from: &str, to: &str, in_zone: &str) -> Freeze {
    let at = |t: &str| t.replace(' ', "T").parse().unwrap();
    Freeze { from: at(from), to: at(to), zone: zone(in_zone), reason: "year-end closing".into() }
}

const WORKDAYS: [Weekday; 5] =
    [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday];
const ALL_DAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

#[test]
fn without_a_word_it_is_always_open() {
    assert_eq!(Calendar::default().look(0), Opening::Open { until_ms: None });
}

#[test]
fn a_window_opens_and_closes_on_its_zones_clocks() {
    let c = Calendar { windows: vec![window(&WORKDAYS, "09:00", "17:00", "Europe/Berlin")], freezes: Vec::new() };
    // A Friday evening.
    let evening = ms("2026-11-27 17:00", "Europe/Berlin");
    let monday = ms("2026-11-30 09:00", "Europe/Berlin");
    let why = "closed until Mon 2026-11-30 09:00 Europe/Berlin: outside the change window".to_owned();
    assert_eq!(c.look(evening), Opening::Closed { why, opens_ms: Some(monday) });
    assert_eq!(c.look(evening - 1), Opening::Open { until_ms: Some(evening) });
    assert_eq!(c.closed(monday), None);
    assert!(c.closed(monday - 1).is_some());
    assert_eq!(monday, ms("2026-11-30 08:00", "UTC"));
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_that_it_begins_on() {
    let c = Calendar { windows: vec![window(&[Weekday::Saturday], "22:00", "04:00", "UTC")], freezes: Vec::new() };
    for (at, open) in [
        ("2026-11-28 03:00", false),
        ("2026-11-28 21:59", false),
        ("2026-11-28 22:00", true),
        ("2026-11-29 03:59", true),
        ("2026-11-29 04:00", false),
        ("2026-11-29 22:30", false),
    ] {
        assert_eq!(c.closed(ms(at, "UTC")).is_none(), open, "{at}");
    }
    assert_eq!(c.look(ms("2026-11-29 01:00", "UTC")), Opening::Open { until_ms: Some(ms("2026-11-29 04:00", "UTC")) });
}

#[test]
fn a_window_that_ends_at_midnight_ends_with_its_day() {
    let c =
        Calendar { windows: vec![window(&[Weekday::Sunday], "00:00", "24:00", "Asia/Kolkata")], freezes: Vec::new() };
    let begins = ms("2026-11-29 00:00", "Asia/Kolkata");
    assert_eq!(c.look(begins), Opening::Open { until_ms: Some(begins + 24 * HOUR) });
    assert!(c.closed(begins - 1).is_some());
}

#[test]
fn windows_that_meet_close_once() {
    let halves =
        [window(&[Weekday::Monday], "08:00", "12:00", "UTC"), window(&[Weekday::Monday], "12:00", "18:00", "UTC")];
    let c = Calendar { windows: halves.to_vec(), freezes: Vec::new() };
    assert_eq!(c.look(ms("2026-11-30 09:00", "UTC")), Opening::Open { until_ms: Some(ms("2026-11-30 18:00", "UTC")) });
}

#[test]
fn a_window_keeps_its_hours_when_clocks_are_set() {
    let c = Calendar { windows: vec![window(&ALL_DAYS, "01:00", "04:00", "Europe/Berlin")], freezes: Vec::new() };
    // Forward on 29 March 2026: 02:00 becomes 03:00, so that the night has an hour less; back on 25 October, one more.
    for (day, hours) in [("2026-03-28", 3), ("2026-03-29", 2), ("2026-10-25", 4), ("2026-10-26", 3)] {
        let begins = ms(&format!("{day} 01:00"), "Europe/Berlin");
        assert_eq!(c.look(begins), Opening::Open { until_ms: Some(begins + hours * HOUR) }, "{day}");
    }
    // Where 02:30 is skipped, it is 03:30; where it comes twice, the first.
    let c = Calendar { windows: vec![window(&ALL_DAYS, "02:30", "05:00", "Europe/Berlin")], freezes: Vec::new() };
    let Opening::Closed { opens_ms, .. } = c.look(ms("2026-03-29 01:00", "Europe/Berlin")) else { panic!("open") };
    assert_eq!(opens_ms, Some(ms("2026-03-29 01:30", "UTC")), "03:30 in Berlin");
    let Opening::Closed { opens_ms, .. } = c.look(ms("2026-10-25 01:00", "Europe/Berlin")) else { panic!("open") };
    assert_eq!(opens_ms, Some(ms("2026-10-25 00:30", "UTC")));
}

#[test]
fn a_freeze_goes_before_every_window() {
    let c = Calendar {
        windows: vec![window(&WORKDAYS, "09:00", "17:00", "Europe/Berlin")],
        freezes: vec![freeze("2026-12-18 00:00", "2027-01-05 00:00", "Europe/Berlin")],
    };
    let at = ms("2026-12-21 10:00", "Europe/Berlin");
    let why = "closed until Tue 2027-01-05 09:00 Europe/Berlin: change freeze, year-end closing".to_owned();
    assert_eq!(c.look(at), Opening::Closed { why, opens_ms: Some(ms("2027-01-05 09:00", "Europe/Berlin")) });
    // It closes a window that is open.
    let c = Calendar { freezes: vec![freeze("2026-11-27 12:00", "2026-11-27 13:00", "Europe/Berlin")], ..c };
    let noon = ms("2026-11-27 12:00", "Europe/Berlin");
    assert_eq!(c.look(noon - HOUR), Opening::Open { until_ms: Some(noon) });
    assert_eq!(c.look(noon + HOUR), Opening::Open { until_ms: Some(noon + 5 * HOUR) });
    // Alone, it leaves everything else open.
    let c = Calendar { windows: Vec::new(), ..c };
    assert_eq!(c.look(noon - 100 * HOUR), Opening::Open { until_ms: Some(noon) });
    assert_eq!(c.look(noon + 2 * HOUR), Opening::Open { until_ms: None });
}

fn any_window() -> impl Strategy<Value = Window> {
    let zones =
        prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"]);
    (prop::sample::subsequence(ALL_DAYS.to_vec(), 1..=7), 0..DAY, 1..=DAY, zones)
        .prop_filter("not empty", |(_, from, to, _)| from != to)
        .prop_map(|(days, from, to, name)| Window { days, from, to, zone: zone(name) })
}

/// Within some days of a change of clocks in Berlin, New York and on Lord Howe Island, and of the end of a year.
fn any_moment() -> impl Strategy<Value = i64> {
    let near = [
        "2026-03-08 00:00",
        "2026-03-29 00:00",
        "2026-04-05 00:00",
        "2026-10-04 00:00",
        "2026-10-25 00:00",
        "2026-12-31 00:00",
    ];
    (prop::sample::select(near.to_vec()), -4 * 24 * 60i64..4 * 24 * 60).prop_map(|(day, n)| ms(day, "UTC") + n * MINUTE)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What it says of a moment is what a search minute by minute finds, and nothing changes before it says so.
    #[test]
    fn what_it_says_is_what_comes(windows in prop::collection::vec(any_window(), 0..3), from in any_moment(), frozen in 0i64..3_000, at in any_moment()) {
        let civil = |ms: i64| stamp(ms).to_zoned(TimeZone::UTC).datetime();
        let freezes = match frozen {
            0..1_000 => Vec::new(),
            n => vec![Freeze { from: civil(from), to: civil(from + n * MINUTE), zone: TimeZone::UTC, reason: "r".into() }],
        };
        let c = Calendar { windows, freezes };
        let (is_open, changes) = match c.look(at) {
            Opening::Open { until_ms } => (true, until_ms),
            Opening::Closed { opens_ms, .. } => (false, opens_ms),
        };
        prop_assert_eq!(is_open, c.is_open(at));
        prop_assert!(is_open || changes.is_some(), "a week has every window");
        let end = changes.unwrap_or(i64::MAX).min(at + 12 * 24 * HOUR);
        let mut t = at;
        while t < end {
            prop_assert_eq!(c.is_open(t), is_open, "{} is after {}", t, at);
            t += 7 * MINUTE;
        }
        if let Some(changes) = changes {
            prop_assert_eq!(c.is_open(changes - 1), is_open);
            prop_assert_eq!(c.is_open(changes), !is_open);
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::plan::Slo;
use crate::snapshot::{HEAT_COLUMN, HEAT_ROWS};

fn s(secs: u64) -> Micros {
    Micros::from_secs(secs)
}

fn ms(ms: u64) -> Micros {
    Micros::from_ms(ms)
}

#[test]
fn percentiles_are_those_of_all_samples_together() {
    let mut series = LatencySeries::new();
    // 99 % fast in one slice, slow in the next: an average of the two p99s would be far off.
    series.record_n(s(1), ms(1), 9_900);
    series.record_n(s(6), ms(100), 100);
    let w = series.window(s(9), s(60));
    assert_eq!((w.count, w.max, w.newest), (10_000, Some(ms(100)), Some(s(6))));
    assert!(w.p99.is_some_and(|v| v.0.abs_diff(1_000) <= 10), "{w:?}");
    assert_eq!(w.p999, Some(ms(100)));
    assert_eq!(w.mean, Some(Micros(1_990)));
    assert_eq!(series.window(s(9), s(3)).p50, Some(ms(100)));
}

#[test]
fn a_window_is_made_of_whole_slices_and_ends_after_five_minutes() {
    let mut series = LatencySeries::new();
    for t in 0..400 {
        series.record(s(t), ms(2));
    }
    assert_eq!(series.window(s(399), s(60)).count, 65, "335 to 399");
    let all = series.window(s(399), s(3_600));
    assert_eq!((all.count, all.covered), (305, s(304)));
    assert_eq!(series.window(s(800), s(60)), WindowStats { covered: s(60), ..WindowStats::default() });
    series.record(s(10), ms(2));
    assert_eq!(series.window(s(399), s(3_600)).count, 305, "what is too old is not kept");
}

#[test]
fn values_outside_the_range_count_at_its_ends() {
    let mut series = LatencySeries::new();
    series.record(s(1), Micros::ZERO);
    assert_eq!(series.window(s(1), s(5)).max, Some(Micros(1)));
    series.record_n(s(1), Micros::MAX, u64::MAX);
    assert_eq!(series.window(s(1), s(5)).p99, Some(s(60)));
}

#[test]
fn a_view_shows_a_percentile_only_with_enough_samples() {
    let mut series = LatencySeries::new();
    assert_eq!(series.view(s(1)).p50, None);
    for n in 0..20 {
        series.record(ms(1_000 + n), ms(3));
    }
    let v = series.view(s(3));
    assert_eq!((v.count, v.p50.is_some(), v.p90, v.p99, v.max), (20, true, None, None, Some(ms(3))));
    assert_eq!(v.bins.iter().sum::<u32>(), 20);
    assert_eq!(v.bins[axis::bin(ms(3))], 20);
    assert_eq!(v.age, Some(Micros(1_981_000)));
    series.record_n(s(3), ms(3), 980);
    series.record_errors(s(3), 250);
    let v = series.view(s(3));
    assert_eq!((v.p99.is_some(), v.p999, v.error_ratio), (true, None, Some(0.2)));
}

#[test]
fn heat_columns_and_history_have_no_gaps_and_an_end() {
    let mut series = LatencySeries::new();
    series.record_n(s(2), ms(1), 100);
    series.record_n(s(21), ms(4), 50);
    let v = series.view(s(31));
    let starts: Vec<u64> = v.heat.iter().map(|c| c.start.0 / 1_000_000).collect();
    assert_eq!(starts, [0, 5, 10, 15, 20, 25, 30]);
    assert_eq!((v.heat[0].rows[axis::row(ms(1))], v.heat[4].rows[axis::row(ms(4))]), (100, 50));
    assert_eq!(v.heat[5].rows, [0; HEAT_ROWS]);
    assert_eq!(v.p99_history, [Some(ms(1)), None, None, None, None, None, None]);
    for t in 0..2_000 {
        series.record_n(s(40 + t), ms(1), 30);
    }
    let v = series.view(s(2_039));
    assert_eq!((v.heat.len(), v.p99_history.len()), (120, 60));
    assert!(v.p99_history.iter().all(Option::is_some));
    assert_eq!(v.heat[119].start, s(2_035));
    assert!(v.heat.windows(2).all(|w| w[1].start == w[0].start + HEAT_COLUMN));
}

#[test]
fn a_stage_sees_only_what_was_measured_in_it() {
    let mut m = Metrics::new();
    let p99 = |m: &Metrics, now| m.sample("latency.read.p99", Some(Side::Next), s(60), now);
    m.record_latency(OpKind::Read, Side::Next, s(11), ms(90), 5_000);
    m.set("lag.apply", None, s(11), 9e6);
    m.record_shadow(s(11), 100, 50);
    m.begin_stage(s(12));
    assert_eq!(p99(&m, s(12)), None);
    assert_eq!(m.sample("lag.apply", None, s(60), s(12)), None);
    assert_eq!(m.sample("shadow.mismatch_ratio", None, s(60), s(12)), None);
    m.record_latency(OpKind::Read, Side::Next, s(13), ms(5), 100);
    // A late answer of the stage before.
    m.record_latency(OpKind::Read, Side::Next, Micros(11_999_999), ms(90), 7);
    m.set("lag.apply", None, s(13), 1e6);
    m.record_shadow(s(13), 100, 1);
    let got = p99(&m, s(14)).expect("measured");
    assert_eq!((got.value, got.samples, got.age), (5_000.0, 100, s(1)));
    assert_eq!(m.sample("lag.apply", None, s(60), s(14)).map(|x| x.value), Some(1e6));
    assert_eq!(m.sample("shadow.mismatch_ratio", None, s(60), s(14)).map(|x| (x.value, x.samples)), Some((0.01, 100)));
    assert_eq!(m.latency_view(OpKind::Read, Side::Next, s(14)).count, 5_107, "the screen goes on showing it");
    assert_eq!(m.latency_view(OpKind::Read, Side::Next, s(14)).p99_history.len(), 1);
}

#[test]
fn rates_and_shares() {
    let mut m = Metrics::new();
    for t in 0..100 {
        m.record_latency(OpKind::Write, Side::Next, s(t), ms(1), 20);
        m.record_errors(OpKind::Write, Side::Next, s(t), 5);
    }
    let now = Micros(99_999_999);
    let get = |name| m.sample(name, Some(Side::Next), s(60), now).expect(name);
    assert_eq!((get("errors.write.rate").value, get("errors.write.rate").samples), (0.2, 65 * 25));
    let rate = get("throughput.write").value;
    assert!((rate - 20.0).abs() < 0.01, "{rate}");
    assert_eq!(m.sample("errors.write.rate", None, s(60), now), None, "without its side");
    assert_eq!(m.sample("errors.write.rate", Some(Side::Legacy), s(60), now), None);
    assert_eq!(m.sample("latency.write.p42", Some(Side::Next), s(60), now), None);
    let later = m.sample("errors.write.rate", Some(Side::Next), s(60), s(300)).expect("known once");
    assert!(later.value.is_nan() && later.samples == 0 && later.age == s(201));
}

#[test]
fn failures_alone_make_an_error_rate() {
    let mut m = Metrics::new();
    m.record_errors(OpKind::Read, Side::Next, s(1), 3);
    let got = m.sample("errors.read.rate", Some(Side::Next), s(30), s(2)).expect("measured");
    assert_eq!((got.value, got.samples), (1.0, 3));
    assert_eq!(m.sample("latency.read.p50", Some(Side::Next), s(30), s(2)), None);
}

#[test]
fn lags_answer_with_their_worst_moment_and_other_gauges_with_the_latest() {
    let mut m = Metrics::new();
    for (t, v) in [(1, 5.0), (10, 1.0), (20, 2.0)] {
        m.set("lag.apply", None, s(t), v);
        m.set("reconcile.missing", None, s(t), v);
    }
    let get = |name, window| m.sample(name, None, s(window), s(21)).map(|x| (x.value, x.samples, x.age));
    assert_eq!(get("lag.apply", 60), Some((5.0, 3, s(1))));
    assert_eq!(get("lag.apply", 12), Some((2.0, 2, s(1))));
    assert_eq!(get("reconcile.missing", 60), Some((2.0, 3, s(1))));
    assert_eq!(get("reconcile.missing", 0), Some((2.0, 1, s(1))), "an old value is known by its age");
    assert_eq!(get("writes.stray", 60), None);
    assert!(m.sample("lag.apply", Some(Side::Next), s(60), s(21)).is_some(), "a gauge without sides answers for both");
    m.set("lag.apply", None, s(21), f64::NAN);
    m.set("lag.apply", None, Micros(21_500_000), 1.0);
    let got = m.sample("lag.apply", None, s(60), s(22)).expect("set");
    assert!(got.value.is_nan(), "a moment that could not be measured is not passed over");
    let gauge = m.gauge("lag.apply", None).expect("set");
    assert_eq!((gauge.latest(), gauge.age(s(22))), (Some((Micros(21_500_000), 1.0)), Some(Micros(500_000))));
    assert_eq!(gauge.history(s(22), 4), [Some(2.0), Some(1.0), None]);
}

#[test]
fn burn_rates_and_budgets_follow_the_objective() {
    let mut m = Metrics::new();
    let get = |m: &Metrics, name, window, now| m.sample(name, None, s(window), s(now));
    m.record_latency(OpKind::Read, Side::Next, s(1), ms(1), 100);
    assert_eq!(get(&m, "slo.read.burn_rate", 60, 1), None, "without an objective");
    m.set_slo(Some(Slo { objective: 0.99, period: s(36_000), latency: Some(ms(100)) }));
    assert_eq!(get(&m, "slo.read.burn_rate", 60, 1), None, "without an operation");
    // An hour in which 2 of 100 fail, by an error or by being slow; twice what the objective allows.
    for t in 0..3_600 {
        m.record_latency(OpKind::Read, Side::Legacy, s(t), ms(100), 98);
        m.record_latency(OpKind::Read, Side::Next, s(t), ms(101), 1);
        m.record_errors(OpKind::Read, Side::Next, s(t), 1);
    }
    let near = |x: Option<Sample>, v: f64| assert!(x.is_some_and(|x| (x.value - v).abs() < 1e-9), "{x:?} is not {v}");
    near(get(&m, "slo.read.burn_rate", 300, 3_600), 2.0);
    near(get(&m, "slo.read.budget_left", 60, 3_600), 0.8);
    near(m.sample("slo.read.burn_rate", Some(Side::Next), s(300), s(3_600)), 100.0);
    near(m.sample("slo.read.burn_rate", Some(Side::Legacy), s(300), s(3_600)), 0.0);
    assert_eq!(get(&m, "slo.write.burn_rate", 300, 3_600), None);
    // A stage sees its own short window, the long one reaches back, and neither passes on old news.
    m.begin_stage(s(3_600));
    assert_eq!(get(&m, "slo.read.burn_rate", 300, 3_601), None);
    assert_eq!(m.sample_across("slo.read.burn_rate", None, s(3_600), s(3_601)), None);
    m.record_latency(OpKind::Read, Side::Next, s(3_601), ms(1), 100);
    near(get(&m, "slo.read.burn_rate", 300, 3_601), 0.0);
    let long = m.sample_across("slo.read.burn_rate", None, s(3_600), s(3_601)).expect("measured");
    assert!(long.value > 1.9 && long.samples > 350_000, "{long:?}");
}

#[test]
fn a_distribution_has_every_operation_of_the_stage_in_its_class() {
    let mut m = Metrics::new();
    m.record_latency(OpKind::Write, Side::Next, s(10), ms(90), 50);
    m.begin_stage(s(11));
    assert_eq!(m.distribution(OpKind::Write, Side::Next, s(60), s(12)), None);
    for (us, n) in [(5, 7), (1_000, 3), (1_001, 4), (90_000, 1)] {
        m.record_latency(OpKind::Write, Side::Next, s(12), Micros(us), n);
    }
    let d = m.distribution(OpKind::Write, Side::Next, s(60), s(13)).expect("measured");
    assert_eq!((d.count, d.age), (15, s(1)));
    assert_eq!(d.classes.iter().map(|c| c.1).collect::<Vec<_>>(), [7, 7, 1]);
    assert!(
        d.classes.iter().zip([5.0, 1_000.0, 90_000.0]).all(|(c, us)| c.0 as f64 >= us && c.0 as f64 <= us * 1.01 + 1.0)
    );
}

#[test]
fn memory_is_bounded() {
    let mut ring = ring::Ring::new(s(1), 10);
    for t in 0..1_000_u64 {
        ring.cut(Micros(t * 50_000 + 1));
        ring.slice(Micros(t * 50_000 + 2), || ()).expect("kept");
        assert!(ring.len() <= 18);
    }
}

proptest! {
    #[test]
    fn a_window_agrees_with_sorting_its_samples(samples in prop::collection::vec((0_u64..300, 1_u64..60_000_000), 1..300), span in 1_u64..300) {
        let mut series = LatencySeries::new();
        for (t, v) in &samples {
            series.record(s(*t), Micros(*v));
        }
        let from = (300 - span) / 5 * 5;
        let mut wanted: Vec<u64> = samples.iter().filter(|(t, _)| *t >= from).map(|(_, v)| *v).collect();
        wanted.sort_unstable();
        let w = series.window(s(300), s(span));
        prop_assert_eq!(w.count, wanted.len() as u64);
        prop_assert_eq!(w.max.map(|v| v.0), wanted.last().copied());
        for (q, got) in [(0.5, w.p50), (0.9, w.p90), (0.99, w.p99)] {
            let rank = ((wanted.len() as f64 * q).ceil() as usize).max(1) - 1;
            match (wanted.get(rank), got) {
                (Some(v), Some(got)) => prop_assert!(got.0 >= *v && got.0 as f64 <= *v as f64 * 1.01 + 1.0, "{} {}", v, got.0),
                (None, None) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

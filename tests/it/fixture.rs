//! Snapshots to draw: a canary with a failing gate, and a rollout of which nothing is known yet. Also used by benches/frame.rs.

use tidegate::runtime::Micros;
use tidegate::snapshot::{
    ApplicationView, EventLine, GateView, HEAT_COLUMN, HEAT_ROWS, HeatColumn, LATENCY_BINS, LagView, LatencyView,
    Phase, PlanView, ReconcileView, RouteView, Snapshot, StageStatus, StageView, TrafficView, Verdict, WayBack,
};

const AT: Micros = Micros::from_secs(7_327);
const WALL_MS: i64 = 1_700_058_127_000;

/// A draw that is the same on every machine: SplitMix64 of the inputs.
fn draw(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A hump around `centre` (in steps of the axis) with a second, slower one of `slow` percent.
fn hump(axis: usize, centre: f64, spread: f64, slow: f64, slow_centre: f64) -> Vec<u32> {
    (0..axis)
        .map(|i| {
            let bell = |c: f64, s: f64| (-((i as f64 - c) / s).powi(2)).exp();
            (10_000.0 * (bell(centre, spread) + slow / 100.0 * bell(slow_centre, spread * 1.6))) as u32
        })
        .collect()
}

fn latency(next: bool, columns: u64) -> LatencyView {
    let slow_since = if next { 34 } else { u64::MAX };
    let heat = (0..columns)
        .map(|n| {
            let age = columns - n;
            let slow = if age < slow_since && slow_since != u64::MAX { 3.0 + 9.0 * f64::from(age < 14) } else { 0.8 };
            let shape = hump(HEAT_ROWS, 4.4, 1.0, slow, 7.4);
            let mut rows = [0; HEAT_ROWS];
            for (row, share) in rows.iter_mut().zip(shape) {
                *row = (share / 60 * (70 + draw(n, u64::from(share)) as u32 % 40)) / 90;
            }
            if next && draw(n, 7).is_multiple_of(17) {
                rows[12] = 1;
            }
            // The newest column has only begun to fill.
            if n + 1 == columns {
                rows = rows.map(|c| c / 6);
            }
            HeatColumn { start: Micros(AT.0 / HEAT_COLUMN.0 * HEAT_COLUMN.0 - (age - 1) * HEAT_COLUMN.0), rows }
        })
        .collect();
    let shape = if next { hump(LATENCY_BINS, 16.5, 2.6, 11.0, 28.0) } else { hump(LATENCY_BINS, 16.0, 2.6, 0.9, 24.0) };
    let mut bins = [0; LATENCY_BINS];
    bins.copy_from_slice(&shape);
    if next {
        bins[47] = 40;
        bins[52] = 12;
        bins[LATENCY_BINS - 1] = 2;
    }
    let ms = |x: f64| Some(Micros((x * 1e3) as u64));
    let p99_history = (0..60)
        .map(|n: u64| {
            let base = if next { 20.0 + 12.0 * (n as f64 / 60.0).powi(2) } else { 22.0 };
            ms(base + (draw(n, 3) % 30) as f64 / 10.0)
        })
        .collect();
    let view = LatencyView { p99_history, bins, heat, age: Some(Micros::from_ms(400)), ..LatencyView::default() };
    if next {
        LatencyView {
            count: 18_204,
            rate: 303.4,
            p50: ms(4.2),
            p90: ms(18.4),
            p99: ms(31.2),
            p999: ms(1_410.0),
            max: ms(1_940.0),
            error_ratio: Some(0.0002),
            ..view
        }
    } else {
        LatencyView {
            count: 54_612,
            rate: 910.2,
            p50: ms(3.9),
            p90: ms(7.8),
            p99: ms(23.8),
            p999: ms(88.0),
            max: ms(212.0),
            error_ratio: Some(0.0001),
            ..view
        }
    }
}

fn gates() -> Vec<GateView> {
    let s = Micros::from_secs;
    let gate = |name: &str, actual, limit, relation, unit, room, verdict, held, hold_for, samples| GateView {
        name: name.into(),
        actual: Some(actual),
        limit,
        relation,
        unit,
        room: Some(room),
        verdict,
        held,
        hold_for,
        samples,
        min_samples: 1_000,
        age: Some(Micros::from_ms(400)),
    };
    use Verdict::{Fail, Holding, Inconclusive, Pass};
    vec![
        gate("next read p99", 31.2, 25.0, "<=", "ms", -0.25, Fail, s(42), s(60), 18_204),
        GateView {
            name: "next write p99".into(),
            actual: None,
            limit: 25.0,
            relation: "<=",
            unit: "ms",
            room: None,
            verdict: Inconclusive,
            samples: 412,
            min_samples: 1_000,
            hold_for: s(60),
            ..GateView::default()
        },
        gate("apply lag", 4.1, 5.0, "<=", "s", 0.18, Holding, s(12), s(30), 120),
        gate("p99 to legacy", 1.31, 1.5, "<=", "x", 0.13, Pass, s(60), s(60), 18_204),
        gate("write errors", 0.02, 0.1, "<=", "%", 0.8, Pass, s(15), s(15), 18_204),
        gate("differing", 0.0, 0.0, "<=", "", 0.0, Pass, s(600), s(0), 1_240_000),
        gate("oplog window", 148_320.0, 21_600.0, ">=", "s", 5.87, Pass, s(60), s(60), 60),
    ]
}

fn stages() -> Vec<StageView> {
    let stage = |id: &str, status, reads, writes, minutes: u64, soak: u64| StageView {
        id: id.into(),
        status,
        reads,
        writes,
        shadow: 20,
        elapsed: Micros::from_secs(minutes * 60),
        soak: Micros::from_secs(soak * 60),
        operator: true,
        ..StageView::default()
    };
    use StageStatus::{Current, Passed, Pending};
    vec![
        stage("copy", Passed, 0, 0, 72, 0),
        stage("verify", Passed, 0, 0, 8, 0),
        stage("shadow", Passed, 0, 0, 22, 20),
        StageView {
            elapsed: Micros::from_secs(724),
            soaked: Micros::from_secs(724),
            runbook: Some("runbook.md#canary".into()),
            ..stage("canary", Current, 25, 10, 12, 30)
        },
        stage("half", Pending, 50, 50, 0, 30),
        stage("full", Pending, 100, 100, 0, 30),
        StageView { irreversible: true, ..stage("contract", Pending, 100, 100, 0, 0) },
    ]
}

fn events() -> Vec<EventLine> {
    let line = |seq, ago: i64, by: &str, kind: &str, text: &str| EventLine {
        seq,
        wall_ms: WALL_MS - ago * 1_000,
        by: by.into(),
        kind: kind.into(),
        text: text.into(),
    };
    vec![
        line(38, 2_064, "engine", "stage_passed", "shadow passed after 22m00s: 5 of 5 gates held"),
        line(39, 2_060, "operator", "advance", "ana leaves shadow for canary"),
        line(
            40,
            724,
            "engine",
            "route",
            "epoch 17 -> 18: reads on next 10% -> 25%, writes 10%; 2 of 2 applications acknowledged in 0.8s",
        ),
        line(
            41,
            129,
            "engine",
            "verified",
            "shop.orders verified through 14:21:58Z: 1 204 331 matched, 0 missing, 0 extra, 0 differing",
        ),
        line(
            42,
            42,
            "trigger",
            "gate",
            "next read p99 fails: 31.0ms > 25.0ms; pauses the rollout if it stays so for 60s",
        ),
    ]
}

/// Mid-canary: reads and writes on next, one gate failing, one without enough samples, apply lag growing.
pub fn canary() -> Snapshot {
    let writes = |next| {
        let mut view = latency(next, 96);
        view.count /= 40;
        view.rate /= 40.0;
        view.p99 = None;
        view.p999 = None;
        view
    };
    Snapshot {
        throttle: None,
        load: Default::default(),
        latency_source: Some(tidegate::snapshot::LatencySource::Applications),
        strand: None,
        unpublished: None,
        trace: None,
        at: AT,
        wall_ms: WALL_MS,
        plan: PlanView {
            id: "orders-v2".into(),
            title: "Flat customer, decimal totals".into(),
            environment: "production".into(),
            mode: "route".into(),
            hash: "9f2c41d07be3a655".into(),
            collections: vec![("shop.orders".into(), "shop.orders_v2".into())],
            max_staleness: Micros::from_secs(2),
        },
        epoch: 18,
        holder: "ana@runner-a".into(),
        drill: false,
        phase: Phase::Soaking,
        why: "canary soaks while its gates are watched".into(),
        if_nothing: "pauses by itself in 18s if next read p99 stays above 25.0ms".into(),
        activity: None,
        stages: stages(),
        route: RouteView { epoch: 18, shadow: 20, reads_next_below: 256, writes_next_below: 103, frozen: None },
        pilot: None,
        gates: gates(),
        reads: [latency(false, 96), latency(true, 96)],
        writes: [writes(false), writes(true)],
        lag: LagView {
            members: vec![
                ("rs0-a".into(), "PRIMARY".into(), Some(Micros::ZERO)),
                ("rs0-b".into(), "SECONDARY".into(), Some(Micros::from_ms(1_200))),
                ("rs0-c".into(), "SECONDARY".into(), Some(Micros::from_ms(300))),
            ],
            apply: Some(Micros::from_ms(4_100)),
            reverse: Some(Micros::from_ms(300)),
            apply_history: (0..90)
                .map(|n| Some(Micros::from_ms(600 + 3_500 * n * n / (89 * 89) + draw(n, 5) % 200)))
                .collect(),
            limit: Some(Micros::from_secs(5)),
            source_rate: 9_100.0,
            apply_rate: 8_200.0,
            oplog_window: Some(Micros::from_secs(148_320)),
        },
        reconcile: vec![
            ReconcileView {
                collection: "orders".into(),
                matched: Some(1_204_331),
                missing: Some(0),
                extra: Some(0),
                differing: Some(0),
                in_flight: Some(12),
                checked: Some(1.0),
                verified_through_ms: Some(WALL_MS - 9_000),
                running: false,
            },
            ReconcileView {
                collection: "payments".into(),
                matched: Some(155_741),
                missing: Some(0),
                extra: Some(0),
                checked: Some(0.54),
                verified_through_ms: Some(WALL_MS - 9_000),
                running: true,
                ..ReconcileView::default()
            },
        ],
        calendar: None,
        traffic: TrafficView {
            acknowledged: 812_400,
            lost: Some(0),
            stale_copy: 41,
            shadow: (0, 18_204),
            ..TrafficView::default()
        },
        way_back: WayBack {
            open: true,
            writes_at_risk: Some(0),
            until_stage: Some("contract".into()),
            seconds_at_risk: Some(Micros::from_ms(100)),
            freeze: Some(Micros::from_ms(269)),
            text: "back in about 4s, one freeze of writes".into(),
        },
        back: None,
        rest: None,
        events: events(),
        applications: vec![
            ApplicationView { name: "checkout-1".into(), epoch: 18, age: Micros::from_ms(600) },
            ApplicationView { name: "checkout-2".into(), epoch: 17, age: Micros::from_secs(9) },
        ],
    }
}

/// A rollout that has just begun: almost nothing is known.
pub fn early() -> Snapshot {
    let mut s = canary();
    let stages = s.stages.into_iter().map(|st| StageView {
        status: if st.id == "copy" { StageStatus::Current } else { StageStatus::Pending },
        elapsed: Micros::ZERO,
        soaked: Micros::ZERO,
        ..st
    });
    s.stages = stages.collect();
    Snapshot {
        at: Micros::from_ms(300),
        plan: s.plan,
        stages: s.stages,
        wall_ms: WALL_MS,
        why: "taking the lease".into(),
        ..Snapshot::default()
    }
}

/// The copy under way in a drill.
pub fn copying() -> Snapshot {
    let mut s = early();
    s.drill = true;
    s.epoch = 1;
    s.holder = "you".into();
    s.phase = Phase::Working;
    s.why = "copying shop.orders".into();
    s.if_nothing = "the copy finishes in about 1m40s, then verify begins by itself".into();
    s.activity = Some(tidegate::snapshot::Activity {
        name: "backfill".into(),
        done: 412_000,
        total: Some(1_240_000),
        rate: Some(8_230.0),
        eta: Some(Micros::from_secs(100)),
        throttled: Some("throttled: replication lag 5.2s > 5.0s, 40 % of full speed".into()),
    });
    s.way_back = WayBack {
        open: true,
        writes_at_risk: Some(0),
        until_stage: Some("contract".into()),
        seconds_at_risk: Some(Micros::ZERO),
        freeze: Some(Micros::ZERO),
        text: "nothing has moved; dropping the copy undoes everything".into(),
    };
    s.reads[0] = latency(false, 20);
    s
}

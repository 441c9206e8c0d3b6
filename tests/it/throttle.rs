//! tidegate's own work gives way: what holds it back, that it says so, that it recovers, and what is never held back.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate::cluster::embedded::{self, Embedded, Pressure};
use tidegate::cluster::{Cluster, Db, Key, Ns, WriteOp};
use tidegate::drill::{Drill, World};
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::{MemStore, Record, show};
use tidegate::metrics::names::label;
use tidegate::plan::{Advance, METRICS, Plan, UnitKind};
use tidegate::route::Side;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::{Command, LatencySource, Snapshot, StageStatus};

use super::drill::{Run, run, scenario, small};

const S: fn(u64) -> Micros = Micros::from_secs;

fn plan(throttle: &str) -> Arc<Plan> {
    let text = format!(
        "{}[[collection]]\nlegacy = \"shop.orders\"\nnext = \"shop.orders_v2\"\n\
         steps = [{{ set = \"schema_version\", value = 2 }}]\n[throttle]\n{throttle}\n\
         [[stage]]\nid = \"copy\"\ndo = [\"create\", \"backfill\"]\nsoak = \"1s\"\n\
         [[stage]]\nid = \"reads\"\nreads = 10\nsoak = \"1h\"\n",
        head!("gives-way", "Gives way", "simulation")
    );
    Arc::new(Plan::parse(&text, "throttle.toml").unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// A copy in small chunks on an embedded cluster, without an application.
struct Copy {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    ns: Ns,
    next: Ns,
    journal: MemStore,
    engine: Engine,
}

impl Copy {
    fn of(documents: i64, throttle: &str) -> Copy {
        let (sim, plan) = (Sim::new(11), plan(throttle));
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let (ns, next) = (plan.collections[0].legacy.clone(), plan.collections[0].next.clone());
        cluster.load(&ns, (0..documents).map(|n| bson::rawdoc! { "_id": n, "n": n }).collect()).unwrap();
        let (db, journal): (Db, _) = (cluster.clone(), MemStore::new());
        let deps = Deps {
            rt: rt.clone(),
            group: Group(1),
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(journal.clone()),
            plan,
            on_record: Arc::new(|_| {}),
        };
        let config = engine::Config {
            holder: "test".into(),
            advance: Some(Advance::Auto),
            drill: true,
            chunk_docs: Some(20),
            ..engine::Config::default()
        };
        let engine = sim.block_on(engine::start(deps, config)).unwrap().unwrap();
        Copy { sim, rt, cluster, ns, next, journal, engine }
    }

    fn go(&self, span: Micros) -> Arc<Snapshot> {
        self.sim.run_until(self.rt.now() + span);
        self.engine.snapshot()
    }

    fn copied(&self) -> usize {
        self.cluster.count(&self.next)
    }

    /// Documents copied over the next `span`.
    fn pace(&self, span: Micros) -> usize {
        let before = self.copied();
        self.go(span);
        self.copied() - before
    }

    /// Runs until documents are being copied.
    fn begin(&self) {
        while self.copied() == 0 {
            assert!(self.rt.now() < S(60), "{}", self.log());
            self.go(Micros::from_ms(100));
        }
    }

    fn records(&self, kind: &str) -> Vec<Record> {
        self.journal.records().into_iter().filter(|r| r.kind == kind).collect()
    }

    fn log(&self) -> String {
        self.journal.records().iter().map(show).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn lag_during_the_copy_slows_it_says_why_and_it_recovers() {
    let copy = Copy::of(48_000, "max_lag = \"5s\"");
    copy.begin();
    let free = copy.pace(S(2));
    assert_eq!(copy.engine.snapshot().throttle, None);
    copy.cluster.faults().set_lag(2, S(7));
    copy.go(S(12));
    let slow = copy.pace(S(2));
    assert!(slow > 0 && slow < free / 8, "{free} documents in 2 s, then {slow}");
    // Looked at between two chunks, and at rest most of the time.
    let seen: Vec<Arc<Snapshot>> = (0..40).map(|_| copy.go(Micros::from_ms(50))).collect();
    let s = seen.iter().find(|s| s.activity.as_ref().is_some_and(|a| a.throttled.is_some())).expect("a reason");
    let said = s.activity.as_ref().unwrap().throttled.clone().unwrap();
    assert_eq!(said, "throttled: replication lag 7.0s > 5.0s, 5 % of full speed");
    assert!(s.why.contains(&said), "{}", s.why);
    let t = s.throttle.clone().expect("what holds it back");
    assert_eq!((t.signal.as_str(), t.actual.as_deref(), t.limit.as_str()), ("replication lag", Some("7.0s"), "5.0s"));
    assert!((t.speed - 0.05).abs() < 1e-9 && t.tail_speed >= 0.25 && t.held > S(10), "{t:?}");
    copy.cluster.faults().set_lag(2, Micros::ZERO);
    copy.go(S(30));
    assert_eq!(copy.engine.snapshot().throttle, None);
    copy.go(S(60));
    assert_eq!(copy.copied(), 48_000, "{}", copy.log());
    let (began, ended) = (copy.records("throttle_began"), copy.records("throttle_ended"));
    assert_eq!((began.len(), ended.len()), (1, 1), "{}", copy.log());
    assert_eq!(began[0].body["evidence"]["signal"], "replication lag");
    let e = &ended[0].body["evidence"];
    assert_eq!(e["lowest_speed"], 0.05);
    assert!(e["rested_ms"].as_u64().unwrap() > 5_000, "{e}");
}

#[test]
fn far_beyond_a_limit_the_copy_stops_and_it_goes_on_when_nobody_can_tell() {
    let copy = Copy::of(36_000, "min_tickets = 0.1");
    copy.begin();
    let faults = copy.cluster.faults();
    faults.set_pressure(Pressure { tickets: 127, ..Pressure::default() });
    let s = copy.go(S(3));
    assert!(s.why.contains("tickets") && s.why.contains("stopped until it is above 2.5 %"), "{}", s.why);
    assert_eq!((copy.pace(S(5)), s.load.read_tickets.map(|t| t.1)), (0, Some(128)));
    faults.set_tells_nothing(true);
    copy.go(S(7));
    let blind = copy.pace(S(10));
    let t = copy.engine.snapshot().throttle.clone().expect("still slow");
    assert!(blind > 0 && t.text.contains("free tickets is not known"), "{blind}, {t:?}");
    copy.go(S(30));
    assert_eq!(
        copy.engine.snapshot().throttle.as_ref().map(|t| t.speed),
        Some(t.speed),
        "no growth on what is not known"
    );
    faults.clear();
    copy.go(S(30));
    assert_eq!(copy.engine.snapshot().throttle, None);
}

#[test]
fn a_copy_goes_on_at_once_after_an_outage() {
    let copy = Copy::of(120_000, "max_lag = \"5s\"");
    copy.begin();
    let free = copy.pace(S(2));
    copy.cluster.faults().set_unreachable(true);
    copy.go(S(7));
    copy.cluster.faults().set_unreachable(false);
    // Its retries wait up to a second, and the speed may have fallen once.
    copy.go(S(2));
    let after = copy.pace(S(2));
    assert!(after > free / 4, "{free} documents in 2 s, after an outage {after}\n{}", copy.log());
    copy.go(S(20));
    assert_eq!(copy.engine.snapshot().throttle, None);
}

#[test]
fn what_a_pause_takes_earns_no_rest() {
    let copy = Copy::of(120_000, "max_lag = \"5s\"");
    copy.begin();
    copy.cluster.faults().set_lag(2, S(6));
    copy.go(S(2));
    drop(copy.engine.send(Command::Pause));
    copy.go(S(9));
    assert_eq!(copy.pace(S(1)), 0);
    copy.cluster.faults().set_lag(2, Micros::ZERO);
    drop(copy.engine.send(Command::Continue));
    assert!(copy.pace(S(2)) > 0, "{}", copy.log());
}

#[test]
fn servers_that_do_not_tell_their_load_hold_nothing_up_unless_the_plan_asks_for_it() {
    let copy = Copy::of(5_000, "");
    copy.cluster.faults().set_tells_nothing(true);
    copy.begin();
    let s = copy.go(S(20));
    assert_eq!((copy.copied(), s.throttle.clone(), s.load.queued), (5_000, None, None));
}

#[test]
fn each_signal_of_a_server_holds_the_copy_back() {
    for (pressure, said) in [
        (Pressure { queued: 100, ..Pressure::default() }, "queued operations 100 > 64"),
        (Pressure { dirty_percent: 17, ..Pressure::default() }, "dirty cache 17."),
        (Pressure { tickets: 120, ..Pressure::default() }, "free read tickets 5.5 % < 10.0 %"),
    ] {
        let copy = Copy::of(36_000, "");
        copy.begin();
        copy.cluster.faults().set_pressure(pressure);
        copy.go(S(8));
        let t = copy.engine.snapshot().throttle.clone();
        let told = t.as_ref().map_or("", |t| t.text.as_str());
        assert!(told.starts_with(said), "{pressure:?}: {t:?}");
    }
    let copy = Copy::of(36_000, "min_oplog_window = \"30m\"");
    let s = copy.go(S(10));
    let t = s.throttle.clone().expect("the oplog is young");
    assert!(s.why.starts_with("backfill is throttled: oplog window"), "{}", s.why);
    assert!(t.text.contains("oplog window") && t.text.contains("stopped until it is above 15m00s"), "{t:?}");
}

#[test]
fn a_plan_with_a_rate_is_held_to_it() {
    let copy = Copy::of(6_000, "max_docs_per_second = 500");
    copy.begin();
    for second in 0..8 {
        let n = copy.pace(S(1));
        assert!((460..=540).contains(&n), "{n} documents in second {second}");
    }
    // Held up for a while, it does not make up for it.
    drop(copy.engine.send(Command::Pause));
    copy.go(S(6));
    drop(copy.engine.send(Command::Continue));
    copy.go(S(1));
    let n = copy.pace(S(2));
    assert!((900..=1_100).contains(&n), "{n} documents in two seconds");
}

#[test]
fn where_no_application_reports_the_servers_latencies_are_taken() {
    let copy = Copy::of(2_000, "");
    let (cluster, ns, rt) = (copy.cluster.clone(), copy.ns.clone(), copy.rt.clone());
    let writes = async move {
        for n in 0_i64.. {
            let doc = bson::rawdoc! { "_id": n % 2_000, "n": -n };
            let op = WriteOp::Replace { ns: ns.clone(), key: Key::from(n % 2_000), only_if: None, doc, upsert: true };
            cluster.write(&op).await.unwrap();
            rt.sleep_until(rt.now() + Micros::from_ms(5)).await;
        }
    };
    copy.rt.spawn(Group(7), "writes", Box::pin(writes));
    let s = copy.go(S(40));
    assert_eq!(s.latency_source, Some(LatencySource::Servers));
    let v = &s.writes[Side::Legacy as usize];
    assert!(v.count > 1_000 && v.p50.is_some() && v.age < Some(S(3)), "{v:?}");
    assert_eq!(v.error_ratio, None, "a server does not tell how many failed");
    copy.cluster.faults().set_tells_nothing(true);
    let s = copy.go(S(20));
    assert!(s.writes[0].age > Some(S(15)), "what is not told is not measured");
}

/// A drill of `first-watch` in small, pressed from a stage on.
fn pressed(stage: &'static str, pressure: Pressure, operate: impl Fn(&Drill, &Snapshot)) -> Run {
    let (_, world, plan) = scenario("first-watch");
    run(&small(world), &plan, 7, Advance::Auto, Micros::from_ms(250), |drill, s| {
        let current = s.stages.iter().find(|st| st.status == StageStatus::Current);
        if current.is_some_and(|st| st.id == stage) {
            drill.cluster().faults().set_pressure(pressure);
        }
        operate(drill, s);
    })
}

/// How long writes were held by each cutover, ms.
fn freezes(run: &Run) -> Vec<u64> {
    run.records.iter().filter_map(|r| Some(r.body.get("evidence")?.get("freeze_us")?.as_u64()? / 1_000)).collect()
}

#[test]
fn a_cutover_is_not_slowed_by_a_throttle() {
    let hard = Pressure { tickets: 123, ..Pressure::default() };
    let (free, held) = (pressed("shadow", Pressure::default(), |_, _| {}), pressed("shadow", hard, |_, _| {}));
    free.ended(&End::Completed);
    held.ended(&End::Completed);
    assert!(held.records.iter().any(|r| r.kind == "throttle_began"), "{}", held.log());
    assert!(!free.records.iter().any(|r| r.kind == "throttle_began"), "{}", free.log());
    let (free, held) = (freezes(&free), freezes(&held));
    assert_eq!(free.len(), held.len());
    for (free, held) in free.iter().zip(&held) {
        // A tail at rest for its longest would add 250 ms.
        assert!(*held < free + 100, "{free} ms, throttled {held} ms");
    }
}

#[test]
fn a_hard_rollback_is_not_slowed_by_a_throttle() {
    let back = |pressure| {
        pressed("half", pressure, |drill, s| {
            let half = s.stages.iter().any(|st| st.id == "half" && st.status == StageStatus::Current);
            let soaked = s.stages.iter().any(|st| st.id == "half" && st.soaked > S(5));
            if half && soaked && s.back.is_none() {
                drop(drill.send(Command::Rollback { hard: true, to: None }));
            }
        })
    };
    // Everything that can be throttled stands still.
    let (free, held) = (back(Pressure::default()), back(Pressure { tickets: 128, ..Pressure::default() }));
    let took = |run: &Run| {
        run.ended(&End::RolledBack);
        let at = |kind: &str| run.records.iter().find(|r| r.kind == kind).map(|r| r.at_ms).unwrap();
        at("rolled_back") - at("rollback_began")
    };
    let (free, held) = (took(&free), took(&held));
    assert!(held < free + 2_000, "{free} ms, throttled {held} ms");
}

#[test]
fn the_tail_keeps_up_under_a_throttle() {
    let run = pressed("shadow", Pressure { queued: 10_000, ..Pressure::default() }, |drill, s| {
        if drill.now() > S(60) && drill.now() < S(90) {
            assert!(s.lag.apply.is_some_and(|l| l < S(2)), "apply lag {:?}", s.lag.apply);
        }
        if drill.now() > S(90) {
            drop(drill.send(Command::Stop));
        }
    });
    assert!(run.records.iter().any(|r| r.kind == "throttle_began"), "{}", run.log());
}

#[test]
fn every_metric_that_a_gate_may_name_is_measured() {
    let (_, world, _) = scenario("first-watch");
    let world = World { documents: 2_000, operations: 400, ..world };
    let mut names = BTreeSet::new();
    let mut gates = |prefix: &str| -> String {
        let mut text = String::new();
        for m in METRICS.iter().filter(|m| m.name.starts_with(prefix)) {
            let limit = match m.unit {
                UnitKind::Latency | UnitKind::Duration => "\"1h\"",
                UnitKind::Ratio => "1.0",
                UnitKind::Rate | UnitKind::Count => "1e9",
            };
            let bound = if m.name.ends_with("budget_left") { "min = 0.0".to_owned() } else { format!("max = {limit}") };
            let window = if m.name.ends_with("budget_left") { "" } else { "window = \"30s\"\n" };
            let side = if m.has_side { "side = \"next\"\n" } else { "" };
            text += &format!("[[stage.gate]]\nmetric = \"{}\"\n{side}{bound}\n{window}for = \"1s\"\n", m.name);
            names.insert(label(m.name, m.has_side.then_some(Side::Next)));
        }
        text
    };
    let text = format!(
        "{}[slo]\nobjective = 0.99\n{}[[stage]]\nid = \"copy\"\ndo = [\"create\", \"backfill\", \"indexes\"]\n{}\
         [[stage]]\nid = \"half\"\nshadow = 20\nreads = 60\nwrites = 50\nsoak = \"1h\"\n{}",
        head!("all", "All", "drill"),
        flat_orders!(),
        // Of the comparison of a copy, which is looked at in its stage only.
        gates("reconcile."),
        gates("")
    );
    let plan = Plan::parse(&text, "all.toml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    run(&world, &plan, 3, Advance::Auto, Micros::from_ms(500), |drill, s| {
        for g in s.gates.iter().filter(|g| g.actual.is_some()) {
            names.remove(&g.name);
        }
        if names.is_empty() || drill.now() > S(120) {
            drop(drill.send(Command::Stop));
        }
    });
    assert!(names.is_empty(), "nobody measures {names:?}");
}

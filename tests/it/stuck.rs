//! What once stood still for ever, or went on when it should not: documents that cannot be written or are written without a pause,
//! stops, runners cut off half-way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{AdminOp, Cluster, ClusterTime, Db, IndexSpec, Key, Ns, WriteOp};
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::{Fault, MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::route::client::{RouteClient, routes_ns};
use tidegate::route::{BUCKETS, Route, Side, bucket_of};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::Command;

const PLAN: &str = concat!(
    head!("stuck", "Stuck", "simulation"),
    r#"[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "1s"
"#
);

/// A rollout on an embedded cluster, without an application.
struct World {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    plan: Arc<Plan>,
    journal: MemStore,
}

impl World {
    fn new(documents: i64, config: embedded::Config) -> World {
        let sim = Sim::new(5);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), config);
        let plan = Arc::new(Plan::parse(PLAN, "stuck.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let docs = (0..documents).map(|n| bson::rawdoc! { "_id": n, "n": n });
        cluster.load(&plan.collections[0].legacy, docs.collect()).unwrap();
        World { sim, rt, cluster, plan, journal: MemStore::new() }
    }

    fn ns(&self, next: bool) -> Ns {
        let c = &self.plan.collections[0];
        if next { c.next.clone() } else { c.legacy.clone() }
    }

    fn start(&self, group: Group) -> Engine {
        self.start_on(self.rt.clone(), group)
    }

    fn start_on(&self, rt: Rt, group: Group) -> Engine {
        let db: Db = self.cluster.clone();
        let deps = Deps {
            rt,
            group,
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let begun = !self.journal.records().is_empty();
        let config = engine::Config {
            holder: "test".into(),
            advance: Some(Advance::Auto),
            resume: begun,
            take_over: begun.then(|| "the test says so".into()),
            drill: true,
            ..engine::Config::default()
        };
        self.sim.block_on(engine::start(deps, config)).unwrap().unwrap()
    }

    fn records(&self) -> Vec<Record> {
        self.journal.records()
    }

    /// Runs until a record is there for which `wanted` holds.
    fn until(&self, within: Micros, wanted: impl Fn(&Record) -> bool) -> Record {
        let end = self.rt.now() + within;
        loop {
            if let Some(r) = self.records().into_iter().find(|r| wanted(r)) {
                return r;
            }
            if self.rt.now() >= end {
                let log: Vec<String> = self.records().iter().map(tidegate::journal::show).collect();
                panic!("not within {within}:\n{}", log.join("\n"));
            }
            self.sim.run_until(self.rt.now() + Micros::from_ms(100));
        }
    }
}

fn text(r: &Record) -> String {
    serde_json::to_string(&r.body).unwrap()
}

#[test]
fn a_batch_too_slow_for_its_deadline_was_retried_for_ever() {
    let mut config = embedded::Config::default();
    // 200 documents take 10 s, the deadline is 5.
    config.latency.per_write_ns = 50_000_000;
    let world = World::new(700, config);
    let _engine = world.start(Group(1));
    world.until(Micros::from_secs(600), |r| r.kind == "stage_passed");
    assert_eq!(world.cluster.dump(&world.ns(true)).len(), 700);
    assert!(!world.records().iter().any(|r| r.kind == "needs_operator"));
}

#[test]
fn a_document_that_next_refuses_was_not_named() {
    let world = World::new(700, embedded::Config::default());
    let twice = bson::rawdoc! { "_id": 417_i64, "n": 416_i64 };
    let (cluster, legacy, next) = (world.cluster.clone(), world.ns(false), world.ns(true));
    world.sim.block_on(async move {
        let op = WriteOp::Replace { ns: legacy, key: Key::from(417_i64), only_if: None, doc: twice, upsert: false };
        cluster.write(&op).await.unwrap();
        let index = IndexSpec { name: "n".into(), keys: bson::doc! { "n": 1 }, unique: true, ..IndexSpec::default() };
        cluster.admin(&AdminOp::Create { ns: next.clone() }).await.unwrap();
        cluster.admin(&AdminOp::CreateIndex { ns: next, index }).await.unwrap();
    });
    let _engine = world.start(Group(1));
    let told = world.until(Micros::from_secs(300), |r| r.kind == "stray_found");
    assert_eq!(told.body["key"], "417", "{told:?}");
    assert!(told.body["why"].as_str().unwrap().contains("holds a value that must be unique"), "{told:?}");
    // Everything else is there, and the rollout waits for a person.
    world.until(Micros::from_secs(300), |r| r.kind == "paused");
    world.sim.run_until(world.rt.now() + Micros::from_secs(5));
    assert_eq!(world.cluster.dump(&world.ns(true)).len(), 699);
}

#[test]
fn a_document_that_never_meets_its_deadline_was_a_loop() {
    let world = World::new(3, embedded::Config::default());
    world.cluster.faults().set_latency_of(&world.ns(true), 1_000_000);
    let _engine = world.start(Group(1));
    let asked = world.until(Micros::from_secs(600), |r| r.kind == "needs_operator");
    assert!(text(&asked).contains("document 0 of shop.orders cannot be written"), "{asked:?}");
}

#[test]
fn an_outage_is_no_documents_fault() {
    let world = World::new(300, embedded::Config::default());
    let _engine = world.start(Group(1));
    world.until(Micros::from_secs(60), |r| text(r).contains("backfill"));
    world.cluster.faults().set_unreachable(true);
    world.sim.run_until(world.rt.now() + Micros::from_secs(200));
    world.cluster.faults().set_unreachable(false);
    world.until(Micros::from_secs(200), |r| r.kind == "stage_passed");
    assert!(!world.records().iter().any(|r| r.kind == "needs_operator"));
}

#[test]
fn a_process_that_had_just_started_read_from_legacy_what_next_owns() {
    let world = World::new(0, embedded::Config::default());
    let (rt, db) = (world.rt.clone(), world.cluster.clone());
    let route = Route {
        plan: "stuck".into(),
        epoch: 9,
        lease_ms: 5_000,
        shadow: 0,
        reads_next_below: BUCKETS,
        writes_next_below: BUCKETS,
        frozen: None,
        pilot: None,
        applied_through: ClusterTime::ZERO,
        legacy: world.ns(false),
        next: world.ns(true),
        stranded_below: 0,
        nonce: 1,
    };
    let client = RouteClient::new(rt, db.clone(), "stuck", "new", world.ns(false));
    let side = world.sim.block_on(async move {
        db.write(&WriteOp::Insert { ns: routes_ns(), doc: route.to_raw() }).await.unwrap();
        client.start(Group(2));
        client.followed().await;
        client.read_plan(&(&Key::from(1), 7)).side
    });
    assert_eq!(side, Some(Side::Next));
}

/// Writes one order without a pause, wherever the route says, until the world ends.
fn write_all_the_time(world: &World, id: i64) {
    let (rt, cluster) = (world.rt.clone(), world.cluster.clone());
    let route = RouteClient::new(rt.clone(), cluster.clone(), "stuck", "busy", world.ns(false));
    route.start(Group(2));
    let key = Key::from(id);
    let bucket = bucket_of(&key).unwrap();
    let writing = async move {
        for n in 0i64.. {
            let Some(permit) = route.permit(&(&key, bucket)).await else { return };
            let mut doc = bson::rawdoc! { "_id": id, "n": n };
            if permit.side == Side::Next {
                doc.append(bson::cstr!("schema_version"), 2);
            }
            let op = WriteOp::Replace { ns: permit.ns.clone(), key: key.clone(), only_if: None, doc, upsert: true };
            cluster.write(&op).await.unwrap();
        }
    };
    rt.spawn(Group(2), "busy", Box::pin(writing));
}

#[test]
fn a_document_written_all_the_time_kept_reconciliation_and_confirmation_in_flight() {
    let world = World::new(300, embedded::Config::default());
    // One that moves in the first cutover.
    let busy = (0..300).find(|n| bucket_of(&Key::from(*n)).unwrap() < 512).unwrap();
    write_all_the_time(&world, busy);
    let _engine = world.start(Group(1));
    world.until(Micros::from_secs(120), |r| r.kind == "closed");
    let records = world.records();
    let waited = records.iter().find(|r| r.kind == "needs_operator" || text(r).contains("in flight"));
    assert!(waited.is_none(), "{waited:?}");
}

#[test]
fn a_stop_was_journalled_as_an_operator_needed() {
    let world = World::new(300, embedded::Config::default());
    // So slow that the stop falls into the copy.
    world.cluster.faults().set_latency_of(&world.ns(true), 10_000);
    let engine = world.start(Group(1));
    world.until(Micros::from_secs(60), |r| text(r).contains("backfill"));
    drop(engine.send(Command::Stop));
    world.until(Micros::from_secs(60), |r| r.kind == "stopped");
    world.sim.run_until(world.rt.now() + Micros::from_secs(1));
    assert_eq!(engine.ended(), Some(End::Stopped));
    let kinds: Vec<String> = world.records().into_iter().map(|r| r.kind).collect();
    assert!(!kinds.contains(&"needs_operator".into()), "{kinds:?}");
    world.start(Group(2));
    world.until(Micros::from_secs(600), |r| r.kind == "closed");
}

#[test]
fn a_cutover_cut_off_after_its_flip_was_never_confirmed() {
    let world = World::new(300, embedded::Config::default());
    let _engine = world.start(Group(1));
    let is_flip = |r: &Record| r.kind == "route_settled" && r.body["writes_next_below"] == 512;
    world.until(Micros::from_secs(60), is_flip);
    world.rt.kill(Group(1));
    assert_eq!(world.records().iter().filter(|r| text(r).contains("belong to next")).count(), 0);
    world.start(Group(2));
    let done = world.until(Micros::from_secs(60), |r| text(r).contains("buckets 0..512 belong to next"));
    assert_eq!(done.body["evidence"]["matched"], 300, "{done:?}");
}

#[test]
fn a_delete_between_two_beginnings_of_a_tail_was_never_carried() {
    let followed = |r: &Record| r.kind == "task_done" && text(r).contains("are followed from");
    let first = World::new(50, embedded::Config::default());
    let _engine = first.start(Group(1));
    let seq = first.until(Micros::from_secs(60), followed).seq;
    // The same again, cut off right before it is written down that the tail runs.
    let world = World::new(50, embedded::Config::default());
    world.journal.fail_at(seq, Fault::HangBefore);
    let _engine = world.start(Group(1));
    while !world.journal.hung() {
        world.sim.run_until(world.rt.now() + Micros::from_ms(10));
    }
    let (cluster, legacy) = (world.cluster.clone(), world.ns(false));
    let write = |op: WriteOp| {
        let cluster = cluster.clone();
        world.sim.block_on(async move { cluster.write(&op).await }).unwrap().unwrap();
    };
    write(WriteOp::Insert { ns: legacy.clone(), doc: bson::rawdoc! { "_id": 77_000_i64, "n": 1 } });
    world.sim.run_until(world.rt.now() + Micros::from_secs(2));
    assert_eq!(world.cluster.count(&world.ns(true)), 1, "the tail has carried it");
    world.rt.kill(Group(1));
    write(WriteOp::Delete { ns: legacy, key: Key::from(77_000_i64), only_if: None });
    world.start(Group(2));
    world.until(Micros::from_secs(120), |r| r.kind == "closed");
    assert_eq!(world.cluster.dump(&world.ns(true)).len(), 50);
}

#[test]
fn a_tail_whose_oplog_was_lost_never_ended() {
    let world = World::new(300, embedded::Config::default());
    let engine = world.start(Group(1));
    world.until(Micros::from_secs(60), |r| r.kind == "stage_passed");
    world.cluster.faults().set_unreachable(true);
    world.sim.run_until(world.rt.now() + Micros::from_secs(5));
    world.cluster.faults().truncate_oplog();
    world.cluster.faults().set_unreachable(false);
    world.sim.run_until(world.rt.now() + Micros::from_secs(20));
    drop(engine.send(Command::Stop));
    world.until(Micros::from_secs(60), |r| r.kind == "stopped");
}

#[test]
fn a_wall_clock_that_was_set_cut_a_soak_short_or_drew_it_out() {
    for by_ms in [7_200_000, -7_200_000] {
        let world = World::new(50, embedded::Config::default());
        let off = Arc::new(AtomicI64::new(0));
        let clock: Rt = Arc::new(crate::sim::Clock { rt: world.rt.clone(), off_ms: off.clone() });
        let _engine = world.start_on(clock, Group(1));
        world.until(Micros::from_secs(60), |r| r.kind == "soak_began");
        let began = world.rt.now();
        off.store(by_ms, Ordering::SeqCst);
        world.until(Micros::from_secs(60), |r| r.kind == "stage_passed");
        let took = world.rt.now().since(began);
        // One second, looked at four times a second.
        assert!((Micros::from_ms(800)..Micros::from_ms(1_600)).contains(&took), "{by_ms}: {took}");
    }
}

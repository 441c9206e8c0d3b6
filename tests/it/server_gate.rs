//! The server gate on the embedded cluster: who ignores the route cannot write where a side does not own the bucket, and who follows
//! it never notices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{AdminDone, AdminOp, Cluster, Db, Key, Ns, Validation, WriteOp};
use tidegate::engine::{self, Deps, Engine};
use tidegate::journal::{MemStore, Record, show};
use tidegate::plan::{Advance, Plan};
use tidegate::route::client::{RouteClient, acks_ns};
use tidegate::route::{Side, bucket_of};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::Command;

const PLAN: &str = concat!(
    head!("gated", "Gated", "simulation"),
    r#"server_gate = true
lease = "3s"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "2s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "20s"
"#,
    to_the_end!()
);

struct World {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    plan: Arc<Plan>,
    journal: MemStore,
    before: Validation,
}

const DOCUMENTS: i64 = 300;

impl World {
    fn new(text: &str) -> World {
        let sim = Sim::new(5);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let plan = Arc::new(Plan::parse(text, "gated.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let docs = (0..DOCUMENTS).map(|n| bson::rawdoc! { "_id": n, "n": n });
        cluster.load(&plan.collections[0].legacy, docs.collect()).unwrap();
        let before = Validation::strict(Some(bson::doc! { "n": { "$exists": true }, "odd": { "$ne": 1_i64 } }));
        let world = World { sim, rt, cluster, plan, journal: MemStore::new(), before };
        let op = AdminOp::SetValidation { ns: world.ns(Side::Legacy), validation: world.before.clone() };
        world.admin(op);
        world
    }

    fn ns(&self, side: Side) -> Ns {
        let c = &self.plan.collections[0];
        if side == Side::Next { c.next.clone() } else { c.legacy.clone() }
    }

    fn admin(&self, op: AdminOp) -> AdminDone {
        let cluster = self.cluster.clone();
        self.sim.block_on(async move { cluster.admin(&op).await }).unwrap().unwrap()
    }

    fn write(&self, op: WriteOp) -> Result<(), String> {
        let cluster = self.cluster.clone();
        self.sim.block_on(async move { cluster.write(&op).await }).unwrap().map(drop).map_err(|e| e.to_string())
    }

    fn start(&self, group: Group) -> Engine {
        let db: Db = self.cluster.clone();
        let deps = Deps {
            rt: self.rt.clone(),
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

    fn until(&self, within: Micros, wanted: impl Fn(&Record) -> bool) {
        let end = self.rt.now() + within;
        while !self.journal.records().iter().any(&wanted) {
            if self.rt.now() >= end {
                let log: Vec<String> = self.journal.records().iter().map(show).collect();
                panic!("not within {within}:\n{}", log.join("\n"));
            }
            self.sim.run_until(self.rt.now() + Micros::from_ms(100));
        }
    }

    fn soaks(&self, stage: usize) {
        let soaks = |r: &Record| r.kind == "soak_began";
        let end = self.rt.now() + Micros::from_secs(60);
        while self.journal.records().iter().filter(|r| soaks(r)).count() <= stage {
            assert!(self.rt.now() < end, "stage {stage} does not soak");
            self.sim.run_until(self.rt.now() + Micros::from_ms(100));
        }
    }

    /// A process that follows the route and writes all the time; how often it was refused.
    fn follow(&self) -> Arc<AtomicU64> {
        let (rt, cluster) = (self.rt.clone(), self.cluster.clone());
        let route = RouteClient::new(rt.clone(), cluster.clone(), "gated", "honest", self.ns(Side::Legacy));
        route.start(Group(2));
        let refused = Arc::new(AtomicU64::new(0));
        let count = refused.clone();
        let writing = async move {
            for n in 0i64.. {
                let id = n % DOCUMENTS;
                let key = Key::from(id);
                let Some(permit) = route.permit(&(&key, bucket_of(&key).unwrap())).await else { return };
                let mut doc = bson::rawdoc! { "_id": id, "n": n };
                if permit.side == Side::Next {
                    doc.append(bson::cstr!("schema_version"), 2);
                }
                let op = WriteOp::Replace { ns: permit.ns.clone(), key, only_if: None, doc, upsert: true };
                if cluster.write(&op).await.is_err() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        self.rt.spawn(Group(2), "honest", Box::pin(writing));
        refused
    }

    /// Of a write of every document on a side: the buckets that it was refused in.
    fn hostile(&self, side: Side) -> Vec<u16> {
        let mut refused = Vec::new();
        for id in 0..DOCUMENTS {
            let key = Key::from(id);
            let doc = bson::rawdoc! { "_id": id, "n": -1, "schema_version": 2 };
            let op = WriteOp::Replace { ns: self.ns(side), key: key.clone(), only_if: None, doc, upsert: true };
            match self.write(op) {
                Err(e) if e.contains("failed validation") => refused.push(bucket_of(&key).unwrap()),
                other => other.unwrap(),
            }
        }
        refused
    }

    fn restored(&self, side: Side, wanted: &Validation) {
        match self.admin(AdminOp::Validation { ns: self.ns(side) }) {
            AdminDone::Validation(v) => assert_eq!(format!("{v:?}"), format!("{wanted:?}")),
            other => panic!("{other:?}"),
        }
        assert!(self.cluster.dump(&Ns::new("tidegate", "validators")).is_empty());
    }
}

#[test]
fn a_hostile_client_is_refused_where_the_side_does_not_own_and_a_rollback_restores_the_validator() {
    let world = World::new(PLAN);
    let refused = world.follow();
    let engine = world.start(Group(1));
    world.soaks(0);
    assert_eq!(world.hostile(Side::Next).len(), DOCUMENTS as usize, "next owns nothing yet");
    world.soaks(1);
    let (legacy, next) = (world.hostile(Side::Legacy), world.hostile(Side::Next));
    assert!(!legacy.is_empty() && legacy.iter().all(|b| *b < 512), "{legacy:?}");
    assert!(!next.is_empty() && next.iter().all(|b| *b >= 512), "{next:?}");
    assert_eq!(legacy.len() + next.len(), DOCUMENTS as usize);
    // What stood there before holds beside it.
    let high = (0..).find(|n| bucket_of(&Key::from(*n)).unwrap() >= 512).unwrap();
    let odd = bson::rawdoc! { "_id": high, "n": 1, "odd": 1_i64 };
    let op =
        WriteOp::Replace { ns: world.ns(Side::Legacy), key: Key::from(high), only_if: None, doc: odd, upsert: true };
    assert!(world.write(op).unwrap_err().contains("failed validation"));
    // Somebody takes it away.
    world.admin(AdminOp::SetValidator { ns: world.ns(Side::Next), validator: None });
    world.sim.run_until(world.rt.now() + Micros::from_secs(4));
    assert_eq!(world.hostile(Side::Next), next);
    drop(engine.send(Command::Rollback { hard: false, to: None }));
    world.until(Micros::from_secs(120), |r| r.kind == "closed");
    assert_eq!(refused.load(Ordering::SeqCst), 0, "somebody who follows the route was refused");
    world.restored(Side::Legacy, &world.before);
}

#[test]
fn a_rollout_cut_off_anywhere_ends_with_nexts_own_validator() {
    for cut in [2_300, 7_100, 9_000, 9_400, 29_300, 33_000] {
        let world = World::new(&PLAN.replace("soak = \"20s\"", "soak = \"2s\""));
        let own = Validation::strict(Some(bson::doc! { "n": { "$exists": true } }));
        world.admin(AdminOp::Create { ns: world.ns(Side::Next) });
        world.admin(AdminOp::SetValidation { ns: world.ns(Side::Next), validation: own.clone() });
        let refused = world.follow();
        world.start(Group(1));
        world.sim.run_until(world.rt.now() + Micros::from_ms(cut));
        if !world.journal.records().iter().any(|r| r.kind == "closed") {
            world.rt.kill(Group(1));
            world.start(Group(3));
            world.until(Micros::from_secs(120), |r| r.kind == "closed");
        }
        world.restored(Side::Next, &own);
        // Legacy is a view by then: whoever writes there was told so by the route.
        let _ = refused;
    }
}

#[test]
fn a_process_that_has_fallen_silent_holds_up_only_a_rollout_without_the_gate() {
    for gate in [true, false] {
        let text = PLAN.replace("server_gate = true", &format!("server_gate = {gate}"));
        let world = World::new(&text);
        let ghost =
            bson::rawdoc! { "_id": "gated/ghost", "plan": "gated", "process": "ghost", "epoch": 0_i64, "beat": 1_i64 };
        world.write(WriteOp::Insert { ns: acks_ns(), doc: ghost }).unwrap();
        world.start(Group(1));
        let moved = |r: &Record| r.kind == "route_settled" && r.body["writes_next_below"] == 512;
        let named = |r: &Record| r.kind == "task_held" && show(r).contains("ghost has not renewed");
        if gate {
            world.until(Micros::from_secs(60), moved);
        } else {
            world.until(Micros::from_secs(60), named);
            world.sim.run_until(world.rt.now() + Micros::from_secs(30));
            assert!(!world.journal.records().iter().any(moved));
        }
    }
}

#[test]
fn a_validator_that_only_warns_is_named_before_anything_moves() {
    let world = World::new(PLAN);
    let warns = Validation { action: "warn".into(), ..world.before.clone() };
    world.admin(AdminOp::SetValidation { ns: world.ns(Side::Legacy), validation: warns.clone() });
    world.start(Group(1));
    let told = Mutex::new(String::new());
    world.until(Micros::from_secs(30), |r| {
        *told.lock().unwrap() = show(r);
        r.kind == "needs_operator"
    });
    assert!(told.lock().unwrap().contains("which the server gate would make strict"), "{told:?}");
}

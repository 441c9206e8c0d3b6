//! Repairs on the embedded cluster: damage of every kind is mended under traffic, what only a person can decide is left, and a repair that
//! is killed half-way is simply run again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{RawDocumentBuf, rawdoc};
use proptest::prelude::*;
use tidegate::cluster::embedded::{self, Embedded, Fates, OpKind, Rates};
use tidegate::cluster::{AdminDone, AdminOp, CONTROL_DB, Cluster, Db, Fence, IndexSpec, Key, Ns, TxnOp, WriteOp};
use tidegate::engine::{
    self, Deps, End, Engine, REPAIR_MAX, Repair, RepairEnd, RepairFate, RepairReport, StartError, repair_look,
};
use tidegate::journal::{MemStore, Record};
use tidegate::plan::{Advance, Plan, RepairKind, RepairTemplate};
use tidegate::rollout::{Event, State, Status};
use tidegate::route::client::RouteClient;
use tidegate::route::{Side, bucket_of};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt, keyed_hash};
use tidegate::snapshot::Command;

const PLAN: &str = concat!(
    head!("mended", "Mended", "simulation"),
    r#"lease = "3s"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
indexes = [{ keys = { n = 1 }, name = "by_n" }]
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "1s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "20s"
"#,
    to_the_end!()
);

const DOCUMENTS: i64 = 120;
/// Orders from here on are written by the application all the time; the others are left to the tests.
const BUSY: i64 = 100;
const APP: Group = Group(2);

struct World {
    sim: Sim,
    rt: Rt,
    clusters: [Arc<Embedded>; 2],
    plan: Arc<Plan>,
    journal: MemStore,
    generation: u32,
}

impl World {
    fn new(seed: u64, two_clusters: bool) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = |id| Embedded::new(rt.clone(), embedded::Config { id, ..embedded::Config::default() });
        let legacy = cluster(1);
        let next = if two_clusters { cluster(2) } else { legacy.clone() };
        let plan = Arc::new(Plan::parse(PLAN, "mended.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let docs = (0..DOCUMENTS).map(|n| rawdoc! { "_id": n, "n": n });
        legacy.load(&plan.collections[0].legacy, docs.collect()).unwrap();
        World { sim, rt, clusters: [legacy, next], plan, journal: MemStore::new(), generation: 0 }
    }

    fn ns(&self, side: Side) -> Ns {
        let c = &self.plan.collections[0];
        if side == Side::Next { c.next.clone() } else { c.legacy.clone() }
    }

    fn group(&self) -> Group {
        Group(100 + self.generation)
    }

    fn deps(&self) -> Deps {
        let db = |side: Side| -> Db { self.clusters[side as usize].clone() };
        Deps {
            rt: self.rt.clone(),
            group: self.group(),
            clusters: [db(Side::Legacy), db(Side::Next)],
            one_cluster: Arc::ptr_eq(&self.clusters[0], &self.clusters[1]),
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        }
    }

    fn try_start(&mut self, repair: Option<Repair>) -> Result<Engine, StartError> {
        self.generation += 1;
        let begun = !self.journal.records().is_empty();
        let config = engine::Config {
            holder: format!("runner-{}", self.generation),
            advance: Some(Advance::Auto),
            resume: begun,
            take_over: begun.then(|| "the test says so".into()),
            drill: true,
            repair: repair.map(Arc::new),
            ..engine::Config::default()
        };
        self.sim.block_on(engine::start(self.deps(), config)).unwrap()
    }

    fn start(&mut self) -> Engine {
        self.try_start(None).unwrap()
    }

    fn stop(&self, engine: &Engine) {
        drop(engine.send(Command::Stop).unwrap());
        self.until("it stops", || engine.ended().is_some());
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let end = self.rt.now() + Micros::from_secs(120);
        while !done() {
            assert!(self.rt.now() < end, "not in two minutes: {what}\n{}", self.log());
            self.sim.run_until(self.rt.now() + Micros::from_ms(20));
        }
    }

    fn run(&self, span: Micros) {
        self.sim.run_until(self.rt.now() + span);
    }

    fn log(&self) -> String {
        let records = self.journal.records();
        records.iter().rev().take(15).rev().map(tidegate::journal::show).collect::<Vec<_>>().join("\n")
    }

    fn state(&self) -> State {
        let mut state = State::default();
        for r in self.journal.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    fn has(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.journal.records().iter().any(wanted)
    }

    /// A rollout in which next owns half of everything, with nobody at it.
    fn half(&mut self) {
        let engine = self.start();
        self.until("half soaks", || {
            let s = self.state();
            s.stage == 1 && matches!(s.status, Status::Soaking { .. })
        });
        self.stop(&engine);
    }

    /// The application: writes the busy orders all the time, wherever the route says.
    fn follow(&self) {
        let (rt, clusters) = (self.rt.clone(), self.clusters.clone());
        let route = RouteClient::new(rt.clone(), clusters[0].clone(), "mended", "honest", self.ns(Side::Legacy));
        route.start(APP);
        let writing = async move {
            for n in 1_000i64.. {
                let id = BUSY + n % (DOCUMENTS - BUSY);
                let key = Key::from(id);
                let Some(permit) = route.permit(&(&key, bucket_of(&key).unwrap())).await else { return };
                let doc = shape(permit.side, id, n);
                let op = WriteOp::Replace { ns: permit.ns.clone(), key, only_if: None, doc, upsert: true };
                // An outcome that is not known is written over in the next round.
                let _ = clusters[permit.side as usize].write(&op).await;
            }
        };
        self.rt.spawn(APP, "honest", Box::pin(writing));
    }

    /// One plain write, as an application makes it; past the route if the side does not own the key.
    fn write(&self, side: Side, id: i64, n: Option<i64>) {
        let (ns, key, cluster) = (self.ns(side), Key::from(id), self.clusters[side as usize].clone());
        let op = match n {
            Some(n) => WriteOp::Replace { ns, key, only_if: None, doc: shape(side, id, n), upsert: true },
            None => WriteOp::Delete { ns, key, only_if: None },
        };
        self.sim.block_on(async move { cluster.write(&op).await }).unwrap().unwrap();
    }

    /// As [`World::write`], of a value; whether it was acknowledged.
    fn try_write(&self, side: Side, id: i64, n: i64) -> bool {
        let (ns, key, cluster) = (self.ns(side), Key::from(id), self.clusters[side as usize].clone());
        let doc = shape(side, id, n);
        let op = WriteOp::Replace { ns, key, only_if: None, doc, upsert: true };
        self.sim.block_on(async move { cluster.write(&op).await }).unwrap().is_ok()
    }

    /// Damage that no tail takes for a stray: as if tidegate had made it itself.
    fn damage(&self, side: Side, id: i64, n: Option<i64>) {
        let ns = self.ns(side);
        let op = match n {
            Some(n) => TxnOp::Put { ns, doc: shape(side, id, n) },
            None => TxnOp::Delete { ns, keys: vec![Key::from(id)] },
        };
        let (cluster, rt) = (self.clusters[side as usize].clone(), self.rt.clone());
        let epoch = self.journal.records().last().unwrap().epoch;
        let done = self.sim.block_on(async move {
            let slot = "mended/vandal".to_owned();
            let opened = cluster.admin(&AdminOp::OpenSlot { slot: slot.clone(), epoch }).await.unwrap();
            let AdminDone::Slot(state) = opened else { panic!("{opened:?}") };
            let deadline = rt.now() + Micros::from_secs(5);
            cluster.transact(&Fence { slot, epoch, seq: state.seq, checkpoint: None, deadline }, &[op]).await
        });
        done.unwrap().unwrap();
    }

    fn admin(&self, op: AdminOp) -> AdminDone {
        let cluster = self.clusters[1].clone();
        self.sim.block_on(async move { cluster.admin(&op).await }).unwrap().unwrap()
    }

    /// Values by order.
    fn values(&self, side: Side) -> BTreeMap<i64, i64> {
        let dump = self.clusters[side as usize].dump(&self.ns(side));
        dump.iter().map(|(_, d)| (d.get_i64("_id").unwrap(), d.get_i64("n").unwrap())).collect()
    }

    fn quarantine(&self) -> Vec<RawDocumentBuf> {
        let dump = self.clusters[0].dump(&Ns::new(CONTROL_DB, "quarantine"));
        dump.into_iter().map(|(_, d)| d.to_owned()).collect()
    }

    /// The orders that the application does not write and whose two documents do not say the same.
    fn odd(&self) -> Vec<i64> {
        let (legacy, next) = (self.values(Side::Legacy), self.values(Side::Next));
        (0..200).filter(|id| !(BUSY..DOCUMENTS).contains(id) && legacy.get(id) != next.get(id)).collect()
    }

    fn look(&self, repair: &Repair) -> RepairReport {
        let (deps, repair) = (self.deps(), repair.clone());
        self.sim.block_on(async move { repair_look(&deps, &repair).await }).unwrap().unwrap()
    }

    fn mend(&mut self, repair: Repair) -> RepairReport {
        let engine = self.try_start(Some(repair)).unwrap();
        self.until("the repair ends", || engine.ended().is_some());
        assert_eq!(engine.ended(), Some(End::Stopped));
        (*engine.repaired().unwrap_or_else(|| panic!("{}\n{}", engine.snapshot().why, self.log()))).clone()
    }
}

fn shape(side: Side, id: i64, n: i64) -> RawDocumentBuf {
    let mut doc = rawdoc! { "_id": id, "n": n };
    if side == Side::Next {
        doc.append(bson::cstr!("schema_version"), 2);
    }
    doc
}

fn owner(id: i64) -> Side {
    if bucket_of(&Key::from(id)).unwrap() < 512 { Side::Next } else { Side::Legacy }
}

/// Orders that a side owns and the application leaves alone.
fn owned(side: Side) -> Vec<i64> {
    (0..BUSY).filter(|id| owner(*id) == side).collect()
}

fn repair(kind: RepairKind) -> Repair {
    let template = RepairTemplate::builtin(kind);
    Repair { template, keys: Vec::new(), reason: None, max_documents: REPAIR_MAX }
}

fn counts(report: &RepairReport) -> [u64; 4] {
    [RepairFate::Would, RepairFate::Done, RepairFate::Nothing, RepairFate::Person].map(|f| report.count(f))
}

/// For each owner one copy that is missing, one that is not to be there, one that differs.
fn damage_each_way(w: &World) -> usize {
    for side in Side::BOTH {
        let ids = owned(side);
        w.damage(side.other(), ids[0], None);
        let strange = (150..200).find(|id| owner(*id) == side).unwrap();
        w.damage(side.other(), strange, Some(7));
        w.damage(side.other(), ids[2], Some(-1));
    }
    6
}

#[test]
fn every_kind_of_difference_is_mended_under_traffic_and_again_is_nothing() {
    let mut w = World::new(3, true);
    w.half();
    let n = damage_each_way(&w);
    w.follow();
    w.run(Micros::from_secs(1));
    let (odd, kept) = (w.odd(), w.quarantine());
    assert_eq!(odd.len(), n);
    let records = w.journal.records().len();
    let looked = w.look(&repair(RepairKind::Resync));
    assert_eq!((w.odd(), w.quarantine(), w.journal.records().len()), (odd.clone(), kept, records), "a dry run wrote");
    let said: Vec<String> = looked.parts[0].items.iter().map(|i| format!("{} {}", i.key, i.what)).collect();
    assert!(odd.iter().all(|id| said.iter().any(|s| s.starts_with(&format!("{id} ")))), "{said:?}");
    assert!(said.iter().any(|s| s.contains("differs in n on")), "{said:?}");
    assert_eq!(looked.end(), RepairEnd::Differences);

    for (kind, mends) in [(RepairKind::RestoreMissing, 2), (RepairKind::RemoveExtra, 2), (RepairKind::Resync, 2)] {
        let report = w.mend(repair(kind));
        assert_eq!(counts(&report), [0, mends, 0, 0], "{report:?}");
        assert_eq!((report.end(), report.parts[0].verified.map(|v| (v.0, v.1))), (RepairEnd::Mended, Some((mends, 0))));
        let report = w.mend(repair(kind));
        assert_eq!((counts(&report), report.end()), ([0, 0, 0, 0], RepairEnd::Mended), "{report:?}");
    }
    assert_eq!(w.odd(), [0; 0]);
    for kind in ["repair_began", "repair_ended", "repair_verified"] {
        assert_eq!(w.journal.records().iter().filter(|r| r.kind == kind).count(), 3, "{kind}");
    }
    // Two that were removed and two that were replaced, as they were.
    let kept = w.quarantine();
    assert_eq!(kept.len(), 4, "{kept:?}");
    let removed: Vec<i64> =
        kept.iter().map(|d| d.get_document("document").unwrap().get_i64("n").unwrap()).filter(|n| *n == 7).collect();
    assert_eq!(removed.len(), 2);

    let engine = w.start();
    w.until("everybody is on next", || w.state().closed);
    assert_eq!(engine.ended(), Some(End::Completed), "{}", w.log());
}

/// A rollout at half with strays of these orders on the side that does not own them, stopped.
fn with_strays(two_clusters: bool, strays: &[(i64, Option<i64>)]) -> World {
    let mut w = World::new(4, two_clusters);
    w.half();
    let engine = w.start();
    w.until("it is open", || w.has(|r| r.kind == "resumed"));
    w.run(Micros::from_secs(2));
    for (id, n) in strays {
        w.write(owner(*id).other(), *id, *n);
    }
    w.until("the strays are found", || w.state().strays_open() == strays.len() as u64);
    w.until("it pauses", || w.state().paused.is_some());
    w.until("they are kept", || w.quarantine().len() == strays.len());
    w.stop(&engine);
    w
}

#[test]
fn a_stray_is_carried_over_and_the_rollout_completes() {
    for two_clusters in [false, true] {
        let (mine, theirs) = (owned(Side::Legacy), owned(Side::Next));
        let strays = [(mine[0], Some(-5)), (mine[1], None), (theirs[0], Some(-6)), (170, Some(-7))];
        let mut w = with_strays(two_clusters, &strays);
        // What was written past the route is no ordinary difference.
        let report = w.look(&repair(RepairKind::Resync));
        assert_eq!(counts(&report), [0, 0, 0, 4], "{report:?}");
        assert_eq!(counts(&w.look(&repair(RepairKind::CarryStray))), [4, 0, 0, 0]);
        let report = w.mend(repair(RepairKind::CarryStray));
        assert_eq!(counts(&report), [0, 4, 0, 0], "{report:?}");
        assert_eq!(report.end(), RepairEnd::Mended);
        for (id, n) in strays {
            assert_eq!((w.values(Side::Legacy).get(&id), w.values(Side::Next).get(&id)), (n.as_ref(), n.as_ref()));
        }
        assert_eq!((w.odd(), w.state().strays_open()), (vec![], 0));
        assert!(w.quarantine().iter().all(|d| d.get_str("outcome").unwrap().starts_with("carried")));
        assert_eq!(counts(&w.mend(repair(RepairKind::CarryStray))), [0, 0, 0, 0]);

        let engine = w.start();
        w.until("it is open", || w.has(|r| r.kind == "resumed" && r.seq > 40));
        drop(engine.send(Command::Continue).unwrap());
        w.until("it ends", || engine.ended().is_some());
        let end = engine.ended();
        assert_eq!(End::outcome(end.as_ref(), w.state().strays_open()), "completed", "{}", w.log());
    }
}

#[test]
fn a_stray_whose_owner_has_moved_on_is_a_persons_until_it_is_released() {
    let ids = owned(Side::Legacy);
    let mut w = with_strays(false, &[(ids[0], Some(-5)), (ids[1], Some(-6))]);
    w.write(Side::Legacy, ids[0], Some(77));
    let report = w.mend(repair(RepairKind::CarryStray));
    assert_eq!(counts(&report), [0, 1, 0, 1], "{report:?}");
    assert_eq!(report.end(), RepairEnd::Person);
    let values = w.values(Side::Legacy);
    assert_eq!((values[&ids[0]], values[&ids[1]]), (77, -6), "an acknowledged write was overwritten");
    assert_eq!(w.state().strays_open(), 1);

    let named = Repair {
        keys: vec![ids[0].to_string()],
        reason: Some("the shop says 77".into()),
        ..repair(RepairKind::Release)
    };
    let report = w.mend(named.clone());
    assert_eq!((counts(&report), w.state().strays_open()), ([0, 1, 0, 0], 0), "{report:?}");
    assert!(w.has(|r| r.kind == "stray_resolved" && r.body["how"].as_str().unwrap().contains("the shop says 77")));
    // It is neither a stray nor anything else by now.
    assert_eq!(counts(&w.mend(named)), [0, 0, 0, 1]);
    assert_eq!(w.values(Side::Next)[&ids[0]], 77, "the tail carries what the owner has");
}

#[test]
fn a_stray_that_is_released_gives_way_to_the_owners_version() {
    let id = owned(Side::Next)[0];
    let mut w = with_strays(true, &[(id, Some(-5))]);
    let named =
        Repair { keys: vec![id.to_string()], reason: Some("a test wrote it".into()), ..repair(RepairKind::Release) };
    let report = w.mend(named);
    assert_eq!((counts(&report), w.odd(), w.state().strays_open()), ([0, 1, 0, 0], vec![], 0), "{report:?}");
    assert_eq!(w.values(Side::Legacy)[&id], id);
    // What it wrote is kept twice: as a stray, and as what the repair has replaced.
    assert_eq!(w.quarantine().len(), 2);
}

#[test]
fn a_stray_over_an_earlier_stray_stands() {
    let id = owned(Side::Legacy)[0];
    let mut w = with_strays(false, &[(id, Some(-5))]);
    let engine = w.start();
    w.run(Micros::from_secs(2));
    w.write(Side::Next, id, Some(-9));
    w.until("it is found", || w.state().strays_open() == 2 && w.quarantine().len() == 2);
    w.stop(&engine);
    let report = w.mend(repair(RepairKind::CarryStray));
    assert_eq!((counts(&report), w.state().strays_open()), ([0, 1, 0, 0], 0), "{report:?}");
    assert_eq!((w.values(Side::Legacy)[&id], w.values(Side::Next)[&id]), (-9, -9));
}

#[test]
fn a_repair_that_is_killed_is_run_again() {
    for after_ms in [0, 5, 11, 17, 40] {
        let (mine, theirs) = (owned(Side::Legacy), owned(Side::Next));
        let mut w = with_strays(after_ms % 2 == 0, &[(mine[30], Some(-5)), (theirs[30], None)]);
        for id in &mine[..20] {
            w.damage(Side::Next, *id, if id % 2 == 0 { Some(-1) } else { None });
        }
        let text =
            "schema = 1\n[repair]\nid = \"all\"\n[[action]]\ndo = \"carry-stray\"\n[[action]]\ndo = \"resync\"\n";
        let both = Repair { template: RepairTemplate::parse(text, "all.toml").unwrap(), ..repair(RepairKind::Resync) };
        for kind in ["carry-stray", "resync"] {
            let engine = w.try_start(Some(both.clone())).unwrap();
            let began =
                |r: &Record| r.kind == "repair_began" && r.body["action"] == kind && r.epoch == i64::from(w.generation);
            w.until("it begins", || w.has(began) || engine.ended().is_some());
            w.run(Micros::from_ms(after_ms));
            w.rt.kill(w.group());
        }
        w.mend(both.clone());
        assert_eq!((w.odd(), w.state().strays_open()), (vec![], 0), "after {after_ms} ms\n{}", w.log());
        assert_eq!((w.values(Side::Legacy).get(&mine[30]), w.values(Side::Next).get(&theirs[30])), (Some(&-5), None));
        assert_eq!(counts(&w.mend(both)), [0, 0, 0, 0]);
    }
}

/// The cluster loses answers, aborts and elects while repairs are killed one after the other; the application writes the strays' own keys.
#[test]
fn in_rough_weather_nothing_acknowledged_is_overwritten() {
    for seed in 0..6 {
        let draw = |what: u64, n: u64| keyed_hash(seed, 0x7265_7061, what, 0) % n;
        let (mine, theirs) = (owned(Side::Legacy), owned(Side::Next));
        let strays: Vec<(i64, Option<i64>)> =
            (10..16).map(|i| (if i % 2 == 0 { mine[i] } else { theirs[i] }, (i % 3 > 0).then_some(-5))).collect();
        let mut w = with_strays(seed % 2 == 0, &strays);
        for (i, id) in mine[20..40].iter().chain(&theirs[20..40]).enumerate() {
            w.damage(owner(*id).other(), *id, (draw(i as u64, 2) == 0).then_some(-1));
        }
        let before: BTreeMap<Side, BTreeMap<i64, i64>> = Side::BOTH.into_iter().map(|s| (s, w.values(s))).collect();
        let all = "schema = 1\n[repair]\nid = \"all\"\n[[action]]\ndo = \"carry-stray\"\n[[action]]\ndo = \"resync\"\n";
        let both = Repair { template: RepairTemplate::parse(all, "all.toml").unwrap(), ..repair(RepairKind::Resync) };
        w.follow();
        let mut written = BTreeMap::new();
        // Not acknowledged: it may have landed all the same.
        let mut unsure = BTreeSet::new();
        for (c, cluster) in w.clusters.iter().enumerate() {
            let faults = cluster.faults();
            faults.set_fates(Fates { landed: 1, never: 1, late: 1 });
            for kind in [OpKind::Transact, OpKind::Write, OpKind::Admin] {
                faults.set_rates(
                    kind,
                    Rates { not_done: 20_000, unknown: 30_000 + 20_000 * draw(c as u64 + 50, 3) as u32 },
                );
            }
        }
        for round in 0..4 {
            let Ok(engine) = w.try_start(Some(both.clone())) else { continue };
            w.run(Micros::from_ms(200 + draw(60 + round, 2_500)));
            // An application that follows the route writes one of the strays' keys at any moment.
            let (id, _) = strays[draw(70 + round, strays.len() as u64) as usize];
            let n = 5_000 + round as i64;
            if w.try_write(owner(id), id, n) {
                written.insert(id, n);
            } else {
                unsure.insert((id, n));
            }
            if draw(80 + round, 3) == 0 {
                w.clusters[0].faults().step_down();
            }
            w.run(Micros::from_ms(draw(90 + round, 1_500)));
            if engine.ended().is_none() {
                w.rt.kill(w.group());
            }
        }
        w.clusters.iter().for_each(|c| c.faults().clear());
        w.run(Micros::from_secs(10));
        let report = w.mend(both.clone());
        for (id, n) in &written {
            let now = w.values(owner(*id))[id];
            let holds = now == *n || unsure.contains(&(*id, now));
            assert!(holds, "seed {seed}: order {id} was overwritten: {now}, not {n}; {report:?}\n{}", w.log());
        }
        // Whatever is left is an open stray that was written since: a person's, and nothing else differs.
        let open: Vec<i64> = w.state().strays.iter().map(|s| s.rsplit('/').next().unwrap().parse().unwrap()).collect();
        assert!(w.odd().iter().all(|id| open.contains(id)), "seed {seed}: {:?}, open {open:?}\n{}", w.odd(), w.log());
        assert!(
            open.iter().all(|id| written.contains_key(id) || unsure.iter().any(|(u, _)| u == id)),
            "seed {seed}: {open:?} {written:?}; {report:?}"
        );
        for (id, n) in &strays {
            let now = w.values(owner(*id)).get(id).copied();
            if !written.contains_key(id) && !now.is_some_and(|n| unsure.contains(&(*id, n))) {
                assert_eq!(w.values(owner(*id)).get(id), n.as_ref(), "seed {seed}: order {id} is not carried");
            }
        }
        for (side, values) in &before {
            for id in owned(*side).iter().filter(|id| strays.iter().all(|(s, _)| s != *id)) {
                assert_eq!(w.values(*side).get(id), values.get(id), "seed {seed}: an owner's order {id} was changed");
            }
        }
    }
}

#[test]
fn over_its_limit_a_repair_does_nothing() {
    let mut w = World::new(5, false);
    w.half();
    let n = damage_each_way(&w);
    let few = Repair { max_documents: 5, ..repair(RepairKind::Resync) };
    let report = w.mend(few.clone());
    assert!(report.parts[0].refused.as_ref().unwrap().contains("more than the limit of 5"), "{report:?}");
    assert_eq!((report.end(), w.odd().len()), (RepairEnd::Person, n));
    assert!(!w.has(|r| r.kind == "repair_began"));
    // Only what is named, and only the buckets that are asked for.
    let id = owned(Side::Legacy)[0].to_string();
    let report = w.mend(Repair { keys: vec![id, "\"nobody\"".into()], ..few.clone() });
    assert_eq!((counts(&report), w.odd().len()), ([0, 1, 1, 0], n - 1), "{report:?}");
    let mut half = few;
    half.template.actions[0].buckets = Some((0, 512));
    let report = w.mend(half);
    assert_eq!((counts(&report), w.odd().len()), ([0, 3, 0, 0], n - 4), "{report:?}");
}

#[test]
fn what_a_repair_removed_can_be_taken_back() {
    let mut w = World::new(6, true);
    w.half();
    // Next has it, legacy owns it and has lost it: the repair takes the copy away, and that was wrong.
    let id = owned(Side::Legacy)[3];
    w.damage(Side::Legacy, id, None);
    assert_eq!(counts(&w.mend(repair(RepairKind::RemoveExtra))), [0, 1, 0, 0]);
    assert_eq!(w.values(Side::Next).get(&id), None);
    let name = w.quarantine()[0].get_str("_id").unwrap().to_owned();
    let back = Repair { keys: vec![name], reason: Some("it was right".into()), ..repair(RepairKind::Release) };
    assert_eq!(counts(&w.mend(back.clone())), [0, 1, 0, 0]);
    assert_eq!((w.values(Side::Legacy)[&id], w.values(Side::Next)[&id]), (id, id));
    // Written since: it is not taken back over that.
    w.write(Side::Legacy, id, Some(88));
    let report = w.mend(back);
    assert_eq!((counts(&report), w.values(Side::Legacy)[&id]), ([0, 0, 0, 1], 88), "{report:?}");
}

#[test]
fn indexes_are_built_again_as_the_plan_has_them() {
    let mut w = World::new(7, false);
    w.half();
    let next = w.ns(Side::Next);
    let by_n = w.plan.collections[0].indexes[0].clone();
    let all = |w: &World| match w.admin(AdminOp::Indexes { ns: next.clone() }) {
        AdminDone::Indexes(all) => all,
        other => panic!("{other:?}"),
    };
    assert_eq!(counts(&w.mend(repair(RepairKind::RebuildIndex))), [0, 0, 0, 0]);
    w.admin(AdminOp::DropIndex { ns: next.clone(), name: "by_n".into() });
    assert_eq!(counts(&w.look(&repair(RepairKind::RebuildIndex))), [1, 0, 0, 0]);
    assert_eq!(counts(&w.mend(repair(RepairKind::RebuildIndex))), [0, 1, 0, 0]);
    assert!(all(&w).contains(&by_n));
    w.admin(AdminOp::DropIndex { ns: next.clone(), name: "by_n".into() });
    let ttl = IndexSpec { expire_after: Some(60), ..by_n.clone() };
    w.admin(AdminOp::CreateIndex { ns: next.clone(), index: ttl });
    let report = w.mend(repair(RepairKind::RebuildIndex));
    assert!(report.parts[0].items[0].what.contains("expireAfterSeconds"), "{report:?}");
    assert!(all(&w).contains(&by_n) && all(&w).len() == 2, "{:?}", all(&w));
}

#[test]
fn where_there_is_nothing_to_repair_it_says_so() {
    let mut w = World::new(8, false);
    let refused = |w: &mut World| match w.try_start(Some(repair(RepairKind::Resync))) {
        Err(e) => e.to_string(),
        Ok(_) => "it was not refused".into(),
    };
    assert!(refused(&mut w).contains("has not been begun"));
    w.start();
    while !w.has(|r| r.kind == "task_intended" && r.body["task"] == "backfill") {
        w.run(Micros(500));
    }
    w.rt.kill(w.group());
    assert!(refused(&mut w).contains("first copy is not finished"));
    let engine = w.start();
    w.until("it ends", || engine.ended().is_some());
    assert!(refused(&mut w).contains("is finished"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was done to the copies, and however it is mended, what the owners have stands and the copies are exact.
    #[test]
    fn random_damage_is_mended_to_an_exact_copy(
        damage in proptest::collection::vec((0i64..140, proptest::option::of(-9i64..0)), 1..60),
        whole in any::<bool>(),
        two_clusters in any::<bool>(),
    ) {
        let mut w = World::new(9, two_clusters);
        w.half();
        let side = |id: i64| (owner(id), if owner(id) == Side::Next { w.values(Side::Next) } else { w.values(Side::Legacy) });
        let before: BTreeMap<i64, Option<i64>> = (0..140).map(|id| (id, side(id).1.get(&id).copied())).collect();
        for (id, n) in &damage {
            w.damage(owner(*id).other(), *id, *n);
        }
        let kinds = [RepairKind::RestoreMissing, RepairKind::RemoveExtra, RepairKind::Resync];
        for kind in &kinds[if whole { 2 } else { 0 }..] {
            let report = w.mend(repair(*kind));
            prop_assert_eq!(report.end(), RepairEnd::Mended, "{:?}", report);
        }
        let (legacy, next) = (w.values(Side::Legacy), w.values(Side::Next));
        prop_assert_eq!(&legacy, &next);
        for (id, n) in before {
            prop_assert_eq!(legacy.get(&id).copied(), n, "order {}", id);
        }
        prop_assert!(w.look(&repair(RepairKind::Resync)).parts[0].items.is_empty());
    }
}

//! Going back while next does not answer, and salvaging what was left behind there: two embedded clusters, an application that writes all
//! the time, and a link between tidegate and next that can be cut without the application noticing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sim::many::seeds;
use tidegate::cluster::embedded::{self, Embedded, OpKind, Rates};
use tidegate::cluster::{
    AdminDone, AdminOp, CONTROL_DB, ChangeBatch, Changes, Cluster, ClusterTime, Db, Failed, Fence, Key, Ns,
    Observation, Page, PageLimit, Question, Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use tidegate::engine::planted::Planted;
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::{MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::rollout::{Event, State};
use tidegate::route::Side;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Fut, Group, Micros, Rt, keyed_hash, sleep};
use tidegate::snapshot::{Command, Phase};
use tidegate::workload::{self, Shapes, Workload, initial_orders};

const PLAN: &str = concat!(
    head!("strand", "Stranded", "simulation"),
    r#"max_staleness = "3s"
lease = "3s"
[cutover]
freeze_max = "3s"
[rollback]
baseline_ratio = 50
strand = "STRAND"
"#,
    flat_orders!(),
    r#"[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "1s"
[[stage]]
id = "full"
reads = READS
writes = WRITES
soak = "30m"
"#
);

/// tidegate's way to a cluster. Cut off, nothing gets through and everything fails after a while.
struct Link {
    rt: Rt,
    to: Arc<Embedded>,
    cut: AtomicBool,
}

impl Link {
    fn new(rt: &Rt, to: &Arc<Embedded>) -> Arc<Link> {
        Arc::new(Link { rt: rt.clone(), to: to.clone(), cut: AtomicBool::new(false) })
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    async fn pass(&self) -> Result<(), Failed> {
        if !self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        sleep(&self.rt, Micros::from_ms(700)).await;
        Err(Failed::NotDone(Reason::Timeout("the link is cut".into())))
    }
}

struct LinkedChanges(Arc<Link>, Box<dyn Changes>);

impl Changes for LinkedChanges {
    fn next(&mut self, max_wait: Micros) -> Fut<'_, Result<ChangeBatch, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.1.next(max_wait).await
        })
    }
}

/// A link as a cluster.
struct Linked(Arc<Link>);

impl Cluster for Linked {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.scan(ns, from, limit, after).await
        })
    }
    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.read(ns, keys, after).await
        })
    }
    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.ask(ns, keys, questions, after).await
        })
    }
    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.draw(ns, among, most).await
        })
    }
    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.write(op).await
        })
    }
    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.transact(fence, ops).await
        })
    }
    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            let stream = self.0.to.changes(ns, from).await?;
            Ok(Box::new(LinkedChanges(self.0.clone(), stream)) as Box<dyn Changes>)
        })
    }
    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.admin(op).await
        })
    }
    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        Box::pin(async move {
            self.0.pass().await?;
            self.0.to.observe().await
        })
    }
}

struct World {
    sim: Sim,
    rt: Rt,
    legacy: Arc<Embedded>,
    next: Arc<Embedded>,
    link: Arc<Link>,
    plan: Arc<Plan>,
    journal: MemStore,
    workload: Arc<Workload>,
    planted: Planted,
    generation: u32,
    engine: Option<Engine>,
}

const APP: Group = Group(2);

impl World {
    fn new(seed: u64, planted: Planted, strand: &str, (reads, writes): (u8, u8)) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let [legacy, next] =
            [1, 2].map(|id| Embedded::new(rt.clone(), embedded::Config { id, ..embedded::Config::default() }));
        let text = PLAN.replace("STRAND", strand).replace("READS", &reads.to_string());
        let text = text.replace("WRITES", &writes.to_string());
        let plan = Arc::new(Plan::parse(&text, "strand.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let load = workload::Config {
            documents: 200,
            ops_per_s: 80,
            read_percent: 40,
            processes: 2,
            lanes: 2,
            padding: 10,
            churn_percent: (20, 20),
            ..workload::Config::default()
        };
        let c = &plan.collections[0];
        legacy.load(&c.legacy, initial_orders(&load, Shapes::of(c).unwrap()).collect()).unwrap();
        let workload = Workload::start(&rt, APP, [legacy.clone(), next.clone()], &plan, load).unwrap();
        let link = Link::new(&rt, &next);
        World {
            workload: Arc::new(workload),
            sim,
            rt,
            legacy,
            next,
            link,
            plan,
            journal: MemStore::new(),
            planted,
            generation: 0,
            engine: None,
        }
    }

    fn start(&mut self, resolve: Vec<(String, Side)>) {
        self.generation += 1;
        let legacy: Db = self.legacy.clone();
        let next: Db = Arc::new(Linked(self.link.clone()));
        let deps = Deps {
            rt: self.rt.clone(),
            group: self.group(),
            clusters: [legacy, next],
            one_cluster: false,
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let begun = !self.journal.records().is_empty();
        let config = engine::Config {
            holder: format!("runner-{}", self.generation),
            advance: Some(Advance::Auto),
            resume: begun,
            take_over: begun.then(|| "the test says so".into()),
            drill: true,
            chunk_docs: Some(50),
            planted: self.planted,
            resolve,
            ..engine::Config::default()
        };
        self.engine = Some(self.sim.block_on(engine::start(deps, config)).unwrap().unwrap());
    }

    fn group(&self) -> Group {
        Group(100 + self.generation)
    }

    fn kill(&mut self) {
        self.rt.kill(self.group());
        self.engine = None;
    }

    fn run(&self, span: Micros) {
        self.sim.run_until(self.rt.now() + span);
    }

    fn send(&self, command: Command) {
        drop(self.engine.as_ref().unwrap().send(command).unwrap());
    }

    fn has(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.journal.records().iter().any(wanted)
    }

    /// Runs until `done` holds.
    fn until(&self, what: &str, within: Micros, done: impl Fn(&World) -> bool) -> Result<(), String> {
        let end = self.rt.now() + within;
        while !done(self) {
            if self.rt.now() >= end {
                return Err(format!("not within {within}: {what}; {}", self.why()));
            }
            self.run(Micros::from_ms(50));
        }
        Ok(())
    }

    fn why(&self) -> String {
        let log: Vec<String> = self.journal.records().iter().rev().take(12).map(tidegate::journal::show).collect();
        let why = self.engine.as_ref().map(|e| {
            let s = e.snapshot();
            format!("{:?}: {}; {:?}", s.phase, s.why, s.strand)
        });
        format!("{why:?}\n{}", log.join("\n"))
    }

    fn state(&self) -> State {
        let mut state = State::default();
        for r in self.journal.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    /// Everything on next, and a while of writing there.
    fn reach_full(&mut self) -> Result<(), String> {
        self.start(Vec::new());
        let soaks = |w: &World| w.state().stage == 1 && w.has(|r| r.kind == "soak_began" && r.seq > 20);
        self.until("full soaks", Micros::from_secs(60), soaks)?;
        self.run(Micros::from_secs(3));
        Ok(())
    }

    fn is_done(&self) -> bool {
        let asks = |r: &Record| r.kind == "needs_operator" && r.body["why"].as_str().unwrap().contains("--resolve");
        self.state().closed || self.has(asks)
    }

    fn violations(&self) -> Result<(), String> {
        match self.workload.oracle().violations().first() {
            Some(v) => Err(format!("the oracle: {v}; {}", self.why())),
            None => Ok(()),
        }
    }

    /// Stops the application and compares every order with what was acknowledged; answers which are known to be left behind.
    fn verify(&self) -> Result<BTreeSet<String>, String> {
        let w = self.workload.clone();
        let verified = self.sim.block_on(async move {
            w.stop().await;
            w.verify_owned().await
        });
        let v = verified.ok_or("the application did not stop")?.map_err(|e| e.to_string())?;
        if v.lost > 0 {
            return Err(format!(
                "{} of {} are not as acknowledged: {:?}; {}",
                v.lost,
                v.checked,
                v.examples,
                self.why()
            ));
        }
        Ok(v.stranded.iter().map(Key::to_string).collect())
    }
}

/// What a run went through.
#[derive(Debug, Default)]
struct Stats {
    changed: u64,
    carried: u64,
    deleted: u64,
    conflicts: u64,
    scanned: bool,
}

fn part_of(seed: u64, what: u64) -> u64 {
    keyed_hash(seed, 0x7374_7264, what, 0)
}

/// Full, next gone in one of several ways, a hard rollback that leaves writes behind, next back again, salvage, resolution.
fn go(seed: u64, planted: Planted) -> Result<Stats, String> {
    let draw = |what: u64, n: u64| part_of(seed, what) % n;
    let by_policy = draw(1, 2) == 0;
    let share = if draw(2, 3) == 0 { (60, 50) } else { (100, 100) };
    let mut w = World::new(seed, planted, if by_policy { "7s" } else { "ask" }, share);
    w.reach_full()?;
    // tidegate loses sight of next; the application goes on writing there for a while, or to the end.
    w.link.set_cut(true);
    w.run(Micros::from_ms(500 + draw(3, 4_000)));
    let all_gone = draw(4, 3) > 0;
    if all_gone {
        // Some writes are under way, and nobody knows what becomes of them until next is back.
        w.next.faults().set_rates(OpKind::Write, Rates { unknown: 300_000, not_done: 0 });
        w.run(Micros::from_ms(400));
        w.next.faults().set_unreachable(true);
    }
    if draw(5, 4) == 0 {
        // The runner dies too: another one goes back without ever having seen next.
        w.kill();
        w.run(Micros::from_secs(1));
        w.start(Vec::new());
    }
    w.send(Command::Rollback { hard: true, to: None });
    if !by_policy {
        w.run(Micros::from_secs(draw(6, 12)));
        w.send(Command::LeaveBehind);
    }
    let flipped = |w: &World| w.state().sealed.is_some() && w.state().writes_next_below == 0;
    w.until("the flip", Micros::from_secs(60), flipped)?;
    w.run(Micros::from_ms(500 + draw(7, 12_000)));
    w.violations()?;
    if draw(8, 3) == 0 {
        w.kill();
        w.run(Micros::from_secs(2));
        w.start(Vec::new());
    }
    let scanned = draw(9, 4) == 0;
    if scanned {
        w.next.faults().truncate_oplog();
    }
    w.next.faults().clear();
    w.run(Micros::from_ms(draw(10, 3_000)));
    w.link.set_cut(false);
    if draw(11, 3) == 0 {
        // Cut off in the middle of the salvage.
        w.run(Micros::from_ms(draw(12, 2_000)));
        w.kill();
        w.run(Micros::from_secs(1));
        w.start(Vec::new());
    }
    w.until("the end", Micros::from_secs(240), |w| w.is_done())?;
    w.violations()?;
    let state = w.state();
    let evidence = state.salvaged.clone().ok_or("it was never salvaged")?;
    let n = |name: &str| evidence[name].as_u64().unwrap_or(0);
    let open: BTreeSet<String> = state.conflicts.iter().filter(|(_, c)| c.is_none()).map(|(k, _)| k.clone()).collect();
    let stranded = w.verify()?;
    if !stranded.is_subset(&open) {
        let kept = w.legacy.dump(&Ns::new(CONTROL_DB, "quarantine"));
        let of = |key: &String| {
            kept.iter()
                .find(|(id, _)| id.to_string().contains(&format!("/salvage/{}", key.replace('"', "\\\""))))
                .map(|(_, d)| format!("{d:?}"))
        };
        let more: Vec<_> = stranded.difference(&open).map(|k| (k, of(k))).collect();
        return Err(format!("left behind and listed nowhere: {more:?}; {}", w.why()));
    }
    if open.is_empty() != (state.status == tidegate::rollout::Status::RolledBack) {
        return Err(format!("{} conflicts, and it is {:?}", open.len(), state.status));
    }
    // A person takes one side for some and the other for the rest; then everything is somewhere.
    if !open.is_empty() {
        w.kill();
        let choose = |(i, key): (usize, &String)| (key.clone(), if i % 2 == 0 { Side::Next } else { Side::Legacy });
        w.start(open.iter().enumerate().map(choose).collect());
        w.until("resolved", Micros::from_secs(60), |w| w.state().closed)?;
    }
    Ok(Stats {
        changed: n("changed"),
        carried: n("carried"),
        deleted: n("deleted"),
        conflicts: state.conflicts.len() as u64,
        scanned: evidence["found_by"] == "scan",
    })
}

#[test]
fn what_is_left_behind_is_salvaged_or_listed() {
    let mut total = Stats::default();
    let (mut failures, mut scans) = (Vec::new(), 0);
    for seed in seeds(30) {
        match go(seed, Planted::default()) {
            Ok(s) => {
                total.changed += s.changed;
                total.carried += s.carried;
                total.deleted += s.deleted;
                total.conflicts += s.conflicts;
                scans += u64::from(s.scanned);
            }
            Err(e) => failures.push(format!("seed {seed}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{} seeds failed:\n{}", failures.len(), failures.join("\n"));
    println!("{total:?}, {scans} scans");
    assert!(total.changed > 0 && total.carried > 0 && total.deleted > 0 && total.conflicts > 0, "{total:?}");
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;
    use tidegate::engine::planted::Bug;

    fn is_found(bug: Bug) {
        let found = (0..2_000).find_map(|seed| go(seed, Planted::one(bug)).err().map(|e| (seed, e)));
        let (seed, e) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?} found by seed {seed}: {e}");
    }

    #[test]
    fn a_skipped_salvage_is_found() {
        is_found(Bug::SalvageSkipped);
    }

    #[test]
    fn an_ignored_tombstone_is_found() {
        is_found(Bug::TombstoneIgnored);
    }
}

#[test]
fn asked_nothing_is_left_behind_and_next_back_again_nothing_is_lost() {
    let mut w = World::new(3, Planted::default(), "ask", (100, 100));
    w.reach_full().unwrap();
    w.link.set_cut(true);
    w.run(Micros::from_secs(2));
    w.send(Command::Rollback { hard: true, to: None });
    w.run(Micros::from_secs(20));
    let s = w.engine.as_ref().unwrap().snapshot();
    let strand = s.strand.clone().unwrap();
    assert_eq!(s.phase, Phase::NeedsOperator, "{}", w.why());
    assert!(s.why.contains("next has not answered for") && s.why.contains("an estimate"), "{}", s.why);
    assert!(strand.asks && !strand.sealed && strand.estimate.unwrap() > 100, "{strand:?}");
    // Markers come twice a second: never too short, and hardly more.
    let risk = strand.at_risk.unwrap();
    assert!(risk >= Micros::from_secs(22) && risk <= Micros::from_ms(23_000), "{strand:?}");
    w.link.set_cut(false);
    w.until("the end", Micros::from_secs(120), |w| w.state().closed).unwrap();
    assert!(!w.has(|r| r.kind == "sealed" || r.kind == "strand_decided"));
    w.violations().unwrap();
    assert_eq!(w.verify().unwrap(), BTreeSet::new());
}

#[test]
fn a_task_that_waits_for_next_does_not_hold_up_the_way_back() {
    let mut w = World::new(4, Planted::default(), "6s", (100, 100));
    w.start(Vec::new());
    // In the middle of the copy.
    w.until("the copy", Micros::from_secs(30), |w| w.has(|r| r.body.get("task") == Some(&"backfill".into()))).unwrap();
    w.next.faults().set_unreachable(true);
    w.run(Micros::from_secs(30));
    w.send(Command::Rollback { hard: true, to: None });
    let isolates = |w: &World| w.has(|r| r.body.get("task") == Some(&"isolate".into()));
    w.until("it goes back", Micros::from_secs(60), isolates).unwrap();
    w.run(Micros::from_secs(5));
    assert!(w.engine.as_ref().unwrap().snapshot().why.contains("next has not answered"), "{}", w.why());
    w.next.faults().set_unreachable(false);
    w.until("the end", Micros::from_secs(120), |w| w.state().closed).unwrap();
    w.violations().unwrap();
    assert_eq!(w.verify().unwrap(), BTreeSet::new());
}

#[test]
fn a_process_can_be_stopped_while_the_salvage_is_outstanding() {
    let mut w = World::new(5, Planted::default(), "6s", (100, 100));
    w.reach_full().unwrap();
    w.link.set_cut(true);
    w.run(Micros::from_secs(1));
    w.send(Command::Rollback { hard: true, to: None });
    w.until("the seal", Micros::from_secs(60), |w| w.has(|r| r.kind == "sealed")).unwrap();
    w.run(Micros::from_secs(5));
    let s = w.engine.as_ref().unwrap().snapshot();
    assert!(s.why.contains("salvage outstanding") && s.strand.as_ref().unwrap().is_outstanding(), "{}", w.why());
    w.send(Command::Stop);
    w.until("the stop", Micros::from_secs(30), |w| w.has(|r| r.kind == "stopped")).unwrap();
    w.run(Micros::from_secs(1));
    let end = w.engine.as_ref().unwrap().ended();
    assert_eq!((End::outcome(end.as_ref(), 0), &end), ("needs_operator", &Some(End::Stopped)));
    w.link.set_cut(false);
    w.start(Vec::new());
    w.until("the end", Micros::from_secs(120), |w| w.is_done()).unwrap();
    let kept = w.legacy.dump(&Ns::new(CONTROL_DB, "quarantine"));
    assert_eq!(kept.len() as u64, w.state().salvaged.unwrap()["changed"].as_u64().unwrap());
}

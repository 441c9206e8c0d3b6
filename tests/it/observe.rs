//! A migration that another tool carries out, observed: it is judged and waited for, and nothing is written by whoever observes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bson::{RawDocument, RawDocumentBuf};
use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{
    AdminDone, AdminOp, Changes, Cluster, ClusterTime, Db, Failed, Fence, IndexSpec, Key, Ns, Observation, Page,
    PageLimit, Question, Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use tidegate::engine::{self, Config, Deps, End, Engine};
use tidegate::journal::{JournalError, JournalStore, MemStore, Record};
use tidegate::plan::{Plan, Reached};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Fut, Group, Micros, Rt, sleep};
use tidegate::snapshot::{Command, Phase, Reply};

const PLAN: &str = r#"
schema = 1
[plan]
id = "seen"
[cluster]
environment = "simulation"
[route]
mode = "observe"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
indexes = [{ keys = { n = 1 }, name = "by_n" }]
[[stage]]
id = "copied"
reached = ["reconciled", "indexes"]
soak = "20s"
advance = "auto"
[[stage.gate]]
metric = "reconcile.differing"
max = 0
window = "10s"
for = "2s"
[[stage.gate]]
metric = "lag.apply"
max = "3s"
window = "10s"
for = "2s"
[[stage]]
id = "settled"
reached = ["reconciled"]
soak = "2s"
"#;

const S: fn(u64) -> Micros = Micros::from_secs;

/// A user who may only read: whatever else is asked for is refused, and remembered.
struct ReadOnly {
    inner: Db,
    refused: Arc<Mutex<Vec<String>>>,
    switches: Arc<Switches>,
}

impl ReadOnly {
    fn refuse<T>(&self, what: String) -> Fut<'_, Result<T, Failed>>
    where
        T: Send,
    {
        self.refused.lock().unwrap().push(what);
        Box::pin(async { Err(Failed::NotDone(Reason::Refused("not authorized (code 13)".into()))) })
    }
}

impl Cluster for ReadOnly {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        match &*ns.db {
            "shop" => self.inner.scan(ns, from, limit, after),
            _ => self.refuse(format!("scan of {ns}")),
        }
    }
    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        match &*ns.db {
            "shop" => self.inner.read(ns, keys, after),
            _ => self.refuse(format!("read of {ns}")),
        }
    }
    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        match &*ns.db {
            "shop" => self.inner.ask(ns, keys, questions, after),
            _ => self.refuse(format!("questions about {ns}")),
        }
    }
    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        self.inner.draw(ns, among, most)
    }
    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        self.refuse(format!("{op:?}"))
    }
    fn transact<'a>(&'a self, _: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        self.refuse(format!("{ops:?}"))
    }
    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        self.inner.changes(ns, from)
    }
    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        match op {
            AdminOp::Building { .. } if self.switches.building.load(Ordering::SeqCst) => {
                Box::pin(async { Ok(AdminDone::Names(vec!["by_n".into()])) })
            }
            AdminOp::Building { .. }
            | AdminOp::Kind { .. }
            | AdminOp::Indexes { .. }
            | AdminOp::Explain { .. }
            | AdminOp::Count { .. }
            | AdminOp::Load
            | AdminOp::Latency { .. } => self.inner.admin(op),
            other => self.refuse(format!("{other:?}")),
        }
    }
    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        self.inner.observe()
    }
}

/// What the tool and the application do at the moment.
#[derive(Default)]
struct Switches {
    follow: AtomicBool,
    write: AtomicBool,
    /// The server says that next's index is being built.
    building: AtomicBool,
}

struct World {
    sim: Sim,
    rt: Rt,
    cluster: Arc<Embedded>,
    plan: Arc<Plan>,
    journal: MemStore,
    refused: Arc<Mutex<Vec<String>>>,
    switches: Arc<Switches>,
    runners: u32,
}

fn parsed(text: &str) -> Arc<Plan> {
    Arc::new(Plan::parse(text, "seen.toml").unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// What the other tool makes of a document; no code is shared with the engine.
fn carried(doc: &RawDocument) -> RawDocumentBuf {
    let mut to = doc.to_owned();
    to.append(bson::cstr!("schema_version"), 2);
    to
}

fn order(id: i64, n: i64) -> RawDocumentBuf {
    bson::rawdoc! { "_id": id, "n": n }
}

impl World {
    fn new(seed: u64) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let plan = parsed(PLAN);
        cluster.load(&plan.collections[0].legacy, (0..300).map(|n| order(n, n)).collect()).unwrap();
        let (journal, refused, switches) = (MemStore::new(), Arc::default(), Arc::default());
        World { sim, rt, cluster, plan, journal, refused, switches, runners: 0 }
    }

    fn start(&mut self) -> Engine {
        self.runners += 1;
        let (inner, refused, switches) = (self.cluster.clone(), self.refused.clone(), self.switches.clone());
        let db: Db = Arc::new(ReadOnly { inner, refused, switches });
        let deps = Deps {
            rt: self.rt.clone(),
            group: Group(self.runners),
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(Kept(self.journal.clone())),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let config = Config { holder: "onlooker".into(), resume: self.runners > 1, ..Config::default() };
        self.sim.block_on(engine::start(deps, config)).unwrap().unwrap_or_else(|e| panic!("{e}"))
    }

    fn pass(&self, span: Micros) {
        self.sim.run_until(self.rt.now() + span);
    }

    fn until(&self, what: &str, within: Micros, done: impl Fn() -> bool) {
        let end = self.rt.now() + within;
        while !done() {
            assert!(self.rt.now() < end, "{what}: not within {within}\n{}", self.log());
            self.pass(Micros::from_ms(100));
        }
    }

    fn sides(&self) -> [Ns; 2] {
        [self.plan.collections[0].legacy.clone(), self.plan.collections[0].next.clone()]
    }

    fn write(&self, op: WriteOp) {
        let cluster = self.cluster.clone();
        self.sim.block_on(async move { cluster.write(&op).await }).unwrap().unwrap();
    }

    fn put(&self, ns: &Ns, doc: RawDocumentBuf) {
        let key = Key::new(doc.get("_id").unwrap().unwrap()).unwrap();
        self.write(WriteOp::Replace { ns: ns.clone(), key, only_if: None, doc, upsert: true });
    }

    /// The other tool copies everything, then follows legacy, unless it is told to stand still.
    fn migrate(&self) {
        let [legacy, next] = self.sides();
        let (db, rt, switches) = (self.cluster.clone(), self.rt.clone(), self.switches.clone());
        switches.follow.store(true, Ordering::SeqCst);
        let tool = async move {
            db.admin(&AdminOp::Create { ns: next.clone() }).await.unwrap();
            let index = IndexSpec { name: "by_n".into(), keys: bson::doc! { "n": 1 }, ..IndexSpec::default() };
            let from = db.observe().await.unwrap().majority;
            for id in 0..300_i64 {
                carry(&db, &legacy, &next, &Key::from(id)).await;
            }
            db.admin(&AdminOp::CreateIndex { ns: next.clone(), index }).await.unwrap();
            let mut stream = db.changes(&legacy, &StreamPos { token: None, at: from }).await.unwrap();
            loop {
                let batch = stream.next(Micros::from_ms(50)).await.unwrap();
                for key in batch.events.iter().filter_map(|e| e.key.as_ref()) {
                    while !switches.follow.load(Ordering::SeqCst) {
                        sleep(&rt, Micros::from_ms(50)).await;
                    }
                    carry(&db, &legacy, &next, key).await;
                }
            }
        };
        self.rt.spawn(Group(50), "tool", Box::pin(tool));
    }

    /// The application, which knows nothing of any of it.
    fn application(&self) {
        let [legacy, _] = self.sides();
        let (db, rt, switches) = (self.cluster.clone(), self.rt.clone(), self.switches.clone());
        switches.write.store(true, Ordering::SeqCst);
        let application = async move {
            for n in 0_i64.. {
                sleep(&rt, Micros::from_ms(70)).await;
                if !switches.write.load(Ordering::SeqCst) {
                    continue;
                }
                let (ns, key) = (legacy.clone(), Key::from((n * 7) % 320));
                // A document in ten goes and comes back later.
                let op = match n % 10 {
                    3 => WriteOp::Delete { ns, key, only_if: None },
                    _ => {
                        WriteOp::Replace { ns, key, only_if: None, doc: order((n * 7) % 320, 1_000 + n), upsert: true }
                    }
                };
                db.write(&op).await.unwrap();
            }
        };
        self.rt.spawn(Group(51), "application", Box::pin(application));
    }

    fn records(&self, kind: &str) -> Vec<Record> {
        self.journal.records().into_iter().filter(|r| r.kind == kind).collect()
    }

    fn log(&self) -> String {
        let lines: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
        lines.join("\n")
    }

    /// Nobody but the tool and the application has written, or looked into anything of tidegate's own.
    fn nothing_was_written(&self) {
        assert_eq!(*self.refused.lock().unwrap(), Vec::<String>::new());
    }

    fn soaks(&self, n: usize) -> bool {
        self.records("soak_began").len() >= n
    }
}

async fn carry(db: &Arc<Embedded>, legacy: &Ns, next: &Ns, key: &Key) {
    let found = db.read(legacy, std::slice::from_ref(key), ClusterTime::ZERO).await.unwrap();
    let ns = next.clone();
    let op = match found.docs.into_iter().next().flatten() {
        Some(doc) => WriteOp::Replace { ns, key: key.clone(), only_if: None, doc: carried(&doc), upsert: true },
        None => WriteOp::Delete { ns, key: key.clone(), only_if: None },
    };
    db.write(&op).await.unwrap();
}

/// The journal, in memory.
struct Kept(MemStore);

impl JournalStore for Kept {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        self.0.append(record)
    }
    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        self.0.load()
    }
}

/// A migration that has got so far that its first stage soaks.
fn soaking(seed: u64) -> (World, Engine) {
    soaks_with(seed, |_| {})
}

/// The same, and an application goes on writing.
fn soaking_under_traffic(seed: u64) -> (World, Engine) {
    soaks_with(seed, World::application)
}

fn soaks_with(seed: u64, begin: impl FnOnce(&World)) -> (World, Engine) {
    let mut w = World::new(seed);
    let engine = w.start();
    begin(&w);
    w.migrate();
    w.until("it soaks", S(60), || w.soaks(1));
    (w, engine)
}

#[test]
fn a_migration_by_another_tool_is_waited_for_compared_and_passed_without_a_write() {
    let mut w = World::new(1);
    let engine = w.start();
    w.application();
    w.pass(S(5));
    let s = engine.snapshot();
    assert_eq!((s.phase, s.plan.mode.as_str()), (Phase::Working, "observe"));
    assert!(s.why.contains("shop.orders_v2 is not there yet"), "{}", s.why);
    assert_eq!(s.reconcile[0].matched, None, "nothing has been compared");

    w.migrate();
    w.until("both sides are compared", S(60), || w.soaks(1));
    w.until("it is completed", S(120), || engine.ended().is_some());
    assert_eq!(engine.ended(), Some(End::Completed), "{}", w.log());
    w.nothing_was_written();
    let compared: Vec<u64> =
        w.records("task_done").iter().filter_map(|r| r.body["evidence"]["matched"].as_u64()).collect();
    assert!(compared.len() == 2 && compared.iter().all(|n| (200..=320).contains(n)), "{compared:?}\n{}", w.log());
    let s = engine.snapshot();
    assert_eq!((s.reconcile[0].missing, s.reconcile[0].extra, s.reconcile[0].differing), (Some(0), Some(0), Some(0)));
    assert!(s.wall_ms - s.reconcile[0].verified_through_ms.unwrap() < 15_000);
    assert!(s.rest.as_ref().is_some_and(|r| r.applications.contains("the tool that migrates")), "{:?}", s.rest);
}

#[test]
fn a_wrong_document_is_found_while_it_soaks_and_holds_the_stage_until_it_is_right() {
    let (w, engine) = soaking(2);
    let [legacy, next] = w.sides();
    w.pass(S(5));
    assert_eq!(engine.snapshot().reconcile[0].matched, Some(300));
    w.put(&next, bson::rawdoc! { "_id": 7_i64, "n": 8_i64, "schema_version": 2 });
    w.write(WriteOp::Delete { ns: next.clone(), key: Key::from(9), only_if: None });
    w.put(&next, carried(&order(999, 1)));
    w.until("all three are found", S(6), || {
        let r = &engine.snapshot().reconcile[0];
        (r.matched, r.missing, r.extra, r.differing) == (Some(298), Some(1), Some(1), Some(1))
    });
    w.pass(S(30));
    let s = engine.snapshot();
    assert_eq!((s.phase, w.soaks(2)), (Phase::Blocked, false), "{}", w.log());
    assert!(s.why.contains("reconcile differing"), "{}", s.why);

    w.put(&next, carried(&order(7, 7)));
    w.put(&next, carried(&order(9, 9)));
    w.put(&legacy, order(999, 1));
    w.until("it is completed", S(60), || engine.ended().is_some());
    assert_eq!((engine.ended(), engine.snapshot().reconcile[0].matched), (Some(End::Completed), Some(301)));
    w.nothing_was_written();
}

#[test]
fn a_stage_is_not_reached_while_a_document_differs_and_says_which() {
    let mut w = World::new(3);
    w.migrate();
    w.pass(S(20));
    let [_, next] = w.sides();
    w.put(&next, bson::rawdoc! { "_id": 7_i64, "n": 7_i64, "schema_version": 3 });
    let engine = w.start();
    w.until("it is held", S(60), || !w.records("task_held").is_empty());
    w.pass(S(20));
    assert!(engine.snapshot().why.contains("differing 1, in flight 0: 7 differing"), "{}", engine.snapshot().why);
    assert!(!w.soaks(1));
    w.put(&next, carried(&order(7, 7)));
    w.until("it soaks", S(60), || w.soaks(1));
    w.nothing_was_written();
}

#[test]
fn the_lag_is_the_age_of_the_oldest_change_that_has_not_been_carried() {
    let (w, engine) = soaking_under_traffic(4);
    w.pass(S(3));
    let lag = || engine.snapshot().lag.apply.unwrap();
    assert!(lag() < S(2), "{}", lag());
    w.switches.follow.store(false, Ordering::SeqCst);
    w.pass(S(10));
    assert!((S(9)..S(11)).contains(&lag()), "{}", lag());
    // No more is written, and yet what was is not there.
    w.switches.write.store(false, Ordering::SeqCst);
    w.pass(S(10));
    assert!((S(19)..S(21)).contains(&lag()), "{}", lag());
    w.switches.follow.store(true, Ordering::SeqCst);
    w.pass(S(10));
    assert!(lag() < S(2), "{}", lag());
    assert_eq!(engine.snapshot().lag.reverse, None);
    w.nothing_was_written();
}

#[test]
fn it_is_paused_continued_and_advanced_from_the_screen_and_never_rolls_back() {
    let mut w = World::new(5);
    w.plan = parsed(&PLAN.replace("soak = \"20s\"\nadvance = \"auto\"", "soak = \"1s\""));
    let engine = w.start();
    w.migrate();
    w.until("it soaks", S(60), || w.soaks(1));
    let send = |command| w.sim.block_on(engine.send(command).unwrap()).unwrap().unwrap();
    for back in [Command::Rollback { hard: true, to: None }, Command::RollbackCohort { hard: false }] {
        let Reply::Refused(why) = send(back) else { panic!("{}", w.log()) };
        assert!(why.contains("observes") || why.contains("cohort"), "{why}");
    }
    let Reply::Refused(why) = send(Command::Rollback { hard: false, to: None }) else { panic!("{}", w.log()) };
    assert!(why.contains("only observes and writes nothing"), "{why}");
    assert!(!engine.snapshot().way_back.open);
    assert_eq!(send(Command::Pause), Reply::Applied);
    w.pass(S(10));
    assert_eq!((engine.snapshot().phase, w.soaks(2)), (Phase::Paused, false));
    assert_eq!(send(Command::Continue), Reply::Applied);
    w.until("an operator can advance", S(30), || engine.snapshot().phase == Phase::AwaitingOperator);
    assert_eq!(send(Command::Advance { stage: 0 }), Reply::Applied);
    w.until("it is completed", S(60), || engine.ended().is_some());
    assert_eq!(engine.ended(), Some(End::Completed));
    w.nothing_was_written();
}

#[test]
fn an_observer_that_died_goes_on_from_its_journal_and_compares_afresh() {
    let (mut w, _) = soaking_under_traffic(6);
    w.rt.kill(Group(1));
    // Nobody looks on meanwhile.
    let [_, next] = w.sides();
    w.put(&next, carried(&order(5_000, 1)));
    w.pass(S(5));
    let engine = w.start();
    w.until("it is found", S(30), || engine.snapshot().reconcile[0].extra == Some(1));
    let epochs: Vec<i64> = w.journal.records().iter().map(|r| r.epoch).collect();
    assert!(epochs.first() == Some(&1) && epochs.last() == Some(&2), "{epochs:?}");
    w.write(WriteOp::Delete { ns: next, key: Key::from(5_000), only_if: None });
    w.until("it is completed", S(120), || engine.ended().is_some());
    assert_eq!(engine.ended(), Some(End::Completed), "{}", w.log());
    w.nothing_was_written();
}

#[test]
fn a_lost_oplog_is_no_end_and_everything_is_compared_again() {
    let (w, engine) = soaking(7);
    w.pass(S(3));
    let [_, next] = w.sides();
    // The tool has its own stream, and comes to its end with it.
    w.rt.kill(Group(50));
    w.cluster.faults().break_streams();
    w.cluster.faults().set_unreachable(true);
    w.pass(S(1));
    w.cluster.load(&next, vec![carried(&order(5_000, 1))]).unwrap();
    w.cluster.faults().truncate_oplog();
    w.cluster.faults().set_unreachable(false);
    w.until("it is found all the same", S(60), || engine.snapshot().reconcile[0].extra == Some(1));
    w.nothing_was_written();
}

#[test]
fn a_lag_gate_does_not_pass_on_a_document_that_went_missing_while_nobody_looked() {
    let (mut w, _) = soaking(8);
    w.rt.kill(Group(1));
    let [_, next] = w.sides();
    w.write(WriteOp::Delete { ns: next.clone(), key: Key::from(9), only_if: None });
    let engine = w.start();
    // A document that is missing is looked at again and again before it counts.
    for _ in 0..50 {
        w.pass(Micros::from_ms(100));
        assert_eq!(engine.snapshot().lag.apply, None, "nothing is known before everything has been compared again");
    }
    w.until("it is found", S(30), || engine.snapshot().reconcile[0].missing == Some(1));
    w.pass(S(30));
    let s = engine.snapshot();
    assert!(s.lag.apply.is_some_and(|lag| lag > S(25)), "{:?}", s.lag.apply);
    assert_eq!(s.phase, Phase::Blocked, "{}", w.log());
    w.put(&next, carried(&order(9, 9)));
    w.until("it is completed", S(60), || engine.ended().is_some());
    w.nothing_was_written();
}

#[test]
fn the_lag_does_not_climb_by_itself_while_everything_is_compared_again() {
    let (mut w, _) = soaking_under_traffic(9);
    w.rt.kill(Group(1));
    // One that stays as it is makes the comparison long.
    let [_, next] = w.sides();
    w.put(&next, carried(&order(5_000, 1)));
    let engine = w.start();
    w.pass(S(5));
    let s = engine.snapshot();
    assert!(s.lag.apply.is_none() && s.lag.apply_rate > 5.0, "{:?}, {}", s.lag.apply, s.lag.apply_rate);
    w.until("the lag is known", S(30), || engine.snapshot().lag.apply.is_some());
    let lag = engine.snapshot().lag.apply.unwrap();
    assert!(lag < S(2), "{lag}");
    w.nothing_was_written();
}

#[test]
fn an_index_that_is_still_being_built_is_not_there_yet() {
    let mut w = World::new(10);
    w.switches.building.store(true, Ordering::SeqCst);
    let engine = w.start();
    w.migrate();
    w.pass(S(60));
    assert!(engine.snapshot().why.contains("is still being built"), "{}", engine.snapshot().why);
    assert!(!w.soaks(1));
    w.switches.building.store(false, Ordering::SeqCst);
    w.until("it soaks", S(10), || w.soaks(1));
    w.nothing_was_written();
}

#[test]
fn a_hot_key_that_is_never_carried_counts_as_differing() {
    let (w, engine) = soaking(11);
    let [legacy, _] = w.sides();
    w.switches.follow.store(false, Ordering::SeqCst);
    for n in 0..120 {
        w.put(&legacy, order(7, 1_000 + n));
        w.pass(Micros::from_ms(50));
        let r = &engine.snapshot().reconcile[0];
        assert!(n < 100 || r.differing == Some(1), "after {n}: {:?} in flight {:?}", r.differing, r.in_flight);
    }
    w.nothing_was_written();
}

#[test]
fn a_copy_that_is_dropped_right_after_a_resume_is_told_to_a_person() {
    let (mut w, _) = soaking(12);
    w.rt.kill(Group(1));
    w.rt.kill(Group(50));
    let [_, next] = w.sides();
    w.put(&next, carried(&order(5_000, 1)));
    let engine = w.start();
    w.pass(S(2));
    assert_eq!(engine.snapshot().lag.apply, None, "everything is being compared again");
    let cluster = w.cluster.clone();
    w.sim.block_on(async move { cluster.admin(&AdminOp::Drop { ns: next }).await }).unwrap().unwrap();
    w.until("a person is asked", S(10), || engine.snapshot().phase == Phase::NeedsOperator);
    w.nothing_was_written();
}

/// Line, column and message of everything that is wrong with a plan.
fn mistakes(with: &[(&str, &str)]) -> Vec<(usize, usize, String)> {
    let text = with.iter().fold(PLAN.to_owned(), |t, (from, to)| {
        assert!(t.contains(from), "{from}");
        t.replacen(from, to, 1)
    });
    match Plan::parse(&text, "seen.toml") {
        Ok(_) => Vec::new(),
        Err(d) => d.list().iter().map(|m| (m.line, m.column, m.message.clone())).collect(),
    }
}

#[test]
fn what_an_onlooker_cannot_do_or_know_is_refused_with_its_place() {
    let plan = parsed(PLAN);
    assert!(plan.observes());
    assert_eq!(plan.stages[0].reached, [Reached::Reconciled, Reached::Indexes]);
    let stage = "id = \"copied\"\n";
    let after = |more: &str| format!("{stage}{more}\n");
    let one = |with: &[(&str, &str)], line: usize, column: usize, says: &str| {
        let found = mistakes(with);
        assert!(found.len() == 1 && found[0].2.contains(says), "{with:?}: {found:?}");
        assert_eq!((found[0].0, found[0].1), (line, column), "{with:?}: {found:?}");
    };
    for (more, column, says) in [
        ("do = [\"backfill\"]", 6, "`do` has nothing to do"),
        ("reads = 5", 9, "`reads` has nothing to do"),
        ("writes = 5", 10, "`writes` has nothing to do"),
        ("shadow = 5", 10, "`shadow` has nothing to do"),
        ("irreversible = true", 16, "`irreversible` has nothing to do"),
    ] {
        one(&[(stage, &after(more))], 16, column, says);
    }
    let route = "mode = \"observe\"\n";
    one(&[(route, "mode = \"observe\"\nserver_gate = true\n")], 9, 15, "`server_gate` has nothing to do");
    one(&[(route, "mode = \"observe\"\n[throttle]\nmax_docs_per_second = 5\n")], 10, 23, "`max_docs_per_second`");
    let back = "mode = \"observe\"\n[[trigger]]\nmetric = \"lag.apply\"\nabove = \"9s\"\nwindow = \"9s\"\naction = \"rollback\"\n";
    one(&[(route, back)], 13, 10, "cannot go back");
    one(&[("\"lag.apply\"", "\"lag.reverse\"")], 25, 10, "`lag.reverse` is never known");
    one(&[("[\"reconciled\", \"indexes\"]", "[\"indexes\"]")], 20, 10, "nothing has been compared");
    one(&[("[\"reconciled\", \"indexes\"]", "[\"reconciled\"]")], 13, 11, "no stage looks whether these indexes");
    one(&[("indexes = [{ keys = { n = 1 }, name = \"by_n\" }]\n", "")], 15, 26, "the plan names no index");
    one(
        &[("[\"reconciled\", \"indexes\"]", "[\"reconciled\", \"copied\"]"), ("indexes = [", "#")],
        16,
        26,
        "unknown thing",
    );
    let hook =
        "mode = \"observe\"\n[[hook]]\nid = \"x\"\non = [\"trigger\", \"rolled_back\"]\nurl = \"https://x.example/\"\n";
    one(&[(route, hook)], 11, 18, "this occasion has nothing to do");
    for table in ["cutover", "rollback"] {
        let found = mistakes(&[(route, &format!("mode = \"observe\"\n[{table}]\n"))]);
        assert!(found.len() == 1 && found[0].2.contains(&format!("`[{table}]` has nothing to do")), "{found:?}");
    }
    let moving = PLAN.replace("observe", "route");
    let found = Plan::parse(&moving, "seen.toml").unwrap_err();
    assert!(found.list().iter().any(|m| m.message.contains("for plans that only observe")), "{}", found.render(false));
}

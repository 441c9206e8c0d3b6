//! A rollout watched and steered from other terminals, through the control database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{
    AdminDone, AdminOp, Changes, Cluster, ClusterTime, Db, Failed, Fence, Key, Ns, Observation, Page, PageLimit,
    Question, Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use tidegate::engine::watch::{Answer, Asked, Looker, Seen, Wish, answer, ask, commands_ns, views_ns};
use tidegate::engine::{self, Config, Deps, Engine};
use tidegate::journal::{JournalError, JournalStore, MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Fut, Group, Micros, Rt, sleep};
use tidegate::snapshot::{Command, GateView, Phase, Reply};

const PLAN: &str = concat!(
    head!("watched", "Watched", "simulation"),
    r#"[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "20s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "1s"
"#
);

const OK: u8 = 0;
const REFUSES: u8 = 1;
const HANGS: u8 = 2;

/// A cluster that does not take the pictures: it refuses them, or never answers.
struct NoPictures {
    inner: Db,
    how: Arc<AtomicU8>,
}

impl Cluster for NoPictures {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        self.inner.scan(ns, from, limit, after)
    }
    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        self.inner.read(ns, keys, after)
    }
    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        self.inner.ask(ns, keys, questions, after)
    }
    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        self.inner.draw(ns, among, most)
    }
    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        let (WriteOp::Insert { ns, .. } | WriteOp::Replace { ns, .. } | WriteOp::Delete { ns, .. }) = op;
        let how = if *ns == views_ns() { self.how.load(Ordering::SeqCst) } else { OK };
        match how {
            OK => self.inner.write(op),
            REFUSES => Box::pin(async { Err(Failed::NotDone(Reason::Refused("not authorized (code 13)".into()))) }),
            _ => Box::pin(std::future::pending()),
        }
    }
    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        self.inner.transact(fence, ops)
    }
    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        self.inner.changes(ns, from)
    }
    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        self.inner.admin(op)
    }
    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        self.inner.observe()
    }
}

/// A disk on which a record takes its time: a runner may die between any two of them.
struct Slow {
    store: MemStore,
    rt: Rt,
}

impl JournalStore for Slow {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async move {
            sleep(&self.rt, Micros::from_ms(20)).await;
            let done = self.store.append(record).await;
            sleep(&self.rt, Micros::from_ms(20)).await;
            done
        })
    }
    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        self.store.load()
    }
}

struct World {
    sim: Sim,
    rt: Rt,
    db: Db,
    plan: Arc<Plan>,
    journal: MemStore,
    pictures: Arc<AtomicU8>,
    runners: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let plan = Arc::new(Plan::parse(PLAN, "watched.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let docs = (0..100_i64).map(|n| bson::rawdoc! { "_id": n, "n": n });
        cluster.load(&plan.collections[0].legacy, docs.collect()).unwrap();
        let pictures = Arc::new(AtomicU8::new(OK));
        let db: Db = Arc::new(NoPictures { inner: cluster, how: pictures.clone() });
        World { sim, rt, db, plan, journal: MemStore::new(), pictures, runners: 0 }
    }

    /// The next runner; it takes over from the one before, dead or alive.
    fn start(&mut self) -> Engine {
        // One that lives may write its journal at the very moment that another one takes it up, which then begins again.
        let mut started = self.try_start();
        for _ in 0..3 {
            if started.is_err() {
                started = self.try_start();
            }
        }
        started.unwrap()
    }

    fn try_start(&mut self) -> Result<Engine, engine::StartError> {
        self.runners += 1;
        let deps = Deps {
            rt: self.rt.clone(),
            group: Group(self.runners),
            clusters: [self.db.clone(), self.db.clone()],
            one_cluster: true,
            journal: Arc::new(Slow { store: self.journal.clone(), rt: self.rt.clone() }),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let begun = self.runners > 1;
        let config = Config {
            holder: format!("runner-{}", self.runners),
            advance: Some(Advance::Auto),
            resume: begun,
            take_over: begun.then(|| "the test says so".into()),
            shared: true,
            ..Config::default()
        };
        self.sim.block_on(engine::start(deps, config)).unwrap()
    }

    fn kill(&self) {
        self.rt.kill(Group(self.runners));
    }

    fn pass(&self, span: Micros) {
        self.sim.run_until(self.rt.now() + span);
    }

    fn look(&self) -> Seen {
        let mut looker = Looker::new(&self.rt, &self.db, &self.plan.id);
        self.sim.block_on(async move { looker.look().await }).unwrap().unwrap()
    }

    fn asked(&self, id: &str, epoch: i64, command: Command) -> Asked {
        Asked {
            id: id.into(),
            by: "anna".into(),
            at_ms: self.look().server_ms,
            plan_hash: self.plan.hash.clone(),
            epoch,
            stage: Some(0),
            wish: Wish::Command(command),
        }
    }

    fn ask(&self, asked: &Asked) {
        let (rt, db, plan, asked) = (self.rt.clone(), self.db.clone(), self.plan.id.clone(), asked.clone());
        let asking = async move { ask(&rt, &db, &plan, &asked, Micros::from_secs(4)).await };
        assert_eq!(self.sim.block_on(asking).unwrap(), Answer::Waiting);
    }

    fn answer(&self, id: &str) -> Option<Answer> {
        let (db, plan, id) = (self.db.clone(), self.plan.id.clone(), id.to_owned());
        self.sim.block_on(async move { answer(&db, &plan, &id).await }).unwrap().unwrap()
    }

    /// The answer, once there is a final one.
    fn settled(&self, id: &str, within: Micros) -> Answer {
        let until = self.rt.now() + within;
        loop {
            match self.answer(id) {
                Some(a) if a.is_final() => return a,
                other => assert!(self.rt.now() < until, "not settled: {other:?}\n{}", self.log()),
            }
            self.pass(Micros::from_ms(100));
        }
    }

    fn records(&self, kind: &str) -> Vec<Record> {
        self.journal.records().into_iter().filter(|r| r.kind == kind).collect()
    }

    fn log(&self) -> String {
        let lines: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
        lines.join("\n")
    }
}

fn applied() -> Answer {
    Answer::Reply(Reply::Applied)
}

fn refused(a: Answer) -> String {
    match a {
        Answer::Reply(Reply::Refused(why)) => why,
        other => panic!("it was {other:?}"),
    }
}

#[test]
fn another_terminal_sees_the_picture_and_its_pause_is_carried_out_and_journalled_under_its_name() {
    let mut w = World::new(1);
    let engine = w.start();
    w.pass(Micros::from_secs(3));
    let seen = w.look();
    let view = seen.view.clone().unwrap();
    assert_eq!((view.epoch, view.snapshot.holder.as_str(), seen.absent()), (1, "runner-1", None));
    assert!(seen.age_ms().unwrap() < 2_000, "{:?}", seen.age_ms());

    w.ask(&w.asked("1", 1, Command::Pause));
    assert_eq!(w.settled("1", Micros::from_secs(3)), applied());
    assert_eq!(engine.snapshot().phase, Phase::Paused);
    let by: Vec<String> =
        w.records("command_asked").iter().chain(&w.records("paused")).map(|r| r.by.to_string()).collect();
    assert_eq!(by, ["operator:anna", "operator:anna"], "{}", w.log());
    assert_eq!(w.records("command_answered")[0].body["refused"], serde_json::Value::Null);

    // What the core refuses is refused there too, with its reason.
    w.ask(&w.asked("2", 1, Command::Advance { stage: 0 }));
    assert!(refused(w.settled("2", Micros::from_secs(3))).starts_with("paused"), "{}", w.log());
    w.ask(&w.asked("3", 1, Command::Stop));
    w.pass(Micros::from_secs(5));
    let seen = w.look();
    assert_eq!(seen.view.as_ref().unwrap().ended.as_deref(), Some("stopped"), "{}", w.log());
    assert!(seen.absent().unwrap().starts_with("stopped at a safe point"));
}

#[test]
fn what_was_asked_of_another_time_is_refused_and_nothing_is_done() {
    let mut w = World::new(2);
    let _first = w.start();
    w.pass(Micros::from_secs(3));
    w.kill();
    w.ask(&w.asked("old epoch", 1, Command::Rollback { hard: true, to: None }));
    w.pass(Micros::from_secs(8));
    let silent = w.look().absent().unwrap();
    assert!(silent.contains("has not been heard of for"), "{silent}");

    let _second = w.start();
    w.pass(Micros::from_secs(1));
    let mut late = w.asked("late", 2, Command::Pause);
    late.at_ms -= 61_000;
    w.ask(&late);
    w.ask(&Asked { plan_hash: "another".into(), ..w.asked("plan", 2, Command::Pause) });
    w.ask(&Asked { stage: Some(1), ..w.asked("stage", 2, Command::Continue) });
    let said: BTreeMap<&str, String> = ["old epoch", "late", "plan", "stage"]
        .into_iter()
        .map(|id| (id, refused(w.settled(id, Micros::from_secs(5)))))
        .collect();
    assert!(said["old epoch"].contains("epoch 2 took the rollout up"), "{said:?}");
    assert!(said["late"].contains("not taken in time"), "{said:?}");
    assert!(said["plan"].contains("with plan another on screen"), "{said:?}");
    assert_eq!(said["stage"], "it was asked in stage half; the stage is copy now");
    assert!(w.records("paused").is_empty() && w.records("rollback_began").is_empty(), "{}", w.log());
    assert_eq!(w.records("command_asked").len(), 4, "each is in the journal\n{}", w.log());

    // What is answered is taken away after a while, by whoever runs the rollout then.
    w.ask(&w.asked("hold", 2, Command::Pause));
    assert_eq!(w.settled("hold", Micros::from_secs(3)), applied());
    w.pass(Micros::from_secs(640));
    assert_eq!(w.answer("late"), None);
}

#[test]
fn a_command_is_carried_out_at_most_once_whoever_dies_and_whoever_takes_over() {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    // Every moment around the round in which it is taken: the records of one command take 40 ms each.
    for n in 0..60 {
        let mut w = World::new(n);
        let _first = w.start();
        w.pass(Micros::from_secs(3));
        w.ask(&w.asked("1", 1, Command::Pause));
        w.pass(Micros(n * 13_000));
        // Every third is not dead but goes on beside the one that takes over.
        if n % 3 != 0 {
            w.kill();
        }
        let second = w.start();
        w.pass(Micros::from_secs(1));
        if second.snapshot().phase == Phase::Paused {
            // Carried out a second time it would pause again.
            drop(second.send(Command::Continue));
            w.pass(Micros::from_ms(500));
        }
        let settled = w.settled("1", Micros::from_secs(5));
        w.kill();
        let third = w.start();
        w.pass(Micros::from_secs(3));
        assert_eq!(w.answer("1").as_ref(), Some(&settled), "run {n}");
        assert_ne!(third.snapshot().phase, Phase::Paused, "run {n}\n{}", w.log());
        let paused = w.records("paused").len();
        assert!(w.records("command_asked").len() == 1 && paused <= 1, "run {n}\n{}", w.log());
        let what = match settled {
            Answer::Reply(Reply::Applied) => {
                assert_eq!(paused, 1, "run {n}\n{}", w.log());
                "applied"
            }
            Answer::Reply(Reply::Refused(_)) => {
                assert_eq!(paused, 0, "run {n}\n{}", w.log());
                "refused"
            }
            Answer::Unknown(_) if paused == 0 => "cut off before",
            Answer::Unknown(_) => "cut off after",
            other => panic!("run {n}: {other:?}"),
        };
        *outcomes.entry(what).or_default() += 1;
    }
    for what in ["applied", "refused", "cut off before", "cut off after"] {
        assert!(outcomes.contains_key(what), "no run was {what}: {outcomes:?}");
    }
}

#[test]
fn pictures_that_cannot_be_published_are_told_of_and_hold_nothing_up() {
    for how in [REFUSES, HANGS] {
        let mut w = World::new(4);
        w.pictures.store(how, Ordering::SeqCst);
        let engine = w.start();
        w.pass(Micros::from_secs(12));
        let said = engine.snapshot().unpublished.clone().unwrap_or_default();
        assert!(said.starts_with("other terminals see what was "), "{said}");
        assert_eq!(said.contains("not authorized"), how == REFUSES, "{said}");
        assert!(w.look().view.is_none());
        w.pass(Micros::from_secs(60));
        assert!(engine.ended().is_some(), "{}", w.log());
    }
    // Once it can be published again, it is, and nothing is said any more.
    let mut w = World::new(5);
    w.pictures.store(REFUSES, Ordering::SeqCst);
    let engine = w.start();
    w.pass(Micros::from_secs(8));
    w.pictures.store(OK, Ordering::SeqCst);
    w.pass(Micros::from_secs(2));
    assert_eq!(engine.snapshot().unpublished, None);
    assert!(w.look().view.is_some());
}

#[test]
fn a_runner_that_was_taken_over_does_not_publish_over_its_successor() {
    let mut w = World::new(6);
    let first = w.start();
    w.pass(Micros::from_secs(3));
    let _second = w.start();
    let mut last = 1;
    for _ in 0..20 {
        w.pass(Micros::from_ms(300));
        let epoch = w.look().view.unwrap().epoch;
        assert!(epoch >= last);
        last = epoch;
    }
    assert_eq!(last, 2);
    assert!(first.ended().is_some());
}

#[test]
fn a_document_that_is_no_command_is_refused_and_others_are_taken() {
    let mut w = World::new(7);
    let _engine = w.start();
    w.pass(Micros::from_secs(2));
    let mut doc = bson::RawDocumentBuf::new();
    doc.append(bson::cstr!("_id"), "watched/0");
    doc.append(bson::cstr!("state"), "requested");
    doc.append(bson::cstr!("command"), "drop everything");
    let op = WriteOp::Insert { ns: commands_ns(), doc };
    let db = w.db.clone();
    w.sim.block_on(async move { db.write(&op).await }).unwrap().unwrap();
    w.ask(&w.asked("1", 1, Command::Pause));
    assert_eq!(w.settled("1", Micros::from_secs(3)), applied());
    assert!(refused(w.settled("0", Micros::from_secs(3))).contains("cannot be read"));
    assert_eq!(w.records("command_asked").len(), 1);
}

fn amend(w: &World, id: &str, from: &str, to: &str) -> Asked {
    assert!(PLAN.contains(from));
    amend_to(w, id, PLAN.replace(from, to))
}

fn amend_to(w: &World, id: &str, plan: String) -> Asked {
    let wish = Wish::Amend { plan, reason: "the night is short".into() };
    Asked { wish, ..w.asked(id, 1, Command::Pause) }
}

#[test]
fn an_amended_plan_takes_effect_and_is_what_the_journal_names_from_there_on() {
    let mut w = World::new(8);
    let engine = w.start();
    w.pass(Micros::from_secs(3));
    // Steps are what was agreed to.
    w.ask(&amend(&w, "steps", "value = 2", "value = 3"));
    let why = refused(w.settled("steps", Micros::from_secs(3)));
    assert!(why.contains("the collection: its sides, steps, indexes or shape"), "{why}");
    w.ask(&amend(&w, "torn", "schema = 1", "schema = 7"));
    assert!(refused(w.settled("torn", Micros::from_secs(3))).starts_with("the plan is not valid"));

    w.ask(&amend(&w, "soak", "20s", "5s"));
    w.pass(Micros::from_secs(2));
    assert_eq!(w.answer("soak"), Some(Answer::Reply(Reply::Accepted)), "{}", w.log());
    assert_eq!(engine.ended(), Some(engine::End::Amended), "{}", w.log());
    let record = &w.records("amended")[0];
    assert_eq!(record.by.to_string(), "operator:anna");
    assert_eq!(record.body["changes"], serde_json::json!(["stage copy: soak 20.0s -> 5.0s"]));

    // The old plan is none of this rollout any more, the new one goes on.
    let (old, new) = (w.plan.clone(), engine.amended().unwrap());
    let err = w.try_start().err().unwrap().to_string();
    assert!(err.contains("was last amended"), "{err}");
    assert_eq!(record.body["was"], old.hash.as_str());
    w.plan = new;
    let again = w.start();
    assert_eq!(w.settled("soak", Micros::from_secs(3)), applied());
    w.pass(Micros::from_secs(20));
    assert_eq!(again.ended(), Some(engine::End::Completed), "{}", w.log());
}

#[test]
fn every_unit_of_a_metric_is_told_to_another_terminal() {
    for m in tidegate::plan::METRICS {
        let unit = tidegate::metrics::names::unit(m.name).0;
        let gate = GateView { relation: "<=", unit, ..GateView::default() };
        let back: GateView = serde_json::from_str(&serde_json::to_string(&gate).unwrap()).unwrap();
        assert_eq!(back.unit, unit, "{}", m.name);
    }
}

#[test]
fn an_amendment_does_not_hold_up_a_rollback() {
    let mut w = World::new(10);
    let _engine = w.start();
    w.pass(Micros::from_secs(3));
    w.ask(&w.asked("1 back", 1, Command::Rollback { hard: true, to: None }));
    w.ask(&amend(&w, "2 soak", "20s", "5s"));
    let why = refused(w.settled("2 soak", Micros::from_secs(3)));
    assert!(why.starts_with("a rollback is under way"), "{why}\n{}", w.log());
    assert!(w.records("amended").is_empty() && !w.records("rollback_began").is_empty(), "{}", w.log());
}

#[test]
fn a_freeze_that_is_added_holds_the_next_stage_and_a_hook_is_refused() {
    let mut w = World::new(9);
    let engine = w.start();
    w.pass(Micros::from_secs(3));
    let hook = "\n[[hook]]\nid = \"mine\"\non = [\"pause\"]\ncommand = [\"./mine.sh\"]\n";
    w.ask(&amend_to(&w, "hook", format!("{PLAN}{hook}")));
    let why = refused(w.settled("hook", Micros::from_secs(3)));
    assert!(why.contains("[[hook]]: what the runner's machine calls is not changed"), "{why}");

    let freeze = "\n[[freeze]]\nfrom = \"1969-01-01\"\nto = \"2199-12-31\"\ntz = \"UTC\"\nreason = \"an incident\"\n";
    w.ask(&amend_to(&w, "freeze", format!("{PLAN}{freeze}")));
    w.pass(Micros::from_secs(2));
    assert_eq!(engine.ended(), Some(engine::End::Amended), "{}", w.log());
    w.plan = engine.amended().unwrap();
    let again = w.start();
    w.pass(Micros::from_secs(60));
    let s = again.snapshot();
    assert_eq!((s.phase, w.records("stage_entered").len()), (Phase::Blocked, 1), "{}", w.log());
    assert!(s.why.contains("change freeze, an incident"), "{}", s.why);
}

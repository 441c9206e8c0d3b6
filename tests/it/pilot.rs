//! A pilot cohort in simulated rollouts: ahead of everybody, back alone, forward again or back with the others, under kills, elections
//! and unknown outcomes. The application's oracle, which finds cohorts and buckets by code of its own, says what must be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate::cluster::embedded::{self, Embedded, Fates, OpKind, Rates};
use tidegate::cluster::{CONTROL_DB, Db, Key, Ns};
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::{MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::rollout::{Event, State, Status};
use tidegate::route::{Goes, Route, Side, bucket_of};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt, keyed_hash};
use tidegate::snapshot::{Command, Reply};
use tidegate::workload::{self, Ids, Shapes, Workload, initial_orders};

const PLAN: &str = concat!(
    head!("pilot", "A cohort first", "simulation"),
    r#"max_staleness = "3s"
lease = "3s"
[cutover]
freeze_max = "3s"
[pilot]
field = "_id.region"
in = ["eu", "sa"]
"#,
    flat_orders!(),
    r#"[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
[[stage]]
id = "look"
pilot = "reads"
soak = "1s"
[[stage]]
id = "pilot"
pilot = "writes"
soak = "2s"
[[stage]]
id = "half"
reads = 60
writes = 50
soak = "2s"
"#,
    to_the_end!()
);

const STEP: Micros = Micros::from_ms(20);
/// Mishaps happen until then.
const ROUGH: Micros = Micros::from_secs(60);
/// A rollout that is not done by then is stuck.
const LIMIT: Micros = Micros::from_secs(400);

struct World {
    sim: Sim,
    rt: Rt,
    seed: u64,
    cluster: Arc<Embedded>,
    journal: MemStore,
    plan: Arc<Plan>,
    workload: Arc<Workload>,
    engine: Option<Engine>,
    generation: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let plan = Arc::new(Plan::parse(PLAN, "pilot.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let load = workload::Config {
            documents: 200,
            ops_per_s: 80,
            read_percent: 50,
            read_latest_percent: 50,
            processes: 1 + (seed % 3) as u32,
            lanes: 2,
            padding: 10,
            churn_percent: if seed % 2 == 1 { (30, 35) } else { (12, 8) },
            ids: Ids::Region,
        };
        let c = &plan.collections[0];
        cluster.load(&c.legacy, initial_orders(&load, Shapes::of(c).unwrap()).collect()).unwrap();
        let db: Db = cluster.clone();
        let workload = Workload::start(&rt, Group(2), [db.clone(), db], &plan, load).unwrap();
        let journal = MemStore::new();
        World { sim, rt, seed, cluster, journal, plan, workload: Arc::new(workload), engine: None, generation: 0 }
    }

    fn draw(&self, n: u64) -> u64 {
        keyed_hash(self.seed, 0x70696c, 0, n)
    }

    /// A runner of its own, or another in its place: the old one is cut off where it stands.
    fn start(&mut self) {
        self.rt.kill(Group(100 + self.generation));
        self.generation += 1;
        let db: Db = self.cluster.clone();
        let deps = Deps {
            rt: self.rt.clone(),
            group: Group(100 + self.generation),
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        };
        let config = engine::Config {
            holder: format!("runner-{}", self.generation),
            advance: Some(Advance::Auto),
            resume: !self.journal.records().is_empty(),
            take_over: (self.generation > 1).then(|| "the simulation says so".into()),
            drill: true,
            chunk_docs: Some(40),
            ..engine::Config::default()
        };
        let started = self.sim.block_on(engine::start(deps, config)).expect("it starts or says why not");
        self.engine = started.ok();
    }

    fn records(&self) -> Vec<Record> {
        self.journal.records()
    }

    fn state(&self) -> State {
        let mut state = State::default();
        for r in self.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    fn step(&self) {
        self.sim.run_until(self.rt.now() + STEP);
        if let Some(v) = self.workload.oracle().violations().first() {
            panic!("seed {}: I1: {v}; {}", self.seed, self.last());
        }
        assert!(self.rt.now() < LIMIT, "seed {}: not done: {}", self.seed, self.last());
        if let Some(End::Failed(m)) = self.engine.as_ref().and_then(Engine::ended) {
            panic!("seed {}: {m}", self.seed);
        }
    }

    fn last(&self) -> String {
        if let Ok(path) = std::env::var("TIDEGATE_SIM_JOURNAL") {
            let lines: Vec<String> = self.records().iter().map(tidegate::journal::show).collect();
            std::fs::write(path, lines.join("\n")).unwrap();
        }
        let last: Vec<String> = self.records().iter().rev().take(8).map(tidegate::journal::show).collect();
        let why = self.engine.as_ref().map(|e| format!("{:?} {}", e.snapshot().phase, e.snapshot().why));
        format!("{why:?}; last records: {}", last.join(" | "))
    }

    /// Runs until the state is as wanted.
    fn until(&self, wanted: impl Fn(&State) -> bool) {
        while !wanted(&self.state()) {
            self.step();
        }
    }

    fn run_for(&self, span: Micros) {
        let until = self.rt.now() + span;
        while self.rt.now() < until {
            self.step();
        }
    }

    /// Sends a command and answers what became of it.
    fn ask(&self, command: Command) -> Option<Reply> {
        let reply = self.engine.as_ref()?.send(command)?;
        let answer = Arc::new(std::sync::Mutex::new(None));
        let told = answer.clone();
        self.rt.spawn(Group(60), "answer", Box::pin(async move { *told.lock().unwrap() = reply.await.ok() }));
        self.run_for(Micros::from_ms(400));
        answer.lock().unwrap().take()
    }

    fn route(&self) -> Route {
        let routes = self.cluster.dump(&Ns::new(CONTROL_DB, "routes"));
        Route::from_raw(&routes.first().unwrap().1).unwrap()
    }

    fn pilot(&self) -> (Goes, Goes) {
        self.route().pilot.map(|p| (p.reads, p.writes)).unwrap()
    }

    /// How many writes of each side's collection a moment brings, by whether the key is in the cohort: `[side][cohort]`.
    fn owners(&self) -> BTreeMap<(bool, Side), usize> {
        let route = self.route();
        let cohort = &route.pilot.as_ref().unwrap().cohort;
        let mut n = BTreeMap::new();
        for (key, _) in self.cluster.dump(&self.plan.collections[0].legacy) {
            let owner = route.owner(&(&key, bucket_of(&key).unwrap()));
            *n.entry((cohort.contains(key.value()), owner)).or_default() += 1;
        }
        n
    }

    /// Stops the application and compares the side that all came to with what was acknowledged, and nothing besides.
    fn is_whole(&self) {
        self.run_for(Micros::from_secs(3));
        let w = self.workload.clone();
        self.sim.block_on(async move { w.stop().await }).expect("it stops");
        let c = &self.plan.collections[0];
        let shapes = Shapes::of(c).unwrap();
        let back = self.state().status == Status::RolledBack;
        let (side, ns) = if back { (Side::Legacy, &c.legacy) } else { (Side::Next, &c.next) };
        let dump: BTreeMap<Key, _> = self.cluster.dump(ns).into_iter().collect();
        let v = self.workload.oracle().verify_dump(&dump, |o| shapes.document(side, o, 10));
        assert_eq!(v.lost, 0, "seed {}: {:?}; {}", self.seed, v.examples, self.last());
        assert_eq!(self.workload.totals().lost, 0);
        assert!(v.checked > 100 && self.workload.totals().acknowledged > 100);
        // Strays are also found in rough worlds without a cohort; a calm one has none.
        assert!(self.generation > 1 || self.state().strays_open() == 0, "seed {}: {}", self.seed, self.last());
    }
}

fn soaks_in(stage: usize) -> impl Fn(&State) -> bool {
    move |s| s.stage == stage && matches!(s.status, Status::Soaking { .. })
}

fn count(records: &[Record], kind: &str) -> usize {
    records.iter().filter(|r| r.kind == kind).count()
}

#[test]
fn a_cohort_goes_first_comes_back_alone_and_goes_forward_again() {
    let mut w = World::new(1);
    w.start();
    w.until(soaks_in(1));
    assert_eq!(w.pilot(), (Goes::Next, Goes::Buckets));
    w.until(soaks_in(2));
    assert_eq!(w.pilot(), (Goes::Next, Goes::Next));
    let owners = w.owners();
    assert!(owners.keys().all(|(cohort, side)| *cohort == (*side == Side::Next)), "{owners:?}");
    w.until(soaks_in(3));
    assert_eq!(w.owners().len(), 3, "half of the others, and all of the cohort: {:?}", w.owners());
    // Alone, back to legacy.
    assert_eq!(w.ask(Command::RollbackCohort { hard: false }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.cohort_is_held());
    assert_eq!((w.pilot(), w.route().writes_next_below), ((Goes::Legacy, Goes::Legacy), 512));
    let owners = w.owners();
    assert!(!owners.contains_key(&(true, Side::Next)) && owners.len() == 3, "{owners:?}");
    let s = w.engine.as_ref().unwrap().snapshot();
    assert!(s.why.contains("the pilot cohort is back on legacy and stays there"), "{}", s.why);
    assert!(s.pilot.as_ref().unwrap().is_held() && s.way_back.open, "{:?}", s.way_back);
    assert!(matches!(w.ask(Command::RollbackCohort { hard: true }), Some(Reply::Refused(_))));
    // Everybody else goes on without it, but legacy cannot go.
    assert_eq!(w.ask(Command::Continue), Some(Reply::Applied));
    w.until(soaks_in(4));
    w.run_for(Micros::from_secs(10));
    let state = w.state();
    assert_eq!((state.stage, w.pilot(), w.route().writes_next_below), (4, (Goes::Legacy, Goes::Legacy), 1024));
    let refused = w.ask(Command::Advance { stage: 4 });
    assert!(matches!(&refused, Some(Reply::Refused(why)) if why.contains("held on legacy")), "{refused:?}");
    // Forward only because somebody says so.
    assert_eq!(w.ask(Command::CohortForward), Some(Reply::Applied));
    w.until(|s| s.closed);
    assert_eq!(w.pilot(), (Goes::Next, Goes::Next));
    assert_eq!(w.state().status, Status::Completed);
    w.is_whole();
    let records = w.records();
    assert_eq!((count(&records, "cohort_returned"), count(&records, "cohort_forward")), (1, 1));
    let began = records.iter().find(|r| r.kind == "rollback_began").unwrap();
    assert_eq!((&began.body["cohort"], &began.body["why"]), (&true.into(), &"by the operator".into()));
    assert_eq!(began.body["evidence"]["forecast"], serde_json::Value::Null);
    assert_eq!(began.body["evidence"]["pilot"]["writes"], "next");
}

#[test]
fn a_cohort_that_is_held_comes_back_with_the_others_and_one_that_is_ahead_does_too() {
    for (seed, held, hard) in [(2, true, false), (3, true, true), (4, false, false), (5, false, true)] {
        let mut w = World::new(seed);
        w.start();
        w.until(soaks_in(3));
        if held {
            assert_eq!(w.ask(Command::RollbackCohort { hard }), Some(Reply::Applied));
            w.until(|s| s.back.is_none() && s.cohort_is_held());
        }
        assert_eq!(w.ask(Command::Rollback { hard, to: None }), Some(Reply::Applied));
        w.until(|s| s.closed);
        assert_eq!(w.state().status, Status::RolledBack, "seed {seed}: {}", w.last());
        let goes = if held { Goes::Legacy } else { Goes::Buckets };
        assert_eq!((w.pilot(), w.route().writes_next_below), ((goes, goes), 0), "seed {seed}");
        w.is_whole();
    }
}

#[test]
fn a_soft_rollback_brings_the_others_back_before_the_cohort() {
    let mut w = World::new(6);
    w.start();
    w.until(soaks_in(3));
    assert_eq!(w.ask(Command::Rollback { hard: false, to: Some(2) }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.paused.is_some());
    assert_eq!((w.pilot(), w.route().writes_next_below), ((Goes::Next, Goes::Next), 0));
    assert_eq!(w.ask(Command::Rollback { hard: false, to: Some(1) }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.stage == 1);
    assert_eq!(w.pilot(), (Goes::Next, Goes::Buckets));
    // The stage that says so takes it forward again.
    assert_eq!(w.ask(Command::RollbackCohort { hard: false }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.cohort_is_held());
    assert_eq!(w.ask(Command::Continue), Some(Reply::Applied));
    w.until(soaks_in(2));
    assert_eq!(w.pilot(), (Goes::Next, Goes::Next));
    w.until(|s| s.closed);
    w.is_whole();
}

#[test]
fn a_cohort_that_goes_back_in_the_middle_of_a_stages_work_leaves_the_work_to_be_done() {
    let mut w = World::new(7);
    w.start();
    let cutover = |s: &State| s.stage == 3 && s.intended && s.tasks_done >= 2;
    w.until(cutover);
    assert_eq!(w.ask(Command::RollbackCohort { hard: true }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.cohort_is_held());
    assert_eq!(w.ask(Command::Continue), Some(Reply::Applied));
    w.until(soaks_in(3));
    assert_eq!((w.pilot(), w.route().writes_next_below), ((Goes::Legacy, Goes::Legacy), 512));
    // In the stage that moves it, while it moves: the stage does not take it along all the same.
    let mut w = World::new(8);
    w.start();
    w.until(|s| s.stage == 2 && s.intended && s.tasks_done >= 2);
    assert_eq!(w.ask(Command::RollbackCohort { hard: false }), Some(Reply::Applied));
    w.until(|s| s.back.is_none() && s.cohort_is_held());
    assert_eq!(w.ask(Command::Continue), Some(Reply::Applied));
    w.until(soaks_in(3));
    assert_eq!((w.pilot(), w.route().writes_next_below), ((Goes::Legacy, Goes::Legacy), 512));
    assert_eq!(w.ask(Command::CohortForward), Some(Reply::Applied));
    w.until(|s| s.closed);
    w.is_whole();
}

/// One rough run: what was asked for, and how it ended.
fn rough(seed: u64) -> (Status, usize, usize) {
    let mut w = World::new(seed);
    w.start();
    let faults = w.cluster.faults();
    let rough_at = |n: u64| Micros::from_ms(800 + n * 700 + w.draw(n) % 1_400);
    let mut kills: Vec<Micros> = (0..60).filter(|n| w.draw(100 + n).is_multiple_of(4)).map(rough_at).rev().collect();
    let mut elections: Vec<Micros> =
        (0..60).filter(|n| w.draw(200 + n).is_multiple_of(8)).map(rough_at).rev().collect();
    let rates = |unknown| {
        faults.set_fates(Fates { landed: 2, never: 2, late: 1 + (seed % 4) as u32 });
        for kind in [OpKind::Write, OpKind::Transact, OpKind::Admin] {
            faults.set_rates(kind, Rates { not_done: unknown / 4, unknown });
        }
    };
    rates((w.draw(1) % 60_000) as u32);
    // Asked for until the journal has it: a runner that is cut off may have forgotten it.
    let back_from = 1 + (w.draw(2) % 4) as usize;
    let mut back_at = None;
    let hard = w.draw(3).is_multiple_of(2);
    let mut held_since = None;
    let mut whole_at = None;
    let mut calm = false;
    let mut look = Micros::ZERO;
    let closed = |w: &World| w.records().last().is_some_and(|r| r.kind == "closed");
    while !closed(&w) {
        w.step();
        let now = w.rt.now();
        if now > ROUGH && !calm {
            calm = true;
            faults.clear();
        }
        if !calm && kills.last().is_some_and(|at| *at <= now) {
            kills.pop();
            w.start();
        }
        if !calm && elections.pop_if(|at| *at <= now).is_some() {
            faults.step_down();
        }
        let gone = w.engine.as_ref().is_none_or(|e| e.ended().is_some());
        if now < look {
            continue;
        }
        look = now + Micros::from_ms(300);
        let state = w.state();
        if gone && !state.closed {
            w.start();
            continue;
        }
        let ask = |command| drop(w.engine.as_ref().and_then(|e| e.send(command)));
        let asked = w.records().iter().any(|r| r.kind == "rollback_began" && r.body["cohort"] == true);
        if back_at.is_none() && state.stage >= back_from {
            let at = now + Micros::from_ms(w.draw(7) % 4_000);
            back_at = Some(at);
            whole_at = w.draw(4).is_multiple_of(3).then(|| at + Micros::from_ms(w.draw(5) % 12_000));
        }
        if back_at.is_some_and(|at| at <= now)
            && !asked
            && state.route_epoch > 0
            && state.stage < 5
            && state.back.is_none()
        {
            ask(Command::RollbackCohort { hard });
        }
        if whole_at.is_some_and(|at| at <= now) && asked {
            let under_way = state.back.as_ref().is_some_and(|b| !b.cohort);
            if under_way || state.reverse_stopped { whole_at = None } else { ask(Command::Rollback { hard, to: None }) }
        }
        let held = state.cohort_stays && state.back.is_none();
        held_since = if held { held_since.or(Some(now)) } else { None };
        let long = held_since.is_some_and(|at| now.since(at) > Micros::from_ms(1_000 + w.draw(6) % 15_000));
        if long && state.stage >= 2 {
            ask(Command::CohortForward);
        } else if state.paused.is_some() || state.needs_operator.is_some() {
            ask(Command::Continue);
        }
    }
    w.is_whole();
    let records = w.records();
    (w.state().status, count(&records, "cohort_returned"), count(&records, "cohort_forward"))
}

#[test]
fn whatever_happens_while_a_cohort_moves_no_acknowledged_write_is_lost() {
    let seeds = std::env::var("TIDEGATE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(16);
    let half = |from: u64| move || (from..100 + seeds).step_by(2).map(|seed| (seed, rough(seed))).collect::<Vec<_>>();
    let mut ended = Vec::new();
    std::thread::scope(|scope| {
        let halves = [100, 101].map(|from| scope.spawn(half(from)));
        halves.into_iter().for_each(|h| ended.extend(h.join().unwrap()));
    });
    let (mut completed, mut back, mut returned, mut forward) = (0, 0, 0, 0);
    for (_, (status, r, f)) in &ended {
        completed += usize::from(*status == Status::Completed);
        back += usize::from(*status == Status::RolledBack);
        returned += r;
        forward += f;
    }
    eprintln!(
        "{seeds} seeds: {completed} completed, {back} rolled back; {returned} cohorts back alone, {forward} forward again"
    );
    assert!(completed > 0 && back > 0 && returned > 3 && forward > 1, "{ended:?}");
}

#[test]
fn the_same_seed_gives_the_same_journal() {
    let run = || {
        let mut w = World::new(9);
        w.start();
        w.until(soaks_in(3));
        w.ask(Command::RollbackCohort { hard: true });
        w.until(|s| s.back.is_none() && s.cohort_is_held());
        w.records().last().unwrap().hash.clone()
    };
    assert_eq!(run(), run());
}

//! A migration in place on the embedded cluster: an application that writes both shapes, runners that die and come back, and what must
//! hold at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bson::RawDocumentBuf;
use tidegate::cluster::embedded::{self, Embedded, Fates, Faults, OpKind, Rates};
use tidegate::cluster::{Db, Key, Ns};
use tidegate::engine::planted::Planted;
use tidegate::engine::{self, Deps, End, Engine, StartError};
use tidegate::journal::{MemStore, Record};
use tidegate::plan::{Advance, Plan};
use tidegate::rollout::{Event, State, Status};
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt, keyed_hash};
use tidegate::snapshot::{Command, Phase, TraceAsk, TraceView};
use tidegate::transform::Transform;

use super::app::{self, App, Writes};

pub const PLAN: &str = concat!(
    head!("flat", "In place", "simulation"),
    r#"
[[collection]]
legacy = "shop.orders"
next = "shop.orders"
shape = '{ "schema_version": 2 }'
steps = [
  { rename = "customer.name", to = "customer_name" },
  { convert = "total", from = "string", to = "decimal" },
  { set = "schema_version", value = 2 },
]
[throttle]
max_rate = MAX_RATE
[[stage]]
id = "change"
do = ["backfill"]
soak = "1s"
[[stage]]
id = "watch"
soak = "5s"
[[stage]]
id = "settle"
soak = "1s"
"#
);

const STEP: Micros = Micros::from_ms(20);

/// A plan by its text, its rate filled in.
pub fn plan(text: &str, max_rate: u64) -> Arc<Plan> {
    let text = text.replace("MAX_RATE", &max_rate.to_string());
    Arc::new(Plan::parse(&text, "in-place.toml").unwrap_or_else(|e| panic!("{}", e.render(false))))
}

type Started = Arc<Mutex<Option<Result<Engine, StartError>>>>;

/// A cluster, a plan, and runners that can be killed.
pub struct World {
    sim: Sim,
    pub rt: Rt,
    pub cluster: Arc<Embedded>,
    pub journal: MemStore,
    pub plan: Arc<Plan>,
    planted: Planted,
    chunk_docs: usize,
    engine: Option<Engine>,
    starting: Option<Started>,
    start_at: Option<Micros>,
    generation: u32,
}

impl World {
    pub fn new(seed: u64, plan: Arc<Plan>, planted: Planted, chunk_docs: usize) -> World {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let (journal, start_at) = (MemStore::new(), Some(Micros::from_ms(500)));
        World {
            sim,
            rt,
            cluster,
            journal,
            plan,
            planted,
            chunk_docs,
            engine: None,
            starting: None,
            start_at,
            generation: 0,
        }
    }

    pub fn ns(&self) -> Ns {
        self.plan.collections[0].legacy.clone()
    }

    pub fn app(&self, config: app::Config) -> Arc<App> {
        App::new(&self.rt, self.cluster.clone(), &self.ns(), config)
    }

    fn group(&self) -> Group {
        Group(100 + 2 * self.generation)
    }

    fn deps(&self) -> Deps {
        let db: Db = self.cluster.clone();
        Deps {
            rt: self.rt.clone(),
            group: self.group(),
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(self.journal.clone()),
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        }
    }

    /// What `tidegate cleanup` lists.
    pub fn left(&self) -> Vec<engine::Left> {
        let deps = self.deps();
        self.sim.block_on(async move { engine::cleanup_list(&deps).await.unwrap() }).unwrap()
    }

    /// What `tidegate trace` says of a key. Everything else goes on meanwhile.
    pub fn trace(&self, key: &str) -> TraceView {
        let (deps, ask) = (self.deps(), TraceAsk { id: 1, key: key.to_owned(), reveal: false });
        self.sim.block_on(async move { engine::trace(&deps, &ask).await.unwrap() }).unwrap()
    }

    /// The same asked at the screen of the runner, once it has answered.
    pub fn asked(&mut self, ask: &TraceAsk) -> TraceView {
        let engine = self.engine.clone().unwrap();
        assert!(engine.trace(ask.clone()));
        self.until("it is traced", Micros::from_secs(30), |_| {
            engine.snapshot().trace.as_ref().is_some_and(|v| v.ask == ask.id)
        });
        engine.snapshot().trace.as_deref().cloned().unwrap()
    }

    /// The start lives in a group of its own, so that it can be cut off too.
    fn begin_start(&mut self) {
        self.generation += 1;
        let deps = self.deps();
        let config = engine::Config {
            holder: format!("runner-{}", self.generation),
            advance: Some(Advance::Auto),
            resume: !self.journal.records().is_empty(),
            take_over: (self.generation > 1).then(|| "the simulation says so".into()),
            drill: true,
            chunk_docs: Some(self.chunk_docs),
            planted: self.planted,
            ..engine::Config::default()
        };
        let slot: Started = Arc::default();
        self.starting = Some(slot.clone());
        let start = async move {
            let outcome = engine::start(deps, config).await;
            *slot.lock().unwrap() = Some(outcome);
        };
        self.rt.spawn(Group(self.group().0 + 1), "start", Box::pin(start));
    }

    /// SIGKILL; another one is started after a while.
    pub fn kill(&mut self, down: Micros) {
        self.rt.kill(self.group());
        self.rt.kill(Group(self.group().0 + 1));
        (self.engine, self.starting) = (None, None);
        self.start_at = Some(self.rt.now() + down);
    }

    /// Another runner takes over; the old one runs until it notices.
    pub fn take_over(&mut self) {
        if self.starting.is_none() && self.generation > 0 {
            self.engine = None;
            self.begin_start();
        }
    }

    /// A moment passes, and whatever is due happens.
    pub fn step(&mut self) -> Result<(), String> {
        let now = self.rt.now() + STEP;
        self.sim.run_until(now);
        if let Some(outcome) = self.starting.as_ref().and_then(|s| s.lock().unwrap().take()) {
            self.starting = None;
            match outcome {
                Ok(engine) => self.engine = Some(engine),
                Err(StartError::Finished(_)) => {}
                Err(e @ (StartError::Nothing(_) | StartError::Unfinished(_) | StartError::Event(_))) => {
                    return Err(format!("a runner could not start: {e}"));
                }
                Err(_) => self.start_at = Some(now + Micros::from_secs(1)),
            }
        }
        match self.engine.as_ref().and_then(Engine::ended) {
            Some(End::Failed(m)) => return Err(format!("the runner failed: {m}")),
            Some(End::Fenced(_)) if self.starting.is_none() && self.start_at.is_none() => {
                self.start_at = Some(now + Micros::from_ms(100));
            }
            _ => {}
        }
        if self.start_at.is_some_and(|at| at <= now) && self.starting.is_none() {
            self.start_at = None;
            self.begin_start();
        }
        Ok(())
    }

    /// Steps until it is so, at most so long.
    pub fn until(&mut self, what: &str, within: Micros, mut done: impl FnMut(&World) -> bool) {
        let end = self.rt.now() + within;
        while !done(self) {
            assert!(self.rt.now() < end, "{what}: not within {within}: {}", self.why());
            self.step().unwrap();
        }
    }

    pub fn send(&self, command: Command) {
        if let Some(e) = &self.engine {
            // Whether it arrives is part of the game.
            drop(e.send(command));
        }
    }

    pub fn state(&self) -> State {
        let mut state = State::default();
        for r in self.journal.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    pub fn records(&self, kind: &str) -> Vec<Record> {
        self.journal.records().into_iter().filter(|r| r.kind == kind).collect()
    }

    pub fn has(&self, kind: &str) -> bool {
        self.journal.records().iter().any(|r| r.kind == kind)
    }

    pub fn is_over(&self) -> bool {
        self.journal.records().last().is_some_and(|r| r.kind == "closed")
    }

    pub fn needs_somebody(&self) -> bool {
        let waits = |p| matches!(p, Phase::Paused | Phase::NeedsOperator);
        self.engine.as_ref().is_some_and(|e| waits(e.snapshot().phase))
    }

    pub fn outcome(&self) -> &'static str {
        let end = self.engine.as_ref().and_then(Engine::ended);
        End::outcome(end.as_ref(), self.state().strays_open())
    }

    pub fn why(&self) -> String {
        let last: Vec<String> = self.journal.records().iter().rev().take(8).map(tidegate::journal::show).collect();
        let why = self.engine.as_ref().map_or_else(|| "no runner".to_owned(), |e| e.snapshot().why.clone());
        format!("{why}; last records: {}", last.join(" | "))
    }

    pub fn dump(&self) -> BTreeMap<Key, RawDocumentBuf> {
        self.cluster.dump(&self.ns()).into_iter().collect()
    }

    /// Lets the application end, whatever it is at.
    pub fn stop(&mut self, app: &App) {
        app.stop();
        let end = self.rt.now() + Micros::from_secs(60);
        while !app.has_stopped() {
            assert!(self.rt.now() < end, "the application does not stop");
            self.sim.run_until(self.rt.now() + STEP);
        }
    }

    /// What every document must be, byte for byte: what was acknowledged, in the shape that all have now. After a rollback a document
    /// that was never edited is what it was before, one edited in legacy's shape is that edit, one edited in next's is T⁻¹ of it.
    pub fn check(&self, app: &App) -> Result<(), String> {
        let t = Transform::new(&self.plan.collections[0].steps);
        let back = self.state().status == Status::RolledBack;
        let mut left = self.dump();
        for (id, known) in app.known() {
            let is = left.remove(&Key::from(id));
            let Some(order) = known.order else {
                match is {
                    None => continue,
                    Some(d) => return Err(format!("{id} was deleted and is there: {d:?}")),
                }
            };
            let written = known.written.unwrap_or_else(|| app::Order::initial(id).legacy());
            let is_next = written.get("schema_version").ok().flatten().is_some();
            let wanted = match (back, is_next) {
                (true, true) => t.invert(&written),
                (false, false) => t.apply(&written),
                _ => Ok(written.clone()),
            };
            let wanted = wanted.map_err(|e| e.to_string())?;
            if is.as_ref().map(|d| d.as_bytes()) != Some(wanted.as_bytes()) {
                return Err(format!(
                    "{id} (edited {} times) is {is:?}, not {wanted:?}; written {written:?}",
                    known.edits
                ));
            }
            // The transform has nothing to do with this one.
            if app::Order::read(&wanted)? != order {
                return Err(format!("{id} reads as another order than {order:?}: {wanted:?}"));
            }
        }
        match left.into_iter().next() {
            None => Ok(()),
            Some((key, d)) => Err(format!("{key} was never written: {d:?}")),
        }
    }
}

/// What a simulation of one seed is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaning {
    /// Runners die often.
    pub kills: bool,
    /// It never goes back.
    pub stays: bool,
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub kills: u64,
    pub edits: u64,
    pub back: u64,
    pub completed: u64,
    pub unknown: u64,
}

/// Until when there are mishaps. Runners that die need time to come anywhere in between.
fn rough(leaning: Leaning) -> Micros {
    Micros::from_secs(if leaning.kills { 60 } else { 35 })
}

const LIMIT: Micros = Micros::from_secs(240);

/// One whole rollout with everything drawn from the seed.
pub fn simulate(seed: u64, planted: Planted, leaning: Leaning) -> Result<Stats, String> {
    let draw = |n: u64| keyed_hash(seed, 0x1_F1AC, 0, n);
    let rate = [40, 80, 1_000_000][(draw(0) % 3) as usize];
    let mut world = World::new(seed, plan(PLAN, rate), planted, 10 + (draw(1) % 60) as usize);
    let app = world.app(app::Config {
        documents: 150 + (draw(2) % 200) as i64,
        every: 1 + (draw(3) % 2) as i64,
        // An overwritten pre-image shows only on a document that nobody edits after it.
        pause: Micros::from_ms(if leaning.kills { 200 + draw(4) % 500 } else { 20 + draw(4) % 60 }),
        lanes: 3,
        churn: draw(5) % 3 != 0,
    });
    world.cluster.load(&world.ns(), app.documents()).unwrap();
    app.start(Group(2));
    let rough = rough(leaning);
    let between = if leaning.kills { (5_000, 8_000) } else { (100, 4_000) };
    let earliest = if leaning.kills { 25_000 } else { 2_000 };
    let goes_back = (!leaning.stays && draw(6) % 4 != 0).then(|| Micros::from_ms(earliest + draw(7) % 40_000));
    let command = Command::Rollback { hard: draw(8) % 2 == 0, to: None };
    let mut stats = Stats::default();
    let mut next_mishap = Micros::from_ms(800 + draw(9) % 2_000);
    let (mut calm, mut n, mut turned) = (false, 0, None);
    loop {
        world.step()?;
        let now = world.rt.now();
        if let Some(v) = app.violation() {
            return Err(format!("{v}; {}", world.why()));
        }
        if now < rough && now >= next_mishap {
            n += 1;
            mishap(&mut world, &draw, n, leaning, &mut stats);
            next_mishap = now + Micros::from_ms(between.0 + draw(1_000 + n) % between.1);
        } else if now >= rough && !calm {
            calm = true;
            world.cluster.faults().clear();
            if leaning.kills {
                // What the application writes over, it heals.
                app.stop();
            }
        }
        let begun = world.has("rollback_began");
        if goes_back.is_some_and(|at| at <= now) && !begun && !world.is_over() {
            world.send(command);
        }
        // The application turns a while after the rollout does.
        if begun && turned.is_none() {
            turned = Some(now + Micros::from_ms(draw(10) % 15_000));
            app.write(if draw(11) % 2 == 0 { Writes::Next } else { Writes::Either });
        }
        if turned.is_some_and(|at| at <= now) {
            app.write(Writes::Legacy);
        } else if !begun && now + Micros::from_secs(5) > rough {
            app.write(Writes::Next);
        }
        if now > rough && now.0 % 5_000_000 < STEP.0 && world.needs_somebody() {
            world.send(Command::Continue);
        }
        if calm && world.is_over() {
            break;
        }
        if now > LIMIT {
            return Err(format!("not done after {LIMIT}: {}", world.why()));
        }
    }
    world.stop(&app);
    if let Some(v) = app.violation() {
        return Err(format!("{v}; {}", world.why()));
    }
    let state = world.state();
    if state.strays_open() > 0 || state.reconciled.is_none() && !begun_before_the_change(&world) {
        return Err(format!("{} strays, reconciled {:?}", state.strays_open(), state.reconciled));
    }
    world.check(&app)?;
    stats.edits = app.known().values().map(|k| k.edits).sum();
    (stats.back, stats.completed) = if state.status == Status::RolledBack { (1, 0) } else { (0, 1) };
    stats.unknown = world.cluster.counters().unknown;
    Ok(stats)
}

/// A rollback before anything was done has nothing to compare.
fn begun_before_the_change(world: &World) -> bool {
    world.records("task_intended").iter().all(|r| r.body["task"] != "backfill")
}

fn mishap(world: &mut World, draw: &dyn Fn(u64) -> u64, n: u64, leaning: Leaning, stats: &mut Stats) {
    let faults = world.cluster.faults();
    let bits = |k: u64| draw(10_000 + n * 10 + k);
    let kinds = if leaning.kills { 3 } else { 9 };
    match bits(0) % kinds {
        0 | 1 => {
            stats.kills += 1;
            world.kill(Micros::from_ms(50 + bits(1) % 2_000));
        }
        2 => world.take_over(),
        3 => drop(faults.step_down()),
        4 => faults.set_latency(100 + bits(1) % 1_000),
        5 => unknown(&faults, (bits(1) % 150_000) as u32, (bits(2) % 4) as u32),
        6 => faults.break_streams(),
        7 => (1..3).for_each(|node| faults.set_lag(node, Micros::from_ms(bits(1) % 1_500))),
        _ => faults.clear(),
    }
}

/// Unknown outcomes of writes, `late` of four landing after their error.
fn unknown(faults: &Faults, ppm: u32, late: u32) {
    for kind in [OpKind::Write, OpKind::Transact, OpKind::Admin] {
        faults.set_rates(kind, Rates { not_done: ppm / 4, unknown: ppm });
    }
    faults.set_fates(Fates { landed: 2, never: 2, late: 1 + 2 * late });
}

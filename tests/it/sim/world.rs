//! One simulated rollout: cluster, application, runners that die and come back, and an operator; looked at after every event.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use tidegate::cluster::Db;
use tidegate::cluster::embedded::{self, Embedded};
use tidegate::engine::{self, Deps, End, Engine, StartError};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::rollout::{Event, State};
use tidegate::runtime::sim::{Machine, Sim};
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::{Command, Phase};
use tidegate::workload::{Shapes, Workload, initial_orders};

use super::case::Case;
use super::faults::{Kind, Mishap};
use super::happen::Undo;
use super::monitor::Monitor;
use super::ports::{Clock, Disk, Line, Mortal, Points, Port};

const PLAN: &str = concat!(
    head!("sim", "Simulated", "simulation"),
    r#"max_staleness = "3s"
lease = "3s"
[cutover]
freeze_max = "3s"
"#,
    flat_orders!(),
    r#"[throttle]
max_rate = MAX_RATE
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
soak = "1s"
[[stage]]
id = "shadow"
shadow = 20
soak = "1s"
[[stage]]
id = "canary"
reads = 10
writes = 5
soak = "2s"
[[stage]]
id = "half"
reads = 60
writes = 50
soak = "2s"
[[stage.gate]]
metric = "lag.apply"
max = "3s"
window = "5s"
for = "1s"
"#,
    to_the_end!()
);

/// A rollout that is not done by then is stuck.
const LIMIT: Micros = Micros::from_secs(240);
const STEP: Micros = Micros::from_ms(20);
/// How long an operator looks on before a rollout that has lost its oplog is given up.
const GIVEN_UP: Micros = Micros::from_secs(25);

/// What a run went through.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Mishaps by kind, as far as they could happen.
    pub happened: BTreeMap<Kind, u64>,
    /// Runners that died at a call or a record.
    pub died: u64,
    /// Journals that failed.
    pub disks: u64,
    /// Rollbacks that came to rest before the first stage, and in an earlier stage.
    pub back: (u64, u64),
    /// Rollouts that stopped with a reason because their oplog was lost.
    pub stopped: u64,
    pub unknown: u64,
    pub landed_late: u64,
    pub acknowledged: u64,
    pub commits: u64,
    /// Calls and journal records of the runners.
    pub points: [u64; 2],
    pub journal_hash: String,
    pub took: Micros,
}

impl Stats {
    pub fn add(&mut self, o: &Stats) {
        for (kind, n) in &o.happened {
            *self.happened.entry(*kind).or_default() += n;
        }
        self.died += o.died;
        self.disks += o.disks;
        self.back = (self.back.0 + o.back.0, self.back.1 + o.back.1);
        self.stopped += o.stopped;
        self.unknown += o.unknown;
        self.landed_late += o.landed_late;
        self.acknowledged += o.acknowledged;
        self.commits += o.commits;
    }
}

type Started = Arc<Mutex<Option<Result<Engine, StartError>>>>;

/// How a run came to rest.
enum Rest {
    Over,
    /// Its oplog is lost and it says so.
    Stopped,
}

pub struct Simulation {
    pub(super) sim: Sim,
    pub(super) rt: Rt,
    pub(super) case: Case,
    pub(super) cluster: Arc<Embedded>,
    pub(super) journal: MemStore,
    pub(super) plan: Arc<Plan>,
    pub(super) workload: Arc<Workload>,
    pub(super) monitor: Monitor,
    pub(super) engine: Option<Engine>,
    pub(super) starting: Option<Started>,
    pub(super) start_at: Option<Micros>,
    pub(super) generation: u32,
    pub(super) continue_at: Option<Micros>,
    pub(super) undo: Vec<(Micros, Undo)>,
    pub(super) points: Arc<Points>,
    /// Runners die at further points, one after the other: how many calls after the death before.
    pub(super) again: Vec<u64>,
    pub(super) down: Micros,
    /// To the runners, and to the application.
    pub(super) lines: [Arc<Line>; 2],
    pub(super) clock_off_ms: Arc<AtomicI64>,
    pub(super) stats: Stats,
    /// Journal failures that were brought about.
    pub(super) disks: u64,
    /// Processes so far that did not acknowledge.
    pub(super) deafs: u32,
    pub(super) oplog_lost: bool,
    lost_since: Option<Micros>,
    /// Rollbacks still to be asked for, soonest last.
    ways_back: Vec<(Micros, Command)>,
}

impl Simulation {
    pub fn new(case: Case) -> Simulation {
        let sim = Sim::new(case.seed);
        let rt: Rt = sim.clone();
        let config = embedded::Config { nodes: case.nodes(), ..embedded::Config::default() };
        let cluster = Embedded::new(rt.clone(), config);
        let plan =
            Arc::new(Plan::parse(&plan_text(&case), "sim.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let load = case.load();
        let c = &plan.collections[0];
        cluster.load(&c.legacy, initial_orders(&load, Shapes::of(c).unwrap()).collect()).unwrap();
        let lines = [Arc::new(Line::default()), Arc::new(Line::default())];
        let cut = case.mishaps.iter().any(|(_, m)| matches!(m, Mishap::CutApplication { .. }));
        let db: Db = Arc::new(Port {
            inner: cluster.clone(),
            rt: rt.clone(),
            line: lines[1].clone(),
            mortal: None,
            may_be_cut: cut,
        });
        let workload = Workload::start(&rt, Group(2), [db.clone(), db], &plan, load).unwrap();
        let journal = MemStore::new();
        let monitor = Monitor::new(&rt, cluster.clone(), journal.clone(), &plan);
        let ways_back = case.ways_back.iter().rev().copied().collect();
        Simulation {
            sim,
            rt,
            case,
            cluster,
            journal,
            plan,
            workload: Arc::new(workload),
            monitor,
            engine: None,
            starting: None,
            start_at: Some(Micros::from_ms(500)),
            generation: 0,
            continue_at: None,
            undo: Vec::new(),
            points: Points::new(),
            again: Vec::new(),
            down: Micros::from_ms(300),
            lines,
            clock_off_ms: Arc::default(),
            stats: Stats::default(),
            disks: 0,
            deafs: 0,
            oplog_lost: false,
            lost_since: None,
            ways_back,
        }
    }

    /// The groups of a runner: itself, and its start, so that it can be cut off too.
    pub(super) fn groups(generation: u32) -> [Group; 2] {
        [Group(100 + 2 * generation), Group(101 + 2 * generation)]
    }

    /// Starts a new runner.
    pub(super) fn begin_start(&mut self) {
        self.generation += 1;
        let groups = Self::groups(self.generation);
        let rt: Rt = Arc::new(Clock { rt: self.rt.clone(), off_ms: self.clock_off_ms.clone() });
        let mortal = Mortal { rt: self.rt.clone(), points: self.points.clone(), generation: self.generation, groups };
        let db: Db = Arc::new(Port {
            inner: self.cluster.clone(),
            rt: self.rt.clone(),
            line: self.lines[0].clone(),
            mortal: Some(mortal.clone()),
            may_be_cut: self.case.mishaps.iter().any(|(_, m)| matches!(m, Mishap::CutRunner { .. })),
        });
        let deps = Deps {
            rt,
            group: groups[0],
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: Arc::new(Disk { store: self.journal.clone(), mortal }),
            plan: self.plan.clone(),
            on_record: self.monitor.on_record(),
        };
        let config = engine::Config {
            holder: format!("runner-{}", self.generation),
            advance: Some(Advance::Auto),
            resume: !self.journal.is_empty(),
            take_over: (self.generation > 1).then(|| "the simulation says so".into()),
            drill: true,
            chunk_docs: Some(10 + 5 * (self.case.seed % 7) as usize),
            planted: self.case.planted,
            ..engine::Config::default()
        };
        let slot: Started = Arc::default();
        self.starting = Some(slot.clone());
        self.rt.spawn(
            groups[1],
            "start",
            Box::pin(async move {
                let outcome = engine::start(deps, config).await;
                *slot.lock().unwrap() = Some(outcome);
            }),
        );
    }

    /// Takes what the starter brought, or tries again.
    fn collect_start(&mut self) -> Result<(), String> {
        let Some(slot) = self.starting.clone() else { return Ok(()) };
        let Some(outcome) = slot.lock().unwrap().take() else { return Ok(()) };
        self.starting = None;
        match outcome {
            Ok(engine) => {
                self.monitor.fenced(self.cluster.newest_commit(), engine.snapshot().epoch);
                if super::monitor::events_are_shown() {
                    println!(
                        "{} runner {} has started, epoch {}",
                        self.rt.now(),
                        self.generation,
                        engine.snapshot().epoch
                    );
                }
                self.engine = Some(engine);
            }
            Err(StartError::Finished(_)) => {}
            Err(
                e @ (StartError::Unfinished(_)
                | StartError::Nothing(_)
                | StartError::OtherPlan { .. }
                | StartError::Event(_)),
            ) => {
                return Err(format!("a runner could not start: {e}"));
            }
            Err(_) => self.start_at = Some(self.rt.now() + Micros::from_secs(1)),
        }
        Ok(())
    }

    pub(super) fn send(&self, command: Command) {
        if let Some(e) = &self.engine {
            // Whether it arrives is part of the game.
            drop(e.send(command));
        }
    }

    pub fn run(mut self) -> Result<Stats, String> {
        let outcome = self.until_rest().and_then(|rest| match rest {
            Rest::Over => self.finish(),
            Rest::Stopped => self.finish_stopped(),
        });
        if outcome.is_err() {
            self.keep_journal();
        }
        outcome.map(|()| self.stats)
    }

    fn until_rest(&mut self) -> Result<Rest, String> {
        self.plant();
        let mut mishaps = std::mem::take(&mut self.case.mishaps).into_iter().peekable();
        let mut calmed = false;
        loop {
            self.step()?;
            let now = self.rt.now();
            while let Some((_, m)) = mishaps.next_if(|(at, _)| *at <= now) {
                if super::monitor::events_are_shown() {
                    println!("{now} mishap, {} runners so far: {m:?}", self.generation);
                }
                self.mishap(m);
            }
            if now > self.case.rough && !calmed {
                calmed = true;
                self.calm();
                if self.case.rough > Micros::ZERO {
                    self.points.disarm();
                }
            }
            self.attend(now)?;
            if let Some(v) = self.workload.oracle().violations().first() {
                return Err(format!("I1: {v}; {}", self.why()));
            }
            if calmed && self.is_over() {
                return Ok(Rest::Over);
            }
            if calmed && self.has_stopped(now) {
                return Ok(Rest::Stopped);
            }
            if now > LIMIT {
                return Err(format!("I7: not done after {LIMIT}: {}", self.why()));
            }
        }
    }

    /// Lets a little time pass, and looks after every event of it that changed data or journal.
    fn step(&mut self) -> Result<(), String> {
        let (sim, monitor) = (&self.sim, &mut self.monitor);
        let mut broken = Ok(());
        sim.run_watched(sim_now(sim) + STEP, || {
            broken = monitor.look_if_changed(sim_now(sim));
            broken.is_err()
        });
        broken
    }

    /// Whatever is due by itself: starts, continues, reachability.
    fn attend(&mut self, now: Micros) -> Result<(), String> {
        self.attend_deaths(now);
        self.collect_start()?;
        while let Some(i) = self.undo.iter().position(|(at, _)| *at <= now) {
            let (_, undo) = self.undo.swap_remove(i);
            self.take_back(undo);
        }
        if self.continue_at.is_some_and(|at| at <= now) && self.engine.is_some() {
            self.continue_at = None;
            self.send(Command::Continue);
        }
        self.attend_end(now)?;
        if self.ways_back.last().is_some_and(|(at, _)| *at <= now) {
            self.go_back(now);
        }
        // A pause that a kill or a take-over outlived is ended as an operator would.
        if now > self.case.rough && now.0 % 5_000_000 < STEP.0 && self.paused() {
            self.send(Command::Continue);
        }
        if self.start_at.is_some_and(|at| at <= now) && self.starting.is_none() {
            self.start_at = None;
            self.begin_start();
        }
        Ok(())
    }

    /// A runner that has ended is followed by another, unless it ended for a reason that nobody brought about.
    fn attend_end(&mut self, now: Micros) -> Result<(), String> {
        let again = match self.engine.as_ref().and_then(Engine::ended) {
            Some(End::Failed(m)) if self.stats.disks < self.disks && m.contains("a fault of the simulation") => {
                self.stats.disks += 1;
                self.engine = None;
                true
            }
            Some(End::Failed(m)) => return Err(format!("the runner failed: {m}")),
            Some(End::Fenced(_)) => true,
            _ => false,
        };
        if again && self.starting.is_none() && self.start_at.is_none() {
            self.start_at = Some(now + Micros::from_ms(100));
        }
        Ok(())
    }

    /// Asks for what is due until the journal has it: a runner that is cut off may have forgotten it.
    fn go_back(&mut self, now: Micros) {
        let Some((at, command)) = self.ways_back.pop() else { return };
        let state = self.state();
        let (hard, far, refused) = match command {
            // Where the stage to come to rest in is not behind it yet, or nothing of the range has moved, it is refused.
            Command::Rollback { hard, to } => {
                let far = state.back.as_ref().is_some_and(|b| b.to <= to);
                (hard, far, to.is_some_and(|t| t >= state.stage && state.back.is_none()))
            }
            Command::RollbackRange { hard, from } => {
                let far = state.back.as_ref().is_some_and(|b| b.keep.is_none_or(|k| k <= from));
                (hard, far, from >= state.writes_next_below && state.back.is_none())
            }
            _ => return,
        };
        let is_under_way = far && state.back.as_ref().is_some_and(|b| b.hard || !hard);
        let whole = matches!(command, Command::Rollback { to: None, .. });
        let came_to_rest = state.closed || (!whole && self.journal.records().iter().any(|r| r.kind == "returned"));
        // The same where there is no way back any more.
        let refused = refused || state.reverse_stopped;
        if is_under_way || came_to_rest || (refused && at + Micros::from_secs(10) < now) {
            return;
        }
        self.send(command);
        self.ways_back.push((at.max(now) + Micros::from_ms(200), command));
    }

    pub(super) fn state(&self) -> State {
        let mut state = State::default();
        for r in self.journal.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    fn paused(&self) -> bool {
        self.engine.as_ref().is_some_and(|e| matches!(e.snapshot().phase, Phase::Paused | Phase::NeedsOperator))
    }

    fn is_over(&self) -> bool {
        self.monitor.last_kind() == "closed"
    }

    /// The oplog is lost, the rollout has said so, and it has not come to its end for a while.
    fn has_stopped(&mut self, now: Micros) -> bool {
        if !self.oplog_lost || !self.monitor.oplog_loss_told() {
            return false;
        }
        now.since(*self.lost_since.get_or_insert(now)) > GIVEN_UP
    }
}

const DECLARED: &str = r#"
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": "Cust 7" }'
next = '{ "customer_name": "Cust 7" }'
[[total]]
name = "revenue"
legacy = '{ "$toDecimal": "$total" }'
next = '"$total"'

"#;

/// The plan of a case.
pub(super) fn plan_text(case: &Case) -> String {
    // Every fifth run has the server refuse what the route does not allow.
    let gate = if case.seed % 5 == 4 { "lease = \"3s\"\nserver_gate = true" } else { "lease = \"3s\"" };
    // Every other one declares something to be asked of both sides.
    let declared = if case.seed % 2 == 1 { DECLARED } else { "" };
    let plan = PLAN.replacen("[[stage]]", &format!("{declared}[[stage]]"), 1);
    plan.replace("MAX_RATE", &case.max_rate().to_string()).replace("lease = \"3s\"", gate)
}

pub(super) fn sim_now(sim: &Machine) -> Micros {
    tidegate::runtime::Runtime::now(sim)
}

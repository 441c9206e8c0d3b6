//! One simulated rollout: cluster, application, runners that die and come back, and what must hold at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidegate::cluster::embedded::{self, Embedded};
use tidegate::cluster::{Cluster, Db};
use tidegate::engine::planted::Planted;
use tidegate::engine::{self, Deps, End, Engine, StartError};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::rollout::{Event, State};
use tidegate::route::Side;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};
use tidegate::snapshot::Command;
use tidegate::workload::{self, Shapes, Workload, initial_orders};

use super::faults::{Leaning, Mishap, schedule, set_fates, set_rates, ways_back};
use super::monitor::Monitor;

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

/// Mishaps happen until then; after it everything must come to its end.
const ROUGH: Micros = Micros::from_secs(45);
/// A rollout that is not done by then is stuck.
const LIMIT: Micros = Micros::from_secs(240);
const STEP: Micros = Micros::from_ms(20);

/// What a run went through.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub kills: u64,
    pub take_overs: u64,
    pub step_downs: u64,
    pub pauses: u64,
    /// Rollbacks that came to rest before the first stage, and in an earlier stage.
    pub back: (u64, u64),
    pub unknown: u64,
    pub landed_late: u64,
    pub acknowledged: u64,
    pub commits: u64,
    pub journal_hash: String,
    pub took: Micros,
}

impl Stats {
    pub fn add(&mut self, o: &Stats) {
        self.kills += o.kills;
        self.take_overs += o.take_overs;
        self.step_downs += o.step_downs;
        self.pauses += o.pauses;
        self.back = (self.back.0 + o.back.0, self.back.1 + o.back.1);
        self.unknown += o.unknown;
        self.landed_late += o.landed_late;
        self.acknowledged += o.acknowledged;
        self.commits += o.commits;
    }
}

type Started = Arc<Mutex<Option<Result<Engine, StartError>>>>;

pub struct Simulation {
    sim: Arc<Sim>,
    rt: Rt,
    seed: u64,
    cluster: Arc<Embedded>,
    journal: MemStore,
    plan: Arc<Plan>,
    planted: Planted,
    leaning: Leaning,
    workload: Arc<Workload>,
    monitor: Monitor,
    engine: Option<Engine>,
    starting: Option<Started>,
    start_at: Option<Micros>,
    generation: u32,
    calm_at: Option<Micros>,
    continue_at: Option<Micros>,
    /// Rollbacks still to be asked for, soonest last.
    ways_back: Vec<(Micros, Command)>,
    stats: Stats,
}

impl Simulation {
    pub fn new(seed: u64, planted: Planted, leaning: Leaning) -> Simulation {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        // Every third run copies so slowly that most mishaps fall into the backfill.
        let max_rate = if leaning.slow_copy.unwrap_or(seed % 3 == 2) { "12" } else { "1000000" };
        let text = PLAN.replace("MAX_RATE", max_rate);
        let plan = Arc::new(Plan::parse(&text, "sim.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
        let load = workload::Config {
            documents: 150 + seed % 200,
            ops_per_s: if leaning.busy { 400 } else { 60 + (seed % 5) as u32 * 20 },
            read_percent: 50,
            // What one process has written another wants to see at once.
            read_latest_percent: if leaning.busy { 80 } else { 40 },
            processes: if leaning.busy { 3 } else { 1 + (seed % 3) as u32 },
            lanes: 2,
            padding: 10,
            // Every other run creates and deletes as much as it updates.
            churn_percent: if leaning.churn.unwrap_or(seed % 2 == 1) { (30, 35) } else { (12, 8) },
            ids: workload::Ids::Mixed,
        };
        let c = &plan.collections[0];
        cluster.load(&c.legacy, initial_orders(&load, Shapes::of(c).unwrap()).collect()).unwrap();
        let db: Db = cluster.clone();
        let workload = Workload::start(&rt, Group(2), [db.clone(), db], &plan, load).unwrap();
        let journal = MemStore::new();
        let monitor = Monitor::new(&rt, cluster.clone(), journal.clone(), &plan.id, &c.legacy, &c.next);
        Simulation {
            sim,
            rt,
            seed,
            cluster,
            journal,
            plan,
            planted,
            leaning,
            workload: Arc::new(workload),
            monitor,
            engine: None,
            starting: None,
            start_at: Some(Micros::from_ms(500)),
            generation: 0,
            calm_at: None,
            continue_at: None,
            ways_back: if leaning.goes_back { ways_back(seed).into_iter().rev().collect() } else { Vec::new() },
            stats: Stats::default(),
        }
    }

    fn group(&self) -> Group {
        Group(100 + 2 * self.generation)
    }

    /// Starts a new runner; the start itself lives in a group of its own, so that it can be cut off too.
    fn begin_start(&mut self) {
        self.generation += 1;
        let db: Db = self.cluster.clone();
        let deps = Deps {
            rt: self.rt.clone(),
            group: self.group(),
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
            chunk_docs: Some(10 + 5 * (self.seed % 7) as usize),
            planted: self.planted,
        };
        let slot: Started = Arc::default();
        self.starting = Some(slot.clone());
        let starter = Group(self.group().0 + 1);
        self.rt.spawn(
            starter,
            "start",
            Box::pin(async move {
                let outcome = engine::start(deps, config).await;
                *slot.lock().unwrap() = Some(outcome);
            }),
        );
    }

    fn kill_runner(&mut self) {
        self.rt.kill(self.group());
        self.rt.kill(Group(self.group().0 + 1));
        self.engine = None;
        self.starting = None;
    }

    /// Takes what the starter brought, or tries again.
    fn collect_start(&mut self) -> Result<(), String> {
        let Some(slot) = self.starting.clone() else { return Ok(()) };
        let Some(outcome) = slot.lock().unwrap().take() else { return Ok(()) };
        self.starting = None;
        match outcome {
            Ok(engine) => {
                let newest = self.sim.block_on({
                    let db = self.cluster.clone();
                    async move { db.observe().await }
                });
                if let Some(Ok(seen)) = newest {
                    self.monitor.fenced(seen.majority, engine.snapshot().epoch);
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

    fn mishap(&mut self, m: Mishap) {
        let faults = self.cluster.faults();
        let now = self.rt.now();
        match m {
            Mishap::Kill { down } => {
                self.stats.kills += 1;
                self.kill_runner();
                self.start_at = Some(now + down);
            }
            Mishap::TakeOver => {
                if self.starting.is_none() && self.generation > 0 {
                    // The old one keeps running until it notices.
                    self.stats.take_overs += 1;
                    self.engine = None;
                    self.begin_start();
                }
            }
            Mishap::StepDown => {
                self.stats.step_downs += 1;
                faults.step_down();
            }
            Mishap::Slow { percent } => faults.set_latency(percent),
            Mishap::Lag { by } => (1..3).for_each(|n| faults.set_lag(n, by)),
            Mishap::Unknown { ppm, late } => {
                set_fates(&faults, late);
                set_rates(&faults, ppm, 5_000);
            }
            Mishap::Errors { ppm } => set_rates(&faults, 5_000, ppm),
            Mishap::BreakStreams => faults.break_streams(),
            Mishap::Unreachable { span } => {
                faults.set_unreachable(true);
                self.calm_at = Some(now + span);
            }
            Mishap::Pause { span } => {
                self.stats.pauses += 1;
                self.send(Command::Pause);
                self.send(Command::Pause);
                self.continue_at = Some(now + span);
            }
            Mishap::Calm => self.calm(),
        }
    }

    fn send(&self, command: Command) {
        if let Some(e) = &self.engine {
            // Whether it arrives is part of the game.
            drop(e.send(command));
        }
    }

    fn calm(&mut self) {
        self.cluster.faults().clear();
        self.calm_at = None;
        self.plant();
    }

    /// Health does not mend a planted mistake.
    fn plant(&self) {
        #[cfg(feature = "planted-bugs")]
        if self.planted.has(engine::planted::Bug::ReadOnlyFence) {
            self.cluster.set_read_only_fence(true);
        }
    }

    pub fn run(mut self) -> Result<Stats, String> {
        self.plant();
        let mut mishaps = schedule(self.seed, ROUGH, self.leaning).into_iter().peekable();
        let mut calmed = false;
        loop {
            let now = self.rt.now();
            self.sim.run_until(now + STEP);
            let now = self.rt.now();
            while let Some((_, m)) = mishaps.next_if(|(at, _)| *at <= now) {
                self.mishap(m);
            }
            if now > ROUGH && !calmed {
                calmed = true;
                self.calm();
            }
            self.attend(now)?;
            self.monitor.look()?;
            if let Some(v) = self.workload.oracle().violations().first() {
                return Err(format!("I1: {v}; {}", self.why()));
            }
            if calmed && self.is_over() {
                break;
            }
            if now > LIMIT {
                return Err(format!("I7: not done after {LIMIT}: {}", self.why()));
            }
        }
        self.finish()
    }

    /// Whatever is due by itself: starts, continues, reachability.
    fn attend(&mut self, now: Micros) -> Result<(), String> {
        self.collect_start()?;
        if self.calm_at.is_some_and(|at| at <= now) {
            self.calm_at = None;
            self.cluster.faults().set_unreachable(false);
        }
        if self.continue_at.is_some_and(|at| at <= now) && self.engine.is_some() {
            self.continue_at = None;
            self.send(Command::Continue);
        }
        if let Some(End::Failed(m)) = self.engine.as_ref().and_then(Engine::ended) {
            return Err(format!("the runner failed: {m}"));
        }
        let fenced = matches!(self.engine.as_ref().and_then(Engine::ended), Some(End::Fenced(_)));
        if fenced && self.starting.is_none() && self.start_at.is_none() {
            self.start_at = Some(now + Micros::from_ms(100));
        }
        if self.ways_back.last().is_some_and(|(at, _)| *at <= now) {
            self.go_back(now);
        }
        // A pause that a kill or a take-over outlived is ended as an operator would.
        if now > ROUGH && now.0 % 5_000_000 < STEP.0 && self.paused() {
            self.send(Command::Continue);
        }
        if self.start_at.is_some_and(|at| at <= now) && self.starting.is_none() {
            self.start_at = None;
            self.begin_start();
        }
        Ok(())
    }

    /// Asks for what is due until the journal has it: a runner that is cut off may have forgotten it.
    fn go_back(&mut self, now: Micros) {
        let Some((at, command)) = self.ways_back.pop() else { return };
        let Command::Rollback { hard, to } = command else { return };
        let state = self.state();
        let is_under_way = state.back.as_ref().is_some_and(|b| (b.hard || !hard) && b.to <= to);
        let came_to_rest = state.closed || self.journal.records().iter().any(|r| r.kind == "returned");
        // Where the stage to come to rest in is not behind it yet, or there is no way back any more, it is refused.
        let refused = state.reverse_stopped || to.is_some_and(|t| t >= state.stage && state.back.is_none());
        if is_under_way || came_to_rest || (refused && at + Micros::from_secs(10) < now) {
            return;
        }
        self.send(command);
        self.ways_back.push((at.max(now) + Micros::from_ms(200), command));
    }

    fn state(&self) -> State {
        let mut state = State::default();
        for r in self.journal.records() {
            state.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
        }
        state
    }

    fn paused(&self) -> bool {
        self.engine.as_ref().is_some_and(|e| {
            let s = e.snapshot();
            matches!(s.phase, tidegate::snapshot::Phase::Paused | tidegate::snapshot::Phase::NeedsOperator)
        })
    }

    fn is_over(&self) -> bool {
        self.journal.records().last().is_some_and(|r| r.kind == "closed")
    }

    fn why(&self) -> String {
        if let Ok(path) = std::env::var("TIDEGATE_SIM_JOURNAL") {
            let lines: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
            std::fs::write(path, lines.join("\n")).unwrap();
        }
        let last: Vec<String> = self.journal.records().iter().rev().take(6).map(tidegate::journal::show).collect();
        let why = self.engine.as_ref().map_or_else(
            || "no runner".to_owned(),
            |e| {
                let s = e.snapshot();
                format!("{:?}: {}", s.phase, s.why)
            },
        );
        format!("{why}; last records: {}", last.join(" | "))
    }

    fn finish(mut self) -> Result<Stats, String> {
        self.sim.run_until(self.rt.now() + Micros::from_secs(5));
        let w = self.workload.clone();
        let stopped = self.sim.block_on(async move { w.stop().await });
        stopped.ok_or("the application did not stop")?;
        self.monitor.look()?;
        self.stats.commits = self.monitor.check_commits()? as u64;
        self.monitor.check_journal()?;
        self.check_data()?;
        self.check_replay()?;
        let count = |kind: &str| self.journal.records().iter().filter(|r| r.kind == kind).count() as u64;
        self.stats.back = (count("rolled_back"), count("returned"));
        let counters = self.cluster.counters();
        self.stats.unknown = counters.unknown;
        self.stats.landed_late = counters.landed_late;
        self.stats.acknowledged = self.workload.totals().acknowledged as u64;
        self.stats.took = self.rt.now();
        self.stats.journal_hash = self.journal.records().last().map(|r| r.hash.clone()).unwrap_or_default();
        Ok(self.stats)
    }

    /// I1, I2, I3 at the end: next holds exactly what was acknowledged, in next's shape. I8: after a rollback legacy does, in its own.
    fn check_data(&self) -> Result<(), String> {
        let c = &self.plan.collections[0];
        let shapes = Shapes::of(c).unwrap();
        let back = self.state().status == tidegate::rollout::Status::RolledBack;
        let (name, side, ns) = if back { ("I8", Side::Legacy, &c.legacy) } else { ("I1", Side::Next, &c.next) };
        let dump: BTreeMap<_, _> = self.cluster.dump(ns).into_iter().collect();
        let v = self.workload.oracle().verify_dump(&dump, |o| shapes.document(side, o, 10));
        if v.lost > 0 {
            return Err(format!(
                "{name}: {} of {} orders are not as acknowledged: {:?}",
                v.lost, v.checked, v.examples
            ));
        }
        Ok(())
    }

    /// I9: any prefix of the journal gives one state, and the whole gives a finished one.
    fn check_replay(&self) -> Result<(), String> {
        let fold = || {
            let mut states = vec![State::default()];
            for r in self.journal.records() {
                let mut s = states[states.len() - 1].clone();
                s.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
                states.push(s);
            }
            states
        };
        let (a, b) = (fold(), fold());
        if a != b {
            return Err("I9: replaying the journal twice gave two states".into());
        }
        match a.last() {
            Some(s) if s.closed && (s.route_epoch > 0 || s.back.is_some()) => Ok(()),
            other => Err(format!("I9: the journal's last state is {other:?}")),
        }
    }
}

/// Runs seeds on both cores; results in the order of the seeds.
pub fn in_parallel<T: Send>(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let next = Mutex::new(seeds);
    let out = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get().min(8)) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { break };
                    let outcome = run(seed);
                    out.lock().unwrap().insert(seed, outcome);
                }
            });
        }
    });
    out.into_inner().unwrap().into_iter().collect()
}

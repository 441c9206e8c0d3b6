//! A drill under way: the embedded cluster, the simulated application and the engine on one virtual clock.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::inject::{Conductor, Start};
use super::scenario::World;
use crate::cluster::Db;
use crate::cluster::embedded::{self, Embedded};
use crate::engine::{self, Deps, End, Engine, OnRecord, StartError};
use crate::journal::{By, JournalStore, Record};
use crate::plan::{Advance, Plan};
use crate::rollout::Event;
use crate::runtime::sim::Sim;
use crate::runtime::{Group, Micros, Rt};
use crate::snapshot::{Command, Reply, Snapshot, TraceAsk};
use crate::workload::{self, Shapes, Verification, Workload, initial_orders};

/// The runner's tasks.
pub const RUNNER: Group = Group(1);
/// The application's tasks.
pub const APPLICATION: Group = Group(2);
/// What lets a scenario's injects happen.
pub const INJECTS: Group = Group(3);

/// Why a drill cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The engine.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The application cannot write the plan's shapes.
    #[error(transparent)]
    Shape(#[from] workload::ShapeError),
    /// The embedded cluster refused the initial documents.
    #[error("the orders could not be loaded: {0}")]
    Load(String),
    /// Nothing was left to run: a defect.
    #[error("the simulation came to a standstill")]
    Standstill,
    /// The cluster did not answer the last comparison.
    #[error("the last comparison could not be made: {0}")]
    Verify(String),
    /// An inject waits for a stage of another plan.
    #[error("the scenario waits for stage `{0}`, which the plan does not have")]
    Stage(String),
}

/// How a drill is run.
#[derive(Clone)]
pub struct Settings {
    /// Everything random derives from it.
    pub seed: u64,
    /// Override of every stage's `advance`.
    pub advance: Option<Advance>,
    /// Where the journal goes, made for the drill's runtime.
    pub journal: Arc<dyn Fn(Rt) -> Arc<dyn JournalStore> + Send + Sync>,
    /// Called with every journal record once it is durable.
    pub on_record: OnRecord,
}

/// A drill under way.
pub struct Drill {
    sim: Sim,
    rt: Rt,
    engine: Engine,
    cluster: Arc<Embedded>,
    /// Something happens in this drill.
    injected: bool,
    workload: Arc<Workload>,
    passed: Arc<Mutex<Vec<Value>>>,
}

impl Drill {
    /// Builds the world and starts the application and the engine.
    ///
    /// # Errors
    /// When the plan cannot be run in this world, or the journal cannot be written.
    pub fn begin(world: &World, plan: &Plan, settings: &Settings) -> Result<Drill, DrillError> {
        check_stages(world, plan)?;
        let sim = Sim::starting_at(settings.seed, world.start_ms);
        let rt: Rt = sim.clone();
        let config = embedded::Config { nodes: usize::from(world.nodes.max(1)), ..embedded::Config::default() };
        let cluster = Embedded::new(rt.clone(), config);
        let load = workload::Config {
            documents: world.documents,
            ops_per_s: world.operations,
            read_percent: (world.reads * 100.0).round().clamp(0.0, 100.0) as u8,
            processes: u32::from(world.processes.max(1)),
            ids: world.ids,
            ..workload::Config::default()
        };
        let collection = plan.collections.first().ok_or(workload::ShapeError::NoCollection)?;
        let shapes = Shapes::of(collection)?;
        cluster
            .load(&collection.legacy, initial_orders(&load, shapes).collect())
            .map_err(|e| DrillError::Load(e.to_string()))?;
        let db: Db = cluster.clone();
        let workload = Workload::start(&rt, APPLICATION, [db.clone(), db.clone()], plan, load)?;
        let passed = Arc::new(Mutex::new(Vec::new()));
        let deps = Deps {
            rt: rt.clone(),
            group: RUNNER,
            clusters: [db.clone(), db],
            one_cluster: true,
            journal: (settings.journal)(rt.clone()),
            plan: Arc::new(plan.clone()),
            on_record: note_stages(settings.on_record.clone(), passed.clone()),
        };
        let config = engine::Config {
            holder: "drill".into(),
            advance: settings.advance,
            drill: true,
            ..engine::Config::default()
        };
        let engine = sim.block_on(engine::start(deps, config)).ok_or(DrillError::Standstill)??;
        let injected = !world.injects.is_empty();
        if injected {
            let (rt, engine, faults) = (rt.clone(), engine.clone(), cluster.faults());
            let sides = [collection.legacy.clone(), collection.next.clone()];
            let nodes = usize::from(world.nodes.max(1));
            Conductor { rt, faults, nodes, sides, engine }.start(INJECTS, &world.injects);
        }
        Ok(Drill { sim, rt, engine, cluster, injected, workload: Arc::new(workload), passed })
    }

    /// Virtual time since the drill began.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.rt.now()
    }

    /// Runs everything due up to `until`.
    pub fn run_until(&self, until: Micros) {
        self.sim.run_until(until);
    }

    /// The cluster that it runs on.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Embedded> {
        &self.cluster
    }

    /// The application.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The picture of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.engine.snapshot()
    }

    /// Sends a command, stamped with this moment.
    #[must_use]
    pub fn send(&self, command: Command) -> Option<oneshot::Receiver<Reply>> {
        self.engine.send(command)
    }

    /// Asks for a document; the answer is in a later snapshot. False when nobody answers any more.
    #[must_use]
    pub fn trace(&self, ask: TraceAsk) -> bool {
        self.engine.trace(ask)
    }

    /// How the rollout ended, once it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.engine.ended()
    }

    /// Whatever still happens ends, so that the last comparison can be made.
    fn calm(&self) {
        if self.injected {
            self.rt.kill(INJECTS);
            self.cluster.faults().clear();
            // The longest election.
            self.sim.run_until(self.rt.now() + Micros::from_secs(2));
        }
    }

    /// Stops the application, compares every order with what was acknowledged, and sums up.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn finish(&self) -> Result<Summary, DrillError> {
        let snapshot = self.engine.snapshot();
        self.calm();
        let w = self.workload.clone();
        let verified = self
            .sim
            .block_on(async move {
                w.stop().await;
                w.verify_owned().await
            })
            .ok_or(DrillError::Standstill)?
            .map_err(|e| DrillError::Verify(e.to_string()))?;
        let stages = self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Summary::new(self.engine.ended(), &snapshot, &self.workload, verified, stages))
    }
}

/// A condition on a stage that never comes would never hold.
fn check_stages(world: &World, plan: &Plan) -> Result<(), DrillError> {
    for inject in &world.injects {
        if let Start::When { condition, .. } = &inject.start
            && let Some(stage) = &condition.stage
            && !plan.stages.iter().any(|s| s.id == *stage)
        {
            return Err(DrillError::Stage(crate::scrub::short(stage, 60)));
        }
    }
    Ok(())
}

/// What was left behind on a next that did not answer, for a summary; null when nothing was.
#[must_use]
pub fn stranded(s: &Snapshot) -> Value {
    let Some(v) = s.strand.as_ref().filter(|v| v.sealed) else { return Value::Null };
    let salvaged = v
        .salvaged
        .map(|c| json!({ "changed": c.changed, "carried": c.carried, "equal": c.equal, "conflicts": c.conflicts }));
    json!({
        "ms_at_risk": v.at_risk.map(Micros::as_ms),
        "writes_estimate": v.estimate,
        "estimate_basis": v.basis,
        "salvaged": salvaged,
        "conflicts_open": v.conflicts.1,
        "conflict_keys": v.conflicts.0,
    })
}

/// Collects what the summary says of each stage.
fn note_stages(then: OnRecord, passed: Arc<Mutex<Vec<Value>>>) -> OnRecord {
    let entered = Mutex::new(0i64);
    Arc::new(move |record: &Record| {
        match Event::from_parts(&record.kind, &record.body) {
            Ok(Event::StageEntered { at_ms, .. }) => *entered.lock().unwrap_or_else(PoisonError::into_inner) = at_ms,
            Ok(Event::StagePassed { id, .. }) => {
                let from = *entered.lock().unwrap_or_else(PoisonError::into_inner);
                let by = if matches!(record.by, By::Operator(_)) { "operator" } else { "engine" };
                passed.lock().unwrap_or_else(PoisonError::into_inner).push(json!({
                    "id": id, "passed": true, "seconds": (record.at_ms - from) as f64 / 1e3, "by": by,
                }));
            }
            _ => {}
        }
        then(record);
    })
}

/// The last line of `--json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// How it ended.
    pub end: Option<End>,
    /// The final comparison with the oracle.
    pub verified: Verification,
    /// The line.
    pub json: Value,
}

impl Summary {
    fn new(end: Option<End>, s: &Snapshot, workload: &Workload, verified: Verification, stages: Vec<Value>) -> Summary {
        let t = workload.totals();
        let r = s.reconcile.first().cloned().unwrap_or_default();
        let json = json!({
            "kind": "summary",
            "outcome": End::outcome(end.as_ref(), s.traffic.stray),
            "documents": {
                "live": workload.oracle().live_count(),
                "matched": r.matched,
                "missing": r.missing,
                "extra": r.extra,
                "differing": r.differing,
                "checked_ratio": r.checked,
            },
            "writes": {
                "acknowledged": t.acknowledged,
                "lost": t.lost + verified.lost as i64,
                "stale": t.stale_owner,
                "stale_copy": t.stale_copy,
                "stray": s.traffic.stray,
            },
            "stranded": stranded(s),
            "stages": stages,
        });
        Summary { end, verified, json }
    }
}

//! One rollout on an embedded cluster of its own, turned back in a stage or not.

use std::sync::Arc;

use super::editor::{Editor, State};
use super::judge::judge;
use super::{Cast, Pass, Proof, RehearsalError, Rehearse, Sample, Way};
use crate::cluster::embedded::{self, Embedded};
use crate::cluster::{AdminOp, Cluster, Db};
use crate::drill::{APPLICATION, RUNNER};
use crate::engine::{self, Deps, End, Engine};
use crate::journal::MemStore;
use crate::plan::{Advance, Collection, Plan};
use crate::route::Side;
use crate::runtime::sim::Sim;
use crate::runtime::{Micros, Rt};
use crate::snapshot::{Command, Phase, Snapshot, StageStatus};
use crate::transform::Transform;

/// How often it is looked how the rollout stands, virtual time.
const STEP: Micros = Micros::from_ms(200);
/// A rollout that has not ended by then never will.
const LIMIT: Micros = Micros::from_secs(3_600);
/// One that has had the same to say for so long is held by something that only a person can mend.
const HELD: Micros = Micros::from_secs(300);
/// So long a stage soaks before it is gone back from it.
const LIVED_WITH: Micros = Micros::from_secs(4);
/// The virtual clock's beginning, milliseconds since the Unix epoch.
const START_MS: i64 = 1_700_000_000_000;

/// Where a pass takes place.
struct World {
    sim: Sim,
    rt: Rt,
    clusters: [Arc<Embedded>; 2],
    editor: Option<Editor>,
    engine: Engine,
}

/// Carries it out.
///
/// # Errors
/// When the world cannot be built. Whatever happens in it is in the pass.
pub(super) fn run(
    plan: &Plan,
    transform: &Transform,
    sample: &Sample,
    cast: &Cast,
    how: Rehearse,
    (at, way): (usize, Way),
) -> Result<Pass, RehearsalError> {
    // There is exactly one: the caller has looked.
    let Some(collection) = plan.collections.first() else {
        return Err(RehearsalError::World("the plan has no collection".into()));
    };
    let world = build(plan, collection, transform, sample, cast, how)?;
    let ended = world.play(at, way);
    let took = world.rt.now();
    world.stop_editor();
    let edits = world.editor.as_ref().map_or([0; 2], |e| e.state().edits);
    let outcome = ended.and_then(|()| world.judged(transform, collection, cast, way));
    Ok(Pass { stage: plan.stages[at].id.clone(), way, took, edits, outcome })
}

fn build(
    plan: &Plan,
    collection: &Collection,
    transform: &Transform,
    sample: &Sample,
    cast: &Cast,
    how: Rehearse,
) -> Result<World, RehearsalError> {
    let failed = |e: &dyn std::fmt::Display| RehearsalError::World(e.to_string());
    let sim = Sim::starting_at(how.seed, START_MS);
    let rt: Rt = sim.clone();
    let new = || Embedded::new(rt.clone(), embedded::Config::default());
    let one_cluster = plan.cluster.next_uri.is_none();
    let legacy = new();
    let clusters = [legacy.clone(), if one_cluster { legacy } else { new() }];
    clusters[0].load(&collection.legacy, cast.documents.values().cloned().collect())?;
    for index in &sample.unique {
        let op = AdminOp::CreateIndex { ns: collection.legacy.clone(), index: index.clone() };
        let cluster = clusters[0].clone();
        let built = sim.block_on(async move { cluster.admin(&op).await });
        built.ok_or_else(|| failed(&"it came to a standstill"))?.map_err(|e| failed(&e))?;
    }
    let dbs: [Db; 2] = [clusters[0].clone(), clusters[1].clone()];
    // In place an application must know both shapes, which nobody can who knows neither.
    let editor = (!plan.in_place()).then(|| {
        let names = (plan.id.as_str(), &collection.legacy);
        Editor::start(&rt, APPLICATION, dbs.clone(), names, transform, cast, how.edits_per_s)
    });
    let deps = Deps {
        rt: rt.clone(),
        group: RUNNER,
        clusters: dbs,
        one_cluster,
        journal: Arc::new(MemStore::new()),
        plan: Arc::new(plan.clone()),
        on_record: Arc::new(|_| {}),
    };
    let config = engine::Config {
        holder: "rehearsal".into(),
        advance: Some(Advance::Auto),
        drill: true,
        ..engine::Config::default()
    };
    let engine = sim.block_on(engine::start(deps, config)).ok_or_else(|| failed(&"it came to a standstill"))?;
    let engine = engine.map_err(|e| failed(&e))?;
    Ok(World { sim, rt, clusters, editor, engine })
}

/// True once the stage has done its work and has been lived with for a moment, so that there is something to go back with.
fn is_reached(s: &Snapshot, at: usize) -> bool {
    let lived_with = s.stages.get(at).is_some_and(|v| v.status == StageStatus::Current && v.soaked >= LIVED_WITH);
    lived_with && matches!(s.phase, Phase::Soaking | Phase::AwaitingOperator | Phase::Blocked)
}

impl World {
    /// Runs the rollout to its end. The editor stops before a rollout that goes through does: what it wrote on legacy last is on next then.
    fn play(&self, at: usize, way: Way) -> Result<(), String> {
        let mut asked = false;
        let mut said = (String::new(), Micros::ZERO);
        loop {
            self.sim.run_until(self.rt.now() + STEP);
            let s = self.engine.snapshot();
            if let Some(end) = self.engine.ended() {
                let wanted = if way == Way::Through { End::Completed } else { End::RolledBack };
                return if end == wanted { Ok(()) } else { Err(told(&end, &s)) };
            }
            if let Some(failure) = self.editor.as_ref().and_then(|e| e.state().failure.clone()) {
                return Err(format!("an edit failed: {failure}"));
            }
            // Nobody pauses here but the engine, over something that it has found.
            if matches!(s.phase, Phase::NeedsOperator | Phase::Failed | Phase::Paused) {
                return Err(s.why.clone());
            }
            if said.0 != s.why {
                said = (s.why.clone(), self.rt.now());
            }
            if self.rt.now() > LIMIT || self.rt.now().since(said.1) > HELD {
                return Err(format!("it does not come to an end: {}", s.why));
            }
            if !asked && is_reached(&s, at) {
                asked = match way {
                    Way::Through => self.stop_editor(),
                    Way::Soft | Way::Hard => {
                        self.engine.send(Command::Rollback { hard: way == Way::Hard, to: None }).is_some()
                    }
                };
            }
        }
    }

    /// Ends the editor, if there is one and it has not ended.
    fn stop_editor(&self) -> bool {
        if let Some(editor) = self.editor.clone() {
            self.sim.block_on(async move { editor.stop().await });
        }
        true
    }

    /// What has become of the documents, and of the editor's writes on the way.
    fn judged(&self, transform: &Transform, collection: &Collection, cast: &Cast, way: Way) -> Result<Proof, String> {
        let stray = self.engine.snapshot().traffic.stray;
        if stray > 0 {
            return Err(format!("{stray} writes were made past the route"));
        }
        let (side, ns) = match way {
            Way::Through => (Side::Next, &collection.next),
            Way::Soft | Way::Hard => (Side::Legacy, &collection.legacy),
        };
        let found = self.clusters[side as usize].dump(ns);
        match &self.editor {
            Some(editor) => {
                let state = editor.state();
                match &state.failure {
                    Some(failure) => Err(format!("an edit failed: {failure}")),
                    None => judge(transform, &state, &found, side),
                }
            }
            None => judge(transform, &State::untouched(cast), &found, side),
        }
    }
}

fn told(end: &End, s: &Snapshot) -> String {
    match end {
        End::Failed(why) | End::Fenced(why) => why.clone(),
        other => format!("it ended as {}: {}", other.word(), s.why),
    }
}

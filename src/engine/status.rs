//! How a rollout stands, from the database alone: `tidegate status`. Nobody need run it, and nothing is written.

use std::sync::Arc;

use super::watch::{Looker, Seen, ViewError};
use super::{Deps, start};
use crate::cluster::{ClusterTime, Failed, Key};
use crate::journal::{Journal, JournalError, Record};
use crate::plan::Plan;
use crate::rollout::{EventError, State, Status, Task, no_way_back};
use crate::route::client::routes_ns;
use crate::route::{Route, RouteError};
use crate::snapshot::Snapshot;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The picture that its runner publishes.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record of another version.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] Failed),
    /// The route document.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// What a rollout is doing, as far as its records say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doing {
    /// In one or two words.
    pub phase: String,
    /// Why, or what of it.
    pub why: String,
}

/// How a rollout stands.
#[derive(Clone, Debug)]
pub struct StatusReport {
    /// Who has the lease, and what its holder published last.
    pub seen: Seen,
    /// There is a journal.
    pub begun: bool,
    /// What the journal comes to.
    pub state: State,
    /// The route in force; `None` before there is one.
    pub route: Option<Route>,
    /// Every record.
    pub records: Vec<Record>,
    /// What it is doing.
    pub doing: Doing,
    /// Legacy can still take everything back; the error says why not.
    pub way_back: Result<(), String>,
}

impl StatusReport {
    /// What the runner published, while one runs and is heard of: figures that are true now.
    #[must_use]
    pub fn live(&self) -> Option<&Arc<Snapshot>> {
        let view = self.seen.view.as_ref().filter(|v| v.ended.is_none())?;
        self.seen.absent().is_none().then_some(&view.snapshot)
    }
}

/// Looks; `deps` has the journal that is in the database.
///
/// # Errors
/// When something cannot be read.
pub async fn status(deps: &Deps) -> Result<StatusReport, StatusError> {
    let (db, plan) = (&deps.clusters[0], &deps.plan);
    let seen = Looker::new(&deps.rt, db, &plan.id).look().await?;
    let records = Journal::new(deps.journal.clone(), deps.rt.clone(), plan.id.clone()).open().await?;
    let (begun, state) = start::replay(&records, deps)?;
    let (ns, keys) = (routes_ns(), [Key::from(plan.id.as_str())]);
    let found = db.read(&ns, &keys, ClusterTime::ZERO).await?;
    let route = found.docs.first().and_then(|d| d.as_deref()).map(Route::from_raw).transpose()?;
    let doing = doing(begun, &state, plan);
    let way_back = no_way_back(&state, plan).map_or(Ok(()), |why| Err(why.to_owned()));
    Ok(StatusReport { seen, begun, state, route, records, doing, way_back })
}

/// From the journal alone: what is measured meanwhile only a runner knows.
fn doing(begun: bool, state: &State, plan: &Plan) -> Doing {
    let said = |phase: &str, why: String| Doing { phase: phase.into(), why };
    let task = || state.current_task(plan).map_or("between two tasks", Task::name).to_owned();
    if !begun {
        return said("not begun", "its journal is empty".into());
    }
    if let Some(why) = &state.needs_operator {
        return said("needs operator", why.clone());
    }
    if let Some(why) = &state.paused {
        return said("paused", why.clone());
    }
    match state.status {
        Status::Completed => said("completed", "every stage passed".into()),
        Status::RolledBack => said("rolled back", "everything is back on legacy".into()),
        _ if state.back.is_some() => said("rolling back", state.held.clone().unwrap_or_else(task)),
        Status::New => said("starting", "no stage has begun".into()),
        Status::Working => said("working", state.awaits.why().or_else(|| state.held.clone()).unwrap_or_else(task)),
        Status::Soaking { .. } => said("soaking", "the stage's work is done".into()),
    }
}

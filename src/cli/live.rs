//! What every subcommand that talks to a real cluster needs: a runtime, connections, a name.

use std::future::Future;
use std::sync::Arc;

use crate::cluster::Db;
use crate::cluster::mongo::{Mongo, Probe};
use crate::cluster::survey::Survey;
use crate::drill::Sample;
use crate::engine::Deps;
use crate::engine::preflight::{Facts, Surveys, gather};
use crate::journal::{ClusterStore, JournalStore, MemStore};
use crate::plan::{Plan, resolve_env};
use crate::runtime::live::Live;
use crate::runtime::{Group, Micros, Rt, sleep};

use super::Failure;

/// The runner's tasks.
pub(super) const RUNNER: Group = Group(1);
/// The tasks of runners that follow the first one in the same process: this number and up.
pub(super) const AGAIN: Group = Group(100);
/// The application's tasks.
pub(super) const APPLICATION: Group = Group(2);

/// A live runtime with the plan's clusters.
pub(super) struct World {
    tokio: tokio::runtime::Runtime,
    pub rt: Rt,
    pub plan: Arc<Plan>,
    pub clusters: [Db; 2],
    pub one_cluster: bool,
}

impl World {
    /// Connects to the plan's clusters.
    pub(super) fn connect(plan: Plan) -> Result<World, Failure> {
        World::reach(plan, false)
    }

    /// As [`World::connect`], but next need not answer: a rollout that has begun can go back without it.
    pub(super) fn connect_begun(plan: Plan) -> Result<World, Failure> {
        World::reach(plan, true)
    }

    /// Connects to legacy's cluster alone, where the rollout is recorded: for whoever only looks on.
    pub(super) fn connect_records(plan: Plan) -> Result<World, Failure> {
        let tokio = runtime()?;
        let rt: Rt = Live::new(tokio.handle().clone());
        let legacy = tokio.block_on(connect("uri", uri_of(&plan)?, &rt, false))?;
        let one_cluster = plan.cluster.next_uri.is_none();
        Ok(World { tokio, rt, plan: Arc::new(plan), clusters: [legacy.clone(), legacy], one_cluster })
    }

    fn reach(plan: Plan, next_later: bool) -> Result<World, Failure> {
        let tokio = runtime()?;
        let rt: Rt = Live::new(tokio.handle().clone());
        let legacy = tokio.block_on(connect("uri", uri_of(&plan)?, &rt, false))?;
        let next = match &plan.cluster.next_uri {
            Some(uri) => Some(tokio.block_on(connect("next_uri", uri, &rt, next_later))?),
            None => None,
        };
        let one_cluster = next.is_none();
        let clusters = [legacy.clone(), next.unwrap_or(legacy)];
        Ok(World { tokio, rt, plan: Arc::new(plan), clusters, one_cluster })
    }

    pub(super) fn block_on<T>(&self, f: impl Future<Output = T>) -> T {
        self.tokio.block_on(f)
    }

    /// Waits a little.
    pub(super) fn pause(&self, ms: u64) {
        // Made inside: a timer needs the runtime it belongs to.
        self.block_on(async { sleep(&self.rt, Micros::from_ms(ms)).await });
    }

    /// What the engine needs; the journal is kept in memory only.
    pub(super) fn deps(&self) -> Deps {
        let journal: Arc<dyn JournalStore> = Arc::new(MemStore::new());
        Deps {
            rt: self.rt.clone(),
            group: RUNNER,
            clusters: self.clusters.clone(),
            one_cluster: self.one_cluster,
            journal,
            plan: self.plan.clone(),
            on_record: Arc::new(|_| {}),
        }
    }

    /// As [`World::deps`], with the journal that is in the database: for whoever only looks.
    pub(super) fn looking(&self) -> Deps {
        let journal = ClusterStore::new(self.clusters[0].clone(), self.rt.clone(), &self.plan.id);
        Deps { journal: Arc::new(journal), ..self.deps() }
    }

    /// Ends every task without waiting for what the driver may still have under way.
    pub(super) fn shut_down(self) {
        self.tokio.shutdown_background();
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| Failure::new(format!("the runtime cannot be started: {e}")))
}

fn uri_of(plan: &Plan) -> Result<&str, Failure> {
    let none = "the plan says no cluster: give `[cluster] uri = \"${TIDEGATE_URI}\"`, or practise with `tidegate drill --plan`";
    plan.cluster.uri.as_deref().ok_or_else(|| Failure::usage(none))
}

/// A connection string with its variables filled in.
fn filled_in(key: &str, uri: &str) -> Result<String, Failure> {
    let lookup = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    resolve_env(uri, lookup).map_err(|e| Failure::usage(format!("`[cluster] {key}`: {e}")))
}

/// Asks the plan's clusters for everything that a preflight judges by. Whether anybody answers is among the facts.
pub(super) fn look_at(plan: Plan, sample: u32) -> Result<Facts, Failure> {
    let tokio = runtime()?;
    let rt: Rt = Live::new(tokio.handle().clone());
    let open = |key: &'static str, uri: &str| -> Result<Arc<dyn Survey>, Failure> {
        let uri = filled_in(key, uri)?;
        let probe = tokio.block_on(Probe::open(&uri, rt.clone()));
        Ok(Arc::new(probe.map_err(|e| Failure::usage(format!("`[cluster] {key}`: {e}")))?))
    };
    let legacy = open("uri", uri_of(&plan)?)?;
    let next = plan.cluster.next_uri.as_deref().map(|uri| open("next_uri", uri)).transpose()?;
    let hooks = plan.called().map(crate::hooks::missing).collect();
    let facts = tokio.block_on(gather(&rt, &Surveys { legacy, next }, Arc::new(plan), sample));
    tokio.shutdown_background();
    Ok(Facts { hooks, ..facts })
}

/// Draws documents of legacy for a rehearsal, with its unique indexes.
pub(super) fn draw(plan: &Plan, documents: u32) -> Result<Sample, Failure> {
    let Some(collection) = plan.collections.first() else { return Ok(Sample::default()) };
    let tokio = runtime()?;
    let rt: Rt = Live::new(tokio.handle().clone());
    let uri = filled_in("uri", uri_of(plan)?)?;
    let drawn = tokio.block_on(async {
        let probe = Probe::open(&uri, rt).await.map_err(|e| Failure::usage(format!("`[cluster] uri`: {e}")))?;
        let failed = |e| Failure::new(format!("{}: {e}", collection.legacy));
        let documents = probe.sample(&collection.legacy, documents).await.map_err(failed)?;
        let indexes = probe.collection(&collection.legacy).await.indexes.map_err(failed)?;
        let unique = indexes.into_iter().filter(|i| i.spec.unique && i.spec.name != "_id_");
        Ok(Sample {
            documents: documents.iter().map(|d| (**d).to_owned()).collect(),
            unique: unique.map(|i| i.spec).collect(),
        })
    });
    tokio.shutdown_background();
    drawn
}

async fn connect(key: &str, uri: &str, rt: &Rt, later: bool) -> Result<Db, Failure> {
    let uri = filled_in(key, uri)?;
    let db = match later {
        true => Mongo::connect_later(&uri, rt.clone()).await,
        false => Mongo::connect(&uri, rt.clone()).await,
    };
    Ok(db.map_err(|e| Failure::new(format!("`[cluster] {key}`: {e}")))?)
}

/// Who runs it, for the lease and the screen: the given name, or user@host:pid.
pub(super) fn holder(name: Option<&str>) -> String {
    if let Some(name) = name.map(str::trim).filter(|n| !n.is_empty()) {
        return crate::scrub::short(name, 60);
    }
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|k| std::env::var(k).ok().filter(|v| !v.is_empty()));
    let user = user.unwrap_or_else(|| "somebody".to_owned());
    crate::scrub::short(&format!("{user}@{}:{}", host(), std::process::id()), 60)
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "here".to_owned())
}

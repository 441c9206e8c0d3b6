//! The simulated application, with an oracle of every write that was acknowledged to it.
//!
//! It uses the route as any application would, with bucket code of its own, writes both shapes itself (never through tidegate's
//! transform) and checks every read against what it knows. Each key has one writer, so that its revisions are totally ordered.
//! It knows nothing of the engine.

mod bucket;
mod lane;
mod load;
mod oracle;
mod orders;

use std::sync::Arc;

use bson::RawDocumentBuf;

pub use load::{LoadError, prepare};
pub use oracle::{Oracle, Verification};
pub use orders::{Ids, Order, ShapeError, Shapes};

use crate::cluster::{ClusterTime, Db, Failed, Key, Ns};
use crate::plan::Plan;
use crate::route::client::routes_ns;
use crate::route::report::Totals;
use crate::route::{Located, Route, RouteClient, Side};
use crate::runtime::{Fut, Group, Micros, Rt, sleep};

/// How the application behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Orders that exist before it starts.
    pub documents: u64,
    /// Operations a second over all processes.
    pub ops_per_s: u32,
    /// Share of reads, percent.
    pub read_percent: u8,
    /// Share of the reads that look at the order written last, by whichever process, percent.
    pub read_latest_percent: u8,
    /// Processes; each follows the route by itself.
    pub processes: u32,
    /// Concurrent lanes of work in each process.
    pub lanes: u32,
    /// Bytes of padding in each order.
    pub padding: usize,
    /// Share of the writes that insert, and that delete, percent; the rest update.
    pub churn_percent: (u8, u8),
    /// What the `_id`s are like.
    pub ids: Ids,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            documents: 50_000,
            ops_per_s: 400,
            read_percent: 75,
            read_latest_percent: 0,
            processes: 4,
            lanes: 3,
            padding: 180,
            churn_percent: (12, 8),
            ids: Ids::Mixed,
        }
    }
}

/// A running application.
pub struct Workload {
    rt: Rt,
    plan: String,
    shared: Arc<Shared>,
    clients: Vec<RouteClient>,
}

/// True for an order of a bucket that was given back to legacy without next.
fn is_stranded(route: Option<&Route>, order: &Order) -> bool {
    route.is_some_and(|r| bucket::Place::of(order).bucket() < r.stranded_below)
}

/// What all lanes share.
struct Shared {
    rt: Rt,
    /// The group of all its tasks.
    group: Group,
    clusters: [Db; 2],
    ns: [Ns; 2],
    shapes: Shapes,
    /// A server refuses writes past the route: one that is refused has not been made, and is an error for the user like any other.
    server_gate: bool,
    config: Config,
    oracle: Oracle,
}

/// The orders that exist before the application starts, in legacy's shape.
pub fn initial_orders(config: &Config, shapes: Shapes) -> impl Iterator<Item = RawDocumentBuf> + '_ {
    (0..config.documents).map(move |n| shapes.document(Side::Legacy, &config.ids.order(n), config.padding))
}

impl Workload {
    /// Starts the processes in `group`. The clusters are legacy's and next's; the orders must exist already.
    ///
    /// # Errors
    /// When the plan's steps are not ones this application can write.
    pub fn start(
        rt: &Rt,
        group: Group,
        clusters: [Db; 2],
        plan: &Plan,
        config: Config,
    ) -> Result<Workload, ShapeError> {
        let collection = plan.collections.first().ok_or(ShapeError::NoCollection)?;
        let shapes = Shapes::of(collection)?;
        let oracle = Oracle::new(config.documents, config.ids, Arc::ptr_eq(&clusters[0], &clusters[1]));
        let shared = Arc::new(Shared {
            rt: rt.clone(),
            group,
            ns: [collection.legacy.clone(), collection.next.clone()],
            clusters,
            shapes,
            server_gate: plan.server_gate,
            config,
            oracle,
        });
        let mut clients = Vec::new();
        let lanes = u64::from(shared.config.processes * shared.config.lanes);
        for p in 0..shared.config.processes {
            let (db, name) = (shared.clusters[0].clone(), format!("app-{}", p + 1));
            let client = RouteClient::new(rt.clone(), db, &plan.id, &name, shared.ns[0].clone());
            client.report(|r| r.has_oracle = true);
            client.start(group);
            for l in 0..shared.config.lanes {
                let lane =
                    lane::Lane::new(shared.clone(), client.clone(), u64::from(p * shared.config.lanes + l), lanes);
                rt.spawn(group, "application lane", Box::pin(lane.run()));
            }
            clients.push(client);
        }
        Ok(Workload { rt: rt.clone(), plan: plan.id.clone(), shared, clients })
    }

    /// What has been acknowledged so far.
    #[must_use]
    pub fn oracle(&self) -> &Oracle {
        &self.shared.oracle
    }

    /// Totals over all processes, up to this moment.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.clients.iter().map(RouteClient::totals).fold(Totals::default(), |a, b| a + b)
    }

    /// Stops every lane, settles what is under way and withdraws the processes from the route.
    pub async fn stop(&self) {
        for c in &self.clients {
            c.stop().await;
        }
        while self.shared.oracle.lanes_running() > 0 {
            sleep(&self.rt, Micros::from_ms(20)).await;
        }
    }

    /// Reads every order from `side` and compares it with what was acknowledged. Call it after [`Workload::stop`].
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub fn verify(&self, side: Side) -> Fut<'_, Result<Verification, Failed>> {
        let after = self.shared.oracle.seen(0).max(self.shared.oracle.seen(1));
        Box::pin(self.compare([after; 2], move |_| side, |_| false))
    }

    /// Reads every order from the side that owns it now and compares it with what was acknowledged: before there is a route that is
    /// legacy. Call it after [`Workload::stop`].
    ///
    /// # Errors
    /// When a cluster cannot be read.
    pub fn verify_owned(&self) -> Fut<'_, Result<Verification, Failed>> {
        Box::pin(async move {
            let mut route = self.route().await?;
            for _ in 0..10 {
                // Whatever was copied before a side became the owner is older than this.
                let mut after = [ClusterTime::ZERO; 2];
                for (at, db) in after.iter_mut().zip(&self.shared.clusters) {
                    *at = db.observe().await?.majority;
                }
                let owner = |o: &Order| route.as_ref().map_or(Side::Legacy, |r| r.owner(&bucket::Place::of(o)));
                let found = self.compare(after, owner, |o| is_stranded(route.as_ref(), o)).await?;
                let now = self.route().await?;
                if now.as_ref().map(|r| r.epoch) == route.as_ref().map(|r| r.epoch) {
                    return Ok(found);
                }
                // The rollout went on meanwhile: what was read may belong to the other side by now.
                route = now;
            }
            let owner = |o: &Order| route.as_ref().map_or(Side::Legacy, |r| r.owner(&bucket::Place::of(o)));
            self.compare([ClusterTime::ZERO; 2], owner, |o| is_stranded(route.as_ref(), o)).await
        })
    }

    async fn compare(
        &self,
        after: [ClusterTime; 2],
        owner: impl Fn(&Order) -> Side + Send + Sync,
        stranded: impl Fn(&Order) -> bool + Send + Sync,
    ) -> Result<Verification, Failed> {
        let s = &self.shared;
        let document = |side, order: &Order| s.shapes.document(side, order, s.config.padding);
        oracle::verify(&s.oracle, [0, 1].map(|i| (&s.clusters[i], &s.ns[i], after[i])), owner, document, stranded).await
    }

    /// Orders whose last version was left behind on next and has not been seen on legacy: known to be at risk.
    #[must_use]
    pub fn stranded(&self) -> Vec<Key> {
        self.shared.oracle.stranded().iter().map(Order::key).collect()
    }

    async fn route(&self) -> Result<Option<Route>, Failed> {
        let db = &self.shared.clusters[0];
        let after = db.observe().await?.majority;
        let read = db.read(&routes_ns(), &[Key::from(self.plan.as_str())], after).await?;
        Ok(read.docs.into_iter().next().flatten().and_then(|d| Route::from_raw(&d).ok()))
    }
}

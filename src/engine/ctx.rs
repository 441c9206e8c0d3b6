//! What every actor of the engine shares: the ports, the plan, who owns what, and how far each cluster has been seen.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use super::in_place::InPlace;
use super::keys::KeyRegistry;
use super::live_view::LiveView;
use super::observing::Observing;
use super::planted::Planted;
use super::refusal::Refusal;
use super::repair::RepairReport;
use super::server_gate::ServerGate;
use super::steady::Steady;
use super::strand::{self, Strand};
use super::switch::Told;
use super::tail::TailState;
use super::throttle::Throttle;
use super::unique::Aside;
use super::watch::{Order, Pen, Published};
use super::{Config, Deps};
use crate::cluster::{AdminDone, AdminOp, CONTROL_DB, ClusterTime, Db, Failed, Key, Ns, SessionId, WriteOp};
use crate::hooks::Hooks;
use crate::plan::Plan;
use crate::rollout::{Event, Input};
use crate::route::{Bucket, Route, Side};
use crate::runtime::{Either, Group, Micros, Rt, race, sleep};
use crate::transform::Transform;

/// Why an actor stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A newer runner holds the rollout: write nothing more.
    #[error("another runner has taken over (epoch {0})")]
    Fenced(i64),
    /// It cannot go on without a person.
    #[error("{0}")]
    Broken(String),
    /// The task under way lets go of an operation that next does not answer: it is begun again, or left.
    #[error("next does not answer")]
    LetGo,
}

impl From<Refusal> for Halt {
    fn from(r: Refusal) -> Halt {
        Halt::Broken(r.to_string())
    }
}

tokio::task_local! {
    /// Set around the task under way: it may be left where it stands, which a tail may not.
    static IN_TASK: ();
}

/// Runs the task under way: its operations let go of a next that does not answer.
pub(super) async fn as_task<T>(f: impl Future<Output = T>) -> T {
    IN_TASK.scope((), f).await
}

/// A message to the runner.
pub(super) enum Message {
    /// Input for the core.
    Input(Input),
    /// An event that must be durable before its effect: answered when it is.
    Record(Event, oneshot::Sender<()>),
    /// A newer runner was seen.
    Fenced(i64),
    /// The repair that this runner was started for has ended.
    Repaired(RepairReport),
    /// Somebody at another terminal asks for something.
    Asked(Box<Order>),
}

/// The route in force, and a range of buckets that nobody knows the owner of.
#[derive(Default)]
struct Owners {
    route: Option<Route>,
    undecided: Option<(Bucket, Bucket)>,
    /// Re-syncs under way, by bucket.
    writing: BTreeMap<Bucket, usize>,
}

/// Which keys belong to whom, as the engine knows it.
#[derive(Default)]
pub(super) struct Ownership {
    inner: Mutex<Owners>,
    changed: Notify,
}

impl Ownership {
    fn lock(&self) -> MutexGuard<'_, Owners> {
        lock(&self.inner)
    }

    /// The route in force, once there is one.
    pub(super) fn route(&self) -> Option<Route> {
        self.lock().route.clone()
    }

    /// Takes a newer route as the one in force; anything undecided is decided with it.
    pub(super) fn set(&self, route: Route) {
        {
            let mut owners = self.lock();
            owners.route = Some(route);
            owners.undecided = None;
        }
        self.changed.notify_waiters();
    }

    /// From here until [`Ownership::set`], nobody knows who owns these buckets: a compare-and-set is under way.
    pub(super) fn undecided(&self, from: Bucket, to: Bucket) {
        self.lock().undecided = Some((from, to));
    }

    /// Before a re-sync: waits while a bucket of the keys is undecided, then answers which keys `src` owns and which it does not.
    /// No bucket of the first changes hands before [`Ownership::end_write`].
    pub(super) async fn begin_write(&self, src: Side, keys: Vec<(Key, Bucket)>) -> (Vec<(Key, Bucket)>, Vec<Key>) {
        loop {
            let changed = self.changed.notified();
            {
                let mut owners = self.lock();
                let open = |b: Bucket| owners.undecided.is_some_and(|(from, to)| (from..to).contains(&b));
                if !keys.iter().any(|(_, b)| open(*b)) {
                    let owner = |k: &Key, b: Bucket| owners.route.as_ref().map_or(Side::Legacy, |r| r.owner(&(k, b)));
                    let (mine, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(k, b)| owner(k, *b) == src);
                    for (_, b) in &mine {
                        *owners.writing.entry(*b).or_insert(0) += 1;
                    }
                    return (mine, others.into_iter().map(|(k, _)| k).collect());
                }
            }
            changed.await;
        }
    }

    /// A re-sync has a known outcome.
    pub(super) fn end_write(&self, keys: &[(Key, Bucket)]) {
        {
            let mut owners = self.lock();
            for (_, b) in keys {
                if let Some(n) = owners.writing.get_mut(b) {
                    *n -= 1;
                    if *n == 0 {
                        owners.writing.remove(b);
                    }
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// True while a re-sync of a bucket in the range is under way.
    pub(super) fn is_writing(&self, from: Bucket, to: Bucket) -> bool {
        self.lock().writing.range(from..to).next().is_some()
    }

    /// The owner of a key by the route in force, decided or not; legacy while there is no route.
    pub(super) fn owner_now(&self, key: &Key, bucket: Bucket) -> Side {
        self.lock().route.as_ref().map_or(Side::Legacy, |r| r.owner(&(key, bucket)))
    }

    /// The owner of a key, waiting while its bucket is undecided.
    pub(super) async fn owner(&self, key: &Key, bucket: Bucket) -> Side {
        loop {
            let changed = self.changed.notified();
            {
                let owners = self.lock();
                if owners.undecided.is_none_or(|(from, to)| !(from..to).contains(&bucket)) {
                    return owners.route.as_ref().map_or(Side::Legacy, |r| r.owner(&(key, bucket)));
                }
            }
            changed.await;
        }
    }
}

/// Everything an actor needs.
pub(super) struct Ctx {
    pub rt: Rt,
    pub group: Group,
    pub clusters: [Db; 2],
    pub one_cluster: bool,
    pub plan: Arc<Plan>,
    pub transform: Transform,
    pub ns: [Ns; 2],
    pub epoch: i64,
    /// The time of day that decisions are made by.
    pub clock: Steady,
    pub planted: Planted,
    pub chunk_docs: usize,
    pub ownership: Ownership,
    /// Only where documents change in place.
    pub in_place: Option<InPlace>,
    /// Only where another tool migrates and nothing is written.
    pub observing: Option<Observing>,
    pub server_gate: ServerGate,
    /// Keys being copied by a chunk, and keys the tail is busy with: forward only.
    pub registry: KeyRegistry,
    /// Held by whoever reads an owner's documents and writes their copies; alone by who writes keys of several workers together.
    pub together: [tokio::sync::RwLock<()>; 2],
    /// Held by whoever lists a document for a person.
    pub listing: tokio::sync::Mutex<()>,
    /// Keys whose copy a unique index refuses.
    pub aside: Aside,
    /// By the side whose changes are followed.
    pub tails: [TailState; 2],
    pub live: Mutex<LiveView>,
    /// How it goes with what other terminals see.
    pub published: Mutex<Published>,
    /// Writes what they see.
    pub pen: tokio::sync::Mutex<Pen>,
    /// Keys with an event since the last reconciliation began; `None` when none has begun in this process.
    pub dirty: Mutex<Option<BTreeSet<Key>>>,
    pub paused: AtomicBool,
    pub stopping: AtomicBool,
    /// A rollback has been decided: the task under way comes to its next safe point and ends there.
    pub abandoned: AtomicBool,
    /// The rollout goes back.
    pub returning: AtomicBool,
    /// The speed that tidegate's own work keeps to.
    pub throttle: Throttle,
    /// What is known of a next that does not answer, or is left behind.
    pub strand: Strand,
    /// Who calls the plan's hooks.
    pub hooks: Hooks,
    /// What applications were told that follow no route.
    pub told: Told,
    pub to_runner: mpsc::UnboundedSender<Message>,
    seen: [Mutex<ClusterTime>; 2],
    sessions: Mutex<BTreeSet<SessionId>>,
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while holding one of these; if it did, the data is still whole.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The namespace of the markers that drains and lag measurements wait for.
pub(super) fn markers_ns() -> Ns {
    Ns::new(CONTROL_DB, "markers")
}

impl Ctx {
    pub(super) fn new(deps: &Deps, config: &Config, epoch: i64, to_runner: mpsc::UnboundedSender<Message>) -> Arc<Ctx> {
        // A plan that parses has a collection.
        let collection = &deps.plan.collections[0];
        Arc::new(Ctx {
            transform: Transform::new(&collection.steps),
            in_place: InPlace::of(collection, config.resume || config.take_over.is_some()),
            observing: deps.plan.observes().then(Observing::default),
            rt: deps.rt.clone(),
            group: deps.group,
            clusters: deps.clusters.clone(),
            one_cluster: deps.one_cluster,
            plan: deps.plan.clone(),
            ns: [collection.legacy.clone(), collection.next.clone()],
            epoch,
            clock: Steady::new(deps.rt.clone()),
            planted: config.planted,
            chunk_docs: config.chunk_docs.unwrap_or(super::backfill::CHUNK_DOCS),
            ownership: Ownership::default(),
            server_gate: ServerGate::default(),
            registry: KeyRegistry::default(),
            together: Default::default(),
            listing: Default::default(),
            aside: Aside::default(),
            tails: [TailState::default(), TailState::default()],
            live: Mutex::default(),
            published: Mutex::default(),
            pen: tokio::sync::Mutex::new(Pen::new(&deps.plan.id, epoch)),
            dirty: Mutex::default(),
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            returning: AtomicBool::new(false),
            throttle: Throttle::default(),
            strand: Strand::new(deps.rt.now(), config),
            hooks: config.hooks.clone(),
            told: Told::default(),
            to_runner,
            seen: Default::default(),
            sessions: Mutex::default(),
        })
    }

    /// The cluster of a side.
    pub(super) fn db(&self, side: Side) -> &Db {
        &self.clusters[side as usize]
    }

    /// The namespace of a side.
    pub(super) fn ns(&self, side: Side) -> &Ns {
        &self.ns[side as usize]
    }

    fn seen_slot(&self, side: Side) -> &Mutex<ClusterTime> {
        &self.seen[if self.one_cluster { 0 } else { side as usize }]
    }

    /// The latest time this runner has seen from a side's cluster: every read must reflect at least that.
    pub(super) fn seen(&self, side: Side) -> ClusterTime {
        *lock(self.seen_slot(side))
    }

    /// Notes a time seen from a side's cluster.
    pub(super) fn saw(&self, side: Side, at: ClusterTime) {
        let mut t = lock(self.seen_slot(side));
        *t = (*t).max(at);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// True when the task under way is to end at its next safe point.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_stopping() || self.abandoned.load(Ordering::SeqCst)
    }

    /// True for a session whose transactions are tidegate's own.
    pub(super) fn is_own(&self, session: Option<SessionId>) -> bool {
        session.is_some_and(|s| lock(&self.sessions).contains(&s))
    }

    /// Counts a session as tidegate's own; before its first transaction.
    pub(super) fn own_session(&self, session: SessionId) {
        lock(&self.sessions).insert(session);
    }

    pub(super) fn slot_name(&self, worker: &str) -> String {
        format!("{}/{worker}", self.plan.id)
    }

    pub(super) fn spawn(&self, name: &'static str, f: impl Future<Output = ()> + Send + 'static) {
        self.rt.spawn(self.group, name, Box::pin(f));
    }

    pub(super) async fn sleep(&self, span: Micros) {
        sleep(&self.rt, span).await;
    }

    /// Waits for `changed`, at most `span`.
    pub(super) async fn wait(&self, changed: impl Future<Output = ()>, span: Micros) {
        let _ = race(changed, sleep(&self.rt, span)).await;
    }

    pub(super) fn input(&self, input: Input) {
        // A closed channel means that the runner has ended, and the actors with it.
        let _ = self.to_runner.send(Message::Input(input));
    }

    /// Tells the runner that this actor stops, and why. Never returns for a fenced runner: nothing may follow.
    pub(super) async fn report_halt(&self, halt: Halt) {
        match halt {
            Halt::Fenced(newer) => {
                let _ = self.to_runner.send(Message::Fenced(newer));
                std::future::pending::<()>().await;
            }
            Halt::Broken(why) => self.input(Input::Broken { why }),
            // Only the task under way lets go, and whoever carries it out sees to that.
            Halt::LetGo => {}
        }
    }

    /// Makes an event durable; returns when it is.
    pub(super) async fn record(&self, event: Event) {
        let (tx, rx) = oneshot::channel();
        let sent = self.to_runner.send(Message::Record(event, tx)).is_ok();
        if !sent || rx.await.is_err() {
            // The runner has ended: so must whoever wanted an effect.
            std::future::pending::<()>().await;
        }
    }

    /// True when the task that asks should let go of what next does not answer: nobody knows when it will, and a rollback may be
    /// waiting for this task. Where both sides are one cluster, a rollback could do nothing either.
    pub(super) fn lets_go(&self) -> bool {
        let in_task = !self.one_cluster && IN_TASK.try_with(|()| ()).is_ok();
        in_task && (self.abandoned.load(Ordering::SeqCst) || strand::silence(self).is_some())
    }

    /// Retries a read-only or idempotent operation until it succeeds, with a growing pause. The task under way lets go of it while next
    /// does not answer ([`Halt::LetGo`]).
    pub(super) async fn retry<T, F>(&self, what: &str, op: impl FnMut() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        self.again(what, true, op).await
    }

    /// As [`Ctx::retry`], but never let go of: for legacy's cluster, and for what must not be left half done.
    pub(super) async fn insist<T, F>(&self, what: &str, op: impl FnMut() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        self.again(what, false, op).await
    }

    async fn again<T, F>(&self, what: &str, may_let_go: bool, mut op: impl FnMut() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let may_let_go = may_let_go && !self.one_cluster && IN_TASK.try_with(|()| ()).is_ok();
        let mut pause = Micros::from_ms(20);
        let mut tries_while_stopping = 0;
        loop {
            if self.is_stopping() {
                tries_while_stopping += 1;
                if tries_while_stopping > 10 {
                    return Err(Halt::Broken(format!("{what}: the cluster did not answer while stopping")));
                }
            }
            let answer = match may_let_go {
                false => op().await,
                // An answer may be long in coming from a node that stands still.
                true => match race(op(), strand::fallen_silent(self)).await {
                    Either::Left(answer) => answer,
                    Either::Right(()) => return Err(Halt::LetGo),
                },
            };
            match answer {
                Ok(v) => return Ok(v),
                Err(Failed::Fenced { newer }) => return Err(Halt::Fenced(newer)),
                Err(f @ (Failed::Unknown(_) | Failed::NotDone(_))) if f.is_transient() => {
                    tracing::debug!(what, error = %f, "retrying");
                    if may_let_go && self.lets_go() {
                        return Err(Halt::LetGo);
                    }
                    self.sleep(pause).await;
                    pause = Micros((pause.0 * 2).min(Micros::from_secs(1).0));
                }
                Err(f) => return Err(Halt::Broken(format!("{what}: {f}"))),
            }
        }
    }

    /// An idempotent admin operation, retried.
    pub(super) async fn admin(&self, side: Side, what: &str, op: AdminOp) -> Result<AdminDone, Halt> {
        match side {
            Side::Legacy => self.insist(what, || self.db(side).admin(&op)).await,
            Side::Next => self.retry(what, || self.db(side).admin(&op)).await,
        }
    }

    /// Writes a marker on a side's cluster and returns its time: a stream that has passed it has shown everything before it. Where
    /// nothing may be written, the time of a read that sees whatever was acknowledged before it.
    pub(super) async fn marker(&self, side: Side) -> Result<ClusterTime, Halt> {
        if self.observing.is_some() {
            return super::observing::time_of(self, side).await;
        }
        let id = format!("{}/{}", self.plan.id, side.name());
        let mut d = bson::RawDocumentBuf::new();
        d.append(bson::cstr!("_id"), id.as_str());
        d.append(bson::cstr!("n"), self.rt.now().0 as i64);
        d.append(bson::cstr!("epoch"), self.epoch);
        let op = WriteOp::Replace { ns: markers_ns(), key: id.as_str().into(), only_if: None, doc: d, upsert: true };
        let write = || self.db(side).write(&op);
        let written = match side {
            Side::Legacy => self.insist("writing a marker", write).await?,
            Side::Next => self.retry("writing a marker", write).await?,
        };
        self.saw(side, written.at);
        Ok(written.at)
    }

    /// Notes that a key had an event since the last reconciliation began.
    pub(super) fn touched(&self, keys: impl Iterator<Item = Key>) {
        if let Some(dirty) = lock(&self.dirty).as_mut() {
            dirty.extend(keys);
        }
    }
}

//! The application's side of the route: one [`RouteClient`] a process.
//!
//! The contract (docs/routing.md): the process writes its ack document (majority), then reads the route causally after it. Its lease
//! runs from the send of the ack, on its own monotonic clock; without a lease it does not write. Acking an epoch promises that no
//! write issued under an older one has an unknown outcome. It never writes the route, except to undo a freeze whose time is over.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bson::spec::ElementType;
use bson::{Bson, RawDocumentBuf};
use tokio::sync::Notify;

use super::report::{Report, Totals};
use super::{Bucket, Located, Route, Side};
use crate::cluster::fields::DocBytes;
use crate::cluster::{CONTROL_DB, ClusterTime, Db, Doc, Expect, Failed, Key, Ns, Reason, WriteOp};
use crate::runtime::{Either, Group, Micros, Rt, race, sleep};

/// The namespace of route documents.
#[must_use]
pub fn routes_ns() -> Ns {
    static NS: LazyLock<Ns> = LazyLock::new(|| Ns::new(CONTROL_DB, "routes"));
    NS.clone()
}

/// The namespace of ack documents, `_id` = `<plan>/<process>`.
#[must_use]
pub fn acks_ns() -> Ns {
    static NS: LazyLock<Ns> = LazyLock::new(|| Ns::new(CONTROL_DB, "route_acks"));
    NS.clone()
}

/// How often a process acks and reads the route.
const POLL: Micros = Micros::from_ms(250);

/// How often it looks, in between, whether the route has changed: writes are held while a process does not know of a freeze.
const LOOK: Micros = Micros::from_ms(100);

/// The lease while there is no route to say how long it lasts.
const BEFORE_ROUTE: Micros = Micros::from_secs(2);

#[derive(Default)]
struct Inner {
    route: Option<Route>,
    /// It is known whether there is a route.
    followed: bool,
    /// The document last read and what it says: most readings bring the same one.
    read: Option<(Doc, Route)>,
    lease_until: Micros,
    /// Writes under way, by the route epoch they were issued under.
    in_flight: BTreeMap<i64, usize>,
    /// When the freeze now in force was first seen.
    frozen_since: Option<(i64, Micros)>,
    report: Report,
    beat: i64,
    stopping: bool,
    stopped: bool,
}

/// A process's view of the route. Clone freely: clones share it.
#[derive(Clone)]
pub struct RouteClient {
    rt: Rt,
    db: Db,
    plan: Arc<str>,
    process: Arc<str>,
    legacy: Ns,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

/// Permission to issue one write, to one side. Settle the write before dropping it: an epoch is not acked while a permit is out.
pub struct WritePermit {
    client: RouteClient,
    /// The side that owns the key.
    pub side: Side,
    /// Where that side lives.
    pub ns: Ns,
    /// The route epoch the write is issued under.
    pub epoch: i64,
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        let mut inner = self.client.lock();
        if let Some(n) = inner.in_flight.get_mut(&self.epoch) {
            *n -= 1;
            if *n == 0 {
                inner.in_flight.remove(&self.epoch);
                // Only then can it be acked earlier than it would be anyway, or the loop end.
                let awaited = inner.stopping || inner.route.as_ref().is_some_and(|r| r.epoch > self.epoch);
                drop(inner);
                if awaited {
                    self.client.changed.notify_waiters();
                }
            }
        }
    }
}

/// Where a read goes.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// The side that answers.
    pub side: Side,
    /// Where it lives.
    pub ns: Ns,
    /// The side that owns the key: a read that feeds a write goes there.
    pub owner: Side,
    /// The route epoch this was decided under.
    pub epoch: i64,
    /// Percent of reads that are sent to both sides and compared.
    pub shadow: u8,
}

impl RouteClient {
    /// A client for `process`, following `plan`'s route on legacy's cluster; until there is a route, everything goes to `legacy`
    /// under epoch 0 (the first freeze waits for the acks of such processes too). Nothing runs until [`RouteClient::start`].
    #[must_use]
    pub fn new(rt: Rt, db: Db, plan: &str, process: &str, legacy: Ns) -> Self {
        RouteClient {
            legacy,
            rt,
            db,
            plan: plan.into(),
            process: process.into(),
            inner: Arc::default(),
            changed: Arc::new(Notify::new()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the ack loop in `group`.
    pub fn start(&self, group: Group) {
        let me = self.clone();
        self.rt.clone().spawn(group, "route client", Box::pin(async move { me.run().await }));
    }

    /// Tells the loop to withdraw the ack document and end; resolves when it has.
    pub async fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_waiters();
        while !self.lock().stopped {
            sleep(&self.rt, Micros::from_ms(20)).await;
        }
    }

    /// Resolves once it is known whether there is a route, or the client is stopping: a process that has only just started would ask
    /// legacy for what next owns.
    pub async fn followed(&self) {
        let known = |inner: &Inner| inner.followed || inner.stopping;
        while !known(&self.lock()) {
            let _ = race(self.changed.notified(), sleep(&self.rt, Micros::from_ms(50))).await;
        }
    }

    /// Where a read of this key goes, by the route that is followed: see [`RouteClient::followed`].
    #[must_use]
    pub fn read_plan(&self, at: &impl Located) -> ReadPlan {
        let inner = self.lock();
        let Some(r) = inner.route.as_ref() else {
            return ReadPlan { side: Side::Legacy, ns: self.legacy.clone(), owner: Side::Legacy, epoch: 0, shadow: 0 };
        };
        let side = r.reader(at);
        ReadPlan { side, ns: r.ns(side).clone(), owner: r.owner(at), epoch: r.epoch, shadow: r.shadow }
    }

    /// A permit to write this key, waiting while its bucket is frozen or the lease has run out; `None` once the client is stopping.
    pub async fn permit(&self, at: &impl Located) -> Option<WritePermit> {
        loop {
            {
                let mut inner = self.lock();
                if inner.stopping {
                    return None;
                }
                let frozen = inner.route.as_ref().is_some_and(|r| r.is_frozen(at.bucket()));
                if self.rt.now() < inner.lease_until && !frozen {
                    let (side, epoch, ns) = match inner.route.as_ref() {
                        Some(r) => {
                            let side = r.owner(at);
                            (side, r.epoch, r.ns(side).clone())
                        }
                        None => (Side::Legacy, 0, self.legacy.clone()),
                    };
                    *inner.in_flight.entry(epoch).or_insert(0) += 1;
                    return Some(WritePermit { client: self.clone(), side, ns, epoch });
                }
            }
            let _ = race(self.changed.notified(), sleep(&self.rt, Micros::from_ms(50))).await;
        }
    }

    /// Buckets below this were given back to legacy while next did not answer ([`Route::stranded_below`]); 0 otherwise.
    #[must_use]
    pub fn stranded_below(&self) -> Bucket {
        self.lock().route.as_ref().map_or(0, |r| r.stranded_below)
    }

    /// True once [`RouteClient::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Adds to what the process reports with its next ack.
    pub fn report(&self, f: impl FnOnce(&mut Report)) {
        f(&mut self.lock().report);
    }

    /// What the process has reported, up to this moment.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.lock().report.totals
    }

    async fn run(&self) {
        loop {
            let stopping = self.lock().stopping && self.lock().in_flight.is_empty();
            if stopping {
                self.withdraw().await;
                return;
            }
            let acked = self.round().await;
            let next = self.rt.now() + POLL;
            loop {
                let wake = self.changed.notified();
                if acked && self.can_ack_again() {
                    break;
                }
                let look = (self.rt.now() + LOOK).min(next);
                match race(wake, self.rt.sleep_until(look)).await {
                    Either::Left(()) => break,
                    Either::Right(()) if look == next => break,
                    Either::Right(()) => self.look().await,
                }
            }
        }
    }

    /// True when a newer epoch has been read than was acked, and none of the writes under way is older: a freeze waits for this process.
    fn can_ack_again(&self) -> bool {
        let inner = self.lock();
        let behind = inner.route.as_ref().is_some_and(|r| inner.in_flight.keys().any(|e| *e < r.epoch));
        inner.route.as_ref().is_some_and(|r| r.epoch > inner.report.acked_epoch) && !behind
    }

    /// Reads the route without acking. What it finds can only be newer; the lease still runs from the last ack.
    async fn look(&self) {
        if let Ok(Some(route)) = self.read_route(ClusterTime::ZERO).await {
            self.adopt(&route);
        }
    }

    /// Follows `route` from now on if it is newer than the one followed so far.
    fn adopt(&self, route: &Route) {
        {
            let mut inner = self.lock();
            if inner.route.as_ref().is_some_and(|old| old.epoch >= route.epoch) {
                return;
            }
            inner.frozen_since = route.frozen.map(|_| (route.epoch, self.rt.now()));
            inner.route = Some(route.clone());
        }
        self.changed.notify_waiters();
    }

    /// One ack and one read of the route; false when either failed. Errors only cost the lease.
    async fn round(&self) -> bool {
        let sent = self.rt.now();
        let (doc, epoch) = self.ack_document(sent);
        let key = self.ack_key();
        let op = WriteOp::Replace { ns: acks_ns(), key, only_if: None, doc, upsert: true };
        let Ok(written) = self.db.write(&op).await else { return false };
        let Ok(route) = self.read_route(written.at).await else { return false };
        let Some(route) = route else {
            // Nobody has begun: the lease is on legacy, and the ack document tells the first freeze to wait for this process.
            let mut inner = self.lock();
            inner.followed = true;
            if inner.route.is_none() {
                inner.lease_until = sent + BEFORE_ROUTE;
            }
            drop(inner);
            self.changed.notify_waiters();
            return true;
        };
        {
            let mut inner = self.lock();
            inner.report.acked_epoch = epoch;
            inner.lease_until = sent + Micros::from_ms(route.lease_ms.max(0) as u64);
        }
        self.adopt(&route);
        self.lock().followed = true;
        self.maybe_unfreeze(&route).await;
        true
    }

    fn ack_key(&self) -> Key {
        Key::from(format!("{}/{}", self.plan, self.process).as_str())
    }

    /// The epoch acked is the newest one under which nothing older is still under way.
    fn ack_document(&self, now: Micros) -> (RawDocumentBuf, i64) {
        let mut inner = self.lock();
        let known = inner.route.as_ref().map_or(0, |r| r.epoch);
        let epoch = inner.in_flight.keys().next().map_or(known, |oldest| known.min(*oldest));
        inner.beat += 1;
        let beat = inner.beat;
        let mut d = DocBytes::with_capacity(inner.report.size());
        d.text("_id", &format!("{}/{}", self.plan, self.process));
        d.text("plan", &self.plan);
        d.text("process", &self.process);
        d.int64("epoch", epoch);
        // Newer than what is acked while a write of an older epoch has an unknown outcome: none is begun under an older one any more.
        d.int64("follows", known);
        d.int64("beat", beat);
        let at = d.open(ElementType::EmbeddedDocument, "report");
        inner.report.take_into(&mut d, now);
        d.close(at);
        (d.finish(), epoch)
    }

    async fn read_route(&self, after: ClusterTime) -> Result<Option<Route>, Failed> {
        let keys = [Key::from(&*self.plan)];
        let read = self.db.read(&routes_ns(), &keys, after).await?;
        match read.docs.into_iter().next().flatten() {
            None => Ok(None),
            Some(d) => {
                if let Some((_, same)) = self.lock().read.as_ref().filter(|(last, _)| *last == d) {
                    return Ok(Some(same.clone()));
                }
                let route = Route::from_raw(&d).map_err(|e| Failed::NotDone(Reason::Refused(e.to_string())))?;
                self.lock().read = Some((d, route.clone()));
                Ok(Some(route))
            }
        }
    }

    /// Undoes a freeze whose `until` has passed in server time: one compare-and-set wins, with the old owner.
    async fn maybe_unfreeze(&self, route: &Route) {
        let Some(frozen) = route.frozen else { return };
        let old = {
            let inner = self.lock();
            inner.frozen_since.is_some_and(|(e, at)| e == route.epoch && self.rt.now().since(at) > Micros::from_secs(1))
        };
        if !old {
            return;
        }
        let Ok(seen) = self.db.observe().await else { return };
        if seen.server_ms <= frozen.until_ms {
            return;
        }
        let nonce = (self.rt.draw(0x7071, self.process.len() as u64, self.rt.now().0) >> 1) as i64;
        let op = WriteOp::Replace {
            ns: routes_ns(),
            key: Key::from(&*self.plan),
            only_if: Some(Expect { field: "epoch", value: Bson::Int64(route.epoch) }),
            doc: route.unfrozen(nonce).to_raw(),
            upsert: false,
        };
        // Whoever wins, the next round reads the outcome.
        let _ = self.db.write(&op).await;
    }

    async fn withdraw(&self) {
        let key = self.ack_key();
        for _ in 0..20 {
            let op = WriteOp::Delete { ns: acks_ns(), key: key.clone(), only_if: None };
            if self.db.write(&op).await.is_ok() {
                break;
            }
            sleep(&self.rt, Micros::from_ms(250)).await;
        }
        self.lock().stopped = true;
    }
}

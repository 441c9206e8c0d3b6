//! What was acknowledged to the application, and what a read must therefore return.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::{RawDocument, RawDocumentBuf};

use super::bucket::Place;
use super::orders::{Ids, Order};
use crate::cluster::{ClusterTime, Db, Failed, Key, Ns};
use crate::route::{Located, Side};

/// The acknowledged state of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The last acknowledged version; for a deleted order the version that was deleted.
    pub order: Order,
    /// The delete was acknowledged.
    pub deleted: bool,
}

#[derive(Default)]
struct Inner {
    /// Orders that differ from [`Ids::order`], or were inserted.
    changed: BTreeMap<u64, Known>,
    /// Highest cluster time acknowledged, by side.
    seen: [ClusterTime; 2],
    /// Orders whose delete is under way: they may be gone already.
    deleting: std::collections::BTreeSet<u64>,
    violations: Vec<String>,
    lanes: usize,
    inserted_above: u64,
    /// The order acknowledged last.
    latest: u64,
    stranded: Stranded,
    /// The buckets of orders by their numbers, where they have been worked out.
    buckets: Vec<Option<u16>>,
}

/// What writing on two clusters may leave behind on the second: only where the route says that it was left behind.
#[derive(Default)]
struct Stranded {
    /// The last versions of each order: any of them may be the one that legacy had.
    versions: BTreeMap<u64, VecDeque<Known>>,
    /// Orders acknowledged last on next.
    on_next: BTreeSet<u64>,
    /// Versions acknowledged on next that legacy did not have: known to be at risk, neither lost nor forgotten.
    left: BTreeMap<u64, Known>,
}

/// Versions of an order that are remembered.
const VERSIONS: usize = 32;

fn is_version(k: &Known, found: Option<(i64, i64)>) -> bool {
    if k.deleted { found.is_none() } else { found == Some((k.order.rev, k.order.by)) }
}

/// The oracle. Shared by all lanes of an application.
pub struct Oracle {
    documents: u64,
    ids: Ids,
    /// Both sides are one cluster: what was seen on one holds for a read of the other.
    one_cluster: bool,
    inner: Mutex<Inner>,
}

/// The outcome of comparing every order with what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Orders compared.
    pub checked: u64,
    /// Acknowledged writes whose effect is not there: missing, reappeared, older or other content.
    pub lost: u64,
    /// The first few of them, in words.
    pub examples: Vec<String>,
    /// Orders whose last version was left behind on next and is not on legacy: keys, for whoever compares them with the conflicts.
    pub stranded: Vec<Key>,
}

impl Oracle {
    pub(super) fn new(documents: u64, ids: Ids, one_cluster: bool) -> Oracle {
        Oracle {
            documents,
            ids,
            one_cluster,
            inner: Mutex::new(Inner { inserted_above: documents, ..Inner::default() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The acknowledged state of order `n`; `None` when it never existed.
    pub(super) fn known(&self, n: u64) -> Option<Known> {
        let inner = self.lock();
        match inner.changed.get(&n) {
            Some(k) => Some(*k),
            None if n < self.documents => Some(Known { order: self.ids.order(n), deleted: false }),
            None => None,
        }
    }

    /// Where an order goes.
    pub(super) fn place(&self, order: &Order) -> Place {
        let mut inner = self.lock();
        let n = order.n as usize;
        if inner.buckets.len() <= n {
            inner.buckets.resize(n + 1, None);
        }
        let bucket = *inner.buckets[n].get_or_insert_with(|| Place::of(order).bucket());
        Place::known(order, bucket)
    }

    pub(super) fn acknowledge(&self, side: usize, known: Known, at: ClusterTime) {
        let mut inner = self.lock();
        inner.inserted_above = inner.inserted_above.max(known.order.n + 1);
        inner.latest = known.order.n;
        if !self.one_cluster {
            let n = known.order.n;
            let versions = inner.stranded.versions.entry(n).or_default();
            versions.push_back(known);
            if versions.len() > VERSIONS {
                versions.pop_front();
            }
            match side {
                0 => inner.stranded.on_next.remove(&n),
                _ => {
                    // A write that was under way when next fell silent takes the place of what was left there before.
                    inner.stranded.left.remove(&n);
                    inner.stranded.on_next.insert(n)
                }
            };
            // Deleted on both sides is deleted.
            if known.deleted && inner.stranded.left.get(&n).is_some_and(|left| left.deleted) {
                inner.stranded.left.remove(&n);
            }
        }
        inner.changed.insert(known.order.n, known);
        let cluster = if self.one_cluster { 0 } else { side };
        inner.seen[cluster] = inner.seen[cluster].max(at);
    }

    /// Legacy returned `found` for an order of a bucket whose last writes were left behind on next, where `seen` was known. True when
    /// that is one of its earlier versions, or the one that was left behind has come back: from here on that is what is known.
    pub(super) fn strand(&self, seen: &Known, found: Option<(i64, i64)>) -> bool {
        let n = seen.order.n;
        let inner = &mut *self.lock();
        let initial = Known { order: Order::initial(n), deleted: n >= self.documents };
        let now = inner.changed.get(&n).copied().unwrap_or(initial);
        if now != *seen {
            // Judged by another read or write meanwhile.
            return true;
        }
        if inner.stranded.left.get(&n).is_some_and(|left| is_version(left, found)) {
            if let Some(left) = inner.stranded.left.remove(&n) {
                inner.changed.insert(n, left);
            }
            return true;
        }
        if !inner.stranded.on_next.contains(&n) {
            return false;
        }
        let versions = inner.stranded.versions.get(&n);
        let earlier = versions.into_iter().flatten().rev().find(|k| is_version(k, found)).copied();
        let Some(earlier) = earlier.or_else(|| is_version(&initial, found).then_some(initial)) else { return false };
        inner.stranded.on_next.remove(&n);
        inner.stranded.left.insert(n, now);
        inner.changed.insert(n, earlier);
        true
    }

    /// Orders whose last version on next was not on legacy when it was looked for, and has not been seen there since.
    #[must_use]
    pub fn stranded(&self) -> Vec<Order> {
        self.lock().stranded.left.values().map(|k| k.order).collect()
    }

    /// A time on `side`'s cluster after which a read must reflect everything acknowledged so far.
    pub(super) fn seen(&self, side: usize) -> ClusterTime {
        self.lock().seen[if self.one_cluster { 0 } else { side }]
    }

    /// The order whose write was acknowledged last, by whichever process.
    pub(super) fn latest(&self) -> u64 {
        self.lock().latest
    }

    /// One past the highest order number ever acknowledged.
    pub(super) fn numbers(&self) -> u64 {
        self.lock().inserted_above
    }

    pub(super) fn deleting(&self, n: u64, under_way: bool) {
        let mut inner = self.lock();
        if under_way {
            inner.deleting.insert(n);
        } else {
            inner.deleting.remove(&n);
        }
    }

    /// True when the order has been deleted, or may have been.
    pub(super) fn may_be_gone(&self, n: u64) -> bool {
        let deleting = self.lock().deleting.contains(&n);
        deleting || self.known(n).is_some_and(|k| k.deleted)
    }

    pub(super) fn violation(&self, what: String) {
        let mut inner = self.lock();
        if inner.violations.len() < 100 {
            inner.violations.push(what);
        }
    }

    /// Reads from the owner that broke a promise, in words (the first hundred).
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub(super) fn lane_started(&self) {
        self.lock().lanes += 1;
    }

    pub(super) fn lane_ended(&self) {
        self.lock().lanes -= 1;
    }

    pub(super) fn lanes_running(&self) -> usize {
        self.lock().lanes
    }

    /// Every order that must exist now.
    fn live(&self) -> Vec<Order> {
        (0..self.numbers()).filter_map(|n| self.known(n)).filter(|k| !k.deleted).map(|k| k.order).collect()
    }

    /// Every order that was deleted and must not be there.
    fn dead(&self) -> Vec<Order> {
        self.lock().changed.values().filter(|k| k.deleted).map(|k| k.order).collect()
    }

    /// The number of orders that must exist now.
    #[must_use]
    pub fn live_count(&self) -> u64 {
        self.live().len() as u64
    }

    /// Every order that must exist now, as the document `document` makes of it.
    #[must_use]
    pub fn expected(&self, document: impl Fn(&Order) -> RawDocumentBuf) -> BTreeMap<Key, RawDocumentBuf> {
        self.live().iter().map(|o| (o.key(), document(o))).collect()
    }

    /// Compares a dump with what was acknowledged: keys, revisions, content, and nothing besides.
    pub fn verify_dump(
        &self,
        dump: &BTreeMap<Key, RawDocumentBuf>,
        document: impl Fn(&Order) -> RawDocumentBuf,
    ) -> Verification {
        let mut v = Verification::default();
        let mut expected = 0;
        for order in self.live() {
            v.checked += 1;
            expected += 1;
            check(&mut v, &order, dump.get(&order.key()).map(|d| &**d), &document);
        }
        for order in self.dead() {
            v.checked += 1;
            if dump.contains_key(&order.key()) {
                v.fail(format!("order {} was deleted and is back", order.n));
            }
        }
        if v.lost == 0 && dump.len() != expected {
            v.fail(format!("{} documents where {expected} were expected", dump.len()));
        }
        v
    }
}

impl Verification {
    fn fail(&mut self, what: String) {
        self.lost += 1;
        if self.examples.len() < 10 {
            self.examples.push(what);
        }
    }
}

fn check(
    v: &mut Verification,
    order: &Order,
    stored: Option<&RawDocument>,
    document: &impl Fn(&Order) -> RawDocumentBuf,
) {
    match stored {
        None => v.fail(format!("order {} (rev {}) is missing", order.n, order.rev)),
        Some(d) if !super::orders::same_up_to_order(&document(order), d) => {
            let rev = super::orders::revision(d);
            v.fail(format!("order {} should be at rev {} by {}, is {rev:?}", order.n, order.rev, order.by));
        }
        Some(_) => {}
    }
}

/// Looks on legacy for everything acknowledged last on next, in buckets that were left behind, so that what is compared afterwards is
/// what must be there.
async fn find_stranded(
    oracle: &Oracle,
    (db, ns, after): (&Db, &Ns, ClusterTime),
    stranded: &(impl Fn(&Order) -> bool + Send + Sync),
    v: &mut Verification,
) -> Result<(), Failed> {
    let candidates: Vec<Known> = {
        let inner = oracle.lock();
        let s = &inner.stranded;
        let all = s.on_next.iter().chain(s.left.keys()).copied().collect::<BTreeSet<u64>>();
        all.into_iter().filter_map(|n| inner.changed.get(&n).copied()).filter(|k| stranded(&k.order)).collect()
    };
    for batch in candidates.chunks(1_000) {
        let keys: Vec<Key> = batch.iter().map(|k| k.order.key()).collect();
        let read = db.read(ns, &keys, after).await?;
        for (known, stored) in batch.iter().zip(&read.docs) {
            let found = stored.as_deref().and_then(super::orders::revision);
            if !is_version(known, found) {
                oracle.strand(known, found);
            }
        }
    }
    v.stranded = oracle.stranded().iter().map(Order::key).collect();
    Ok(())
}

/// Reads every order from its owner in batches and compares it. Each side comes with the time its reads must reflect.
pub(super) async fn verify(
    oracle: &Oracle,
    sides: [(&Db, &Ns, ClusterTime); 2],
    owner: impl Fn(&Order) -> Side + Send + Sync,
    document: impl Fn(Side, &Order) -> RawDocumentBuf + Send + Sync,
    stranded: impl Fn(&Order) -> bool + Send + Sync,
) -> Result<Verification, Failed> {
    let mut v = Verification::default();
    find_stranded(oracle, sides[0], &stranded, &mut v).await?;
    let (live, dead) = (oracle.live(), oracle.dead());
    for side in Side::BOTH {
        let (db, ns, after) = sides[side as usize];
        let owned = |orders: &[Order]| orders.iter().filter(|o| owner(o) == side).copied().collect::<Vec<Order>>();
        for batch in owned(&live).chunks(1_000) {
            let keys: Vec<Key> = batch.iter().map(Order::key).collect();
            let read = db.read(ns, &keys, after).await?;
            for (order, stored) in batch.iter().zip(&read.docs) {
                v.checked += 1;
                check(&mut v, order, stored.as_deref(), &|o| document(side, o));
            }
        }
        for batch in owned(&dead).chunks(1_000) {
            let keys: Vec<Key> = batch.iter().map(Order::key).collect();
            let read = db.read(ns, &keys, after).await?;
            for (order, stored) in batch.iter().zip(&read.docs) {
                v.checked += 1;
                if stored.is_some() {
                    v.fail(format!("order {} was deleted and is back", order.n));
                }
            }
        }
    }
    Ok(v)
}

//! What was acknowledged to the application, and what a read must therefore return.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bson::{RawDocument, RawDocumentBuf};

use super::orders::{Ids, Order};
use crate::cluster::{ClusterTime, Db, Failed, Key, Ns};
use crate::route::Side;

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

    pub(super) fn acknowledge(&self, side: usize, known: Known, at: ClusterTime) {
        let mut inner = self.lock();
        inner.inserted_above = inner.inserted_above.max(known.order.n + 1);
        inner.latest = known.order.n;
        inner.changed.insert(known.order.n, known);
        let cluster = if self.one_cluster { 0 } else { side };
        inner.seen[cluster] = inner.seen[cluster].max(at);
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

/// Reads every order from its owner in batches and compares it. Each side comes with the time its reads must reflect.
pub(super) async fn verify(
    oracle: &Oracle,
    sides: [(&Db, &Ns, ClusterTime); 2],
    owner: impl Fn(&Order) -> Side + Send + Sync,
    document: impl Fn(Side, &Order) -> RawDocumentBuf + Send + Sync,
) -> Result<Verification, Failed> {
    let mut v = Verification::default();
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

//! One lane of an application process: a paced sequence of reads and writes, each checked against the oracle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shared;
use super::oracle::Known;
use super::orders::{Order, revision};
use crate::cluster::{ClusterTime, Expect, Failed, Reason, WriteOp, Written};
use crate::route::{Located, OpKind, ReadPlan, RouteClient, Side, WritePermit};
use crate::runtime::{Micros, sleep};

/// Draw streams of the application.
const STREAM: u32 = 0x6170_7000;
/// A lane further behind its pace than this drops what it missed.
const BACKLOG: Micros = Micros::from_secs(2);

/// Reads of one lane under way at once; with more the lane waits.
const READS: usize = 100;

/// Reads and checks what it has read. Reads of a lane do not wait for each other: a slow side must not make the other look slow.
#[derive(Clone)]
struct Reader {
    shared: Arc<Shared>,
    client: RouteClient,
    under_way: Arc<AtomicUsize>,
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    client: RouteClient,
    reader: Reader,
    index: u64,
    lanes: u64,
    draws: u64,
    /// The number of the next insert of this lane.
    next_insert: u64,
    last_written: Option<u64>,
    /// Orders whose insert once had an unknown outcome: a late landing must find them there.
    never_delete: std::collections::BTreeSet<u64>,
}

impl Reader {
    /// One read of order `n`.
    async fn read(&self, due: Micros, n: u64, shadowed: u64) {
        self.look(due, n, shadowed).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    async fn look(&self, due: Micros, n: u64, shadowed: u64) {
        let Some(floor) = self.shared.oracle.known(n) else { return };
        self.client.followed().await;
        let plan = self.client.read_plan(&self.shared.oracle.place(&floor.order));
        let side = plan.side;
        let Some(found) = self.fetch(&floor.order, side).await else {
            self.client.report(|r| r.error(OpKind::Read, side));
            return;
        };
        let took = self.shared.rt.now().since(due);
        self.client.report(|r| r.latency(OpKind::Read, side, took));
        if is_older(found, &floor) {
            self.stale(&plan, &floor, found).await;
        }
        if shadowed < u64::from(plan.shadow) {
            self.shadow(&floor.order, side).await;
        }
    }

    /// The revision of an order on one side; the outer `None` is a failed read.
    async fn fetch(&self, order: &Order, side: Side) -> Option<Option<(i64, i64)>> {
        let (found, _) = self.fetch_after(order, side, self.shared.oracle.seen(side as usize)).await?;
        Some(found)
    }

    /// The same read no earlier than `after`, and the time that it reflects.
    async fn fetch_after(
        &self,
        order: &Order,
        side: Side,
        after: ClusterTime,
    ) -> Option<(Option<(i64, i64)>, ClusterTime)> {
        let s = side as usize;
        let read = self.shared.clusters[s].read(&self.shared.ns[s], &[order.key()], after).await.ok()?;
        Some((read.docs.into_iter().next().flatten().and_then(|d| revision(&d)), read.at))
    }

    /// A read returned less than was acknowledged. From the side that owns the key that is a broken promise.
    async fn stale(&self, plan: &ReadPlan, floor: &Known, found: Option<(i64, i64)>) {
        let side = plan.side;
        if found.is_none() && self.shared.oracle.may_be_gone(floor.order.n) {
            return;
        }
        // The route may have moved between the plan and the answer: judge by the newest one, reading again.
        if plan.owner == side {
            let now = self.client.read_plan(&self.shared.oracle.place(&floor.order));
            if now.owner == side
                && now.epoch == plan.epoch
                && let Some(again) = self.fetch(&floor.order, now.side).await
                && is_older(again, floor)
                && !(again.is_none() && self.shared.oracle.may_be_gone(floor.order.n))
            {
                if self.is_left_behind(floor, side) && self.shared.oracle.strand(floor, again) {
                    return;
                }
                self.client.report(|r| {
                    r.totals.stale_owner += 1;
                    r.totals.lost += 1;
                });
                self.shared.oracle.violation(format!(
                    "read of order {} on {} under epoch {} found {found:?}, then {again:?}; acknowledged rev {} deleted {}",
                    floor.order.n, side.name(), plan.epoch, floor.order.rev, floor.deleted
                ));
                return;
            }
        }
        self.client.report(|r| r.totals.stale_copy += 1);
    }

    /// Next was given up under this order while it did not answer: what was written there last may be missing on legacy.
    fn is_left_behind(&self, known: &Known, side: Side) -> bool {
        side == Side::Legacy && self.shared.oracle.place(&known.order).bucket() < self.client.stranded_below()
    }

    /// Reads the other side too and compares. Behind is not different: it is re-read until it has caught up.
    async fn shadow(&self, order: &Order, side: Side) {
        let other = side.other();
        for _ in 0..6 {
            let Some(a) = self.fetch(order, side).await else {
                self.client.report(|r| r.error(OpKind::Read, side));
                return;
            };
            // Each side answers for its own time only: a slow side must not make the other look slow.
            let started = self.shared.rt.now();
            let Some(b) = self.fetch(order, other).await else {
                self.client.report(|r| r.error(OpKind::Read, other));
                return;
            };
            let took = self.shared.rt.now().since(started);
            if a == b {
                self.client.report(|r| {
                    r.totals.shadow_compared += 1;
                    r.latency(OpKind::Read, other, took);
                });
                return;
            }
            sleep(&self.shared.rt, Micros::from_ms(400)).await;
        }
        self.client.report(|r| {
            r.totals.shadow_compared += 1;
            r.totals.shadow_different += 1;
        });
    }
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, client: RouteClient, index: u64, lanes: u64) -> Lane {
        shared.oracle.lane_started();
        let first = shared.config.documents.next_multiple_of(lanes) + index;
        let reader = Reader { shared: shared.clone(), client: client.clone(), under_way: Arc::default() };
        Lane {
            shared,
            client,
            reader,
            index,
            lanes,
            draws: 0,
            next_insert: first,
            last_written: None,
            never_delete: Default::default(),
        }
    }

    fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.shared.rt.draw(STREAM, self.index, self.draws)
    }

    pub(super) async fn run(mut self) {
        let rt = self.shared.rt.clone();
        let interval = Micros(1_000_000 * self.lanes / u64::from(self.shared.config.ops_per_s.max(1)));
        let mut due = rt.now() + Micros(interval.0 * self.index / self.lanes);
        loop {
            due += Micros(interval.0 / 2 + self.draw() % interval.0.max(1));
            if rt.now().since(due) > BACKLOG {
                due = rt.now();
            }
            rt.sleep_until(due).await;
            let read = self.draw() % 100 < u64::from(self.shared.config.read_percent);
            let going = if read { self.read(due).await } else { self.write(due).await };
            if !going {
                break;
            }
        }
        self.shared.oracle.lane_ended();
    }

    /// Begins a read of any order. False once the client is stopping.
    async fn read(&mut self, due: Micros) -> bool {
        let latest = u64::from(self.shared.config.read_latest_percent);
        let n = match latest > 0 && self.draw() % 100 < latest {
            true => self.shared.oracle.latest(),
            false => self.draw() % self.shared.oracle.numbers().max(1),
        };
        let shadowed = self.draw() % 100;
        if self.client.is_stopping() {
            return false;
        }
        let reader = self.reader.clone();
        if reader.under_way.fetch_add(1, Ordering::Relaxed) >= READS {
            reader.read(due, n, shadowed).await;
            return true;
        }
        // Whoever stops the application waits for it too.
        self.shared.oracle.lane_started();
        let read = async move {
            reader.read(due, n, shadowed).await;
            reader.shared.oracle.lane_ended();
        };
        self.shared.rt.spawn(self.shared.group, "application read", Box::pin(read));
        true
    }

    /// One write of an order of this lane. False once the client is stopping.
    async fn write(&mut self, due: Micros) -> bool {
        let token = ((self.index + 1) << 40 | self.draws) as i64;
        let choice = self.draw() % 100;
        let own = self.draw();
        let (inserts, deletes) = self.shared.config.churn_percent;
        let (inserts, deletes) = (u64::from(inserts), u64::from(deletes));
        let (before, wanted) = if choice < inserts {
            let n = self.next_insert;
            self.next_insert += self.lanes;
            (None, Known { order: Order { rev: 1, by: token, ..self.shared.config.ids.order(n) }, deleted: false })
        } else {
            let span = self.shared.oracle.numbers() / self.lanes;
            // One in four goes to the order written last: some orders are busy.
            let n = match self.last_written.filter(|_| own.is_multiple_of(4)) {
                Some(n) => n,
                None => (own % span.max(1)) * self.lanes + self.index,
            };
            let Some(k) = self.shared.oracle.known(n).filter(|k| !k.deleted) else { return true };
            if choice < inserts + deletes && !self.never_delete.contains(&n) {
                (Some(k), Known { deleted: true, ..k })
            } else {
                let order =
                    Order { cents: 100 + (own >> 8) as i64 % 900_000, rev: k.order.rev + 1, by: token, ..k.order };
                (Some(k), Known { order, deleted: false })
            }
        };
        self.last_written = Some(wanted.order.n);
        let Some(permit) = self.client.permit(&self.shared.oracle.place(&wanted.order)).await else { return false };
        if wanted.deleted {
            self.shared.oracle.deleting(wanted.order.n, true);
        }
        let settled = self.settle(&permit, before, wanted).await;
        if wanted.deleted {
            self.shared.oracle.deleting(wanted.order.n, false);
        }
        let took = self.shared.rt.now().since(due);
        let side = permit.side;
        self.client.report(|r| match settled {
            true => {
                r.latency(OpKind::Write, side, took);
                r.totals.acknowledged += 1;
            }
            false => r.error(OpKind::Write, side),
        });
        true
    }

    /// Issues a write until its outcome is known; the permit stays out meanwhile. True when it was acknowledged.
    async fn settle(&mut self, permit: &WritePermit, before: Option<Known>, wanted: Known) -> bool {
        let op = self.operation(permit, before, &wanted);
        let mut unknown = false;
        for attempt in 0u64.. {
            let outcome = self.shared.clusters[permit.side as usize].write(&op).await;
            match outcome {
                Ok(Written { matched: 1, at }) => {
                    self.shared.oracle.acknowledge(permit.side as usize, wanted, at);
                    return true;
                }
                Ok(Written { at, .. }) => {
                    if let Some(acknowledged) = self.judge(permit, before, &wanted, at, unknown).await {
                        return acknowledged;
                    }
                }
                Err(Failed::NotDone(Reason::DuplicateKey { .. })) => {
                    if let Some(acknowledged) = self.judge(permit, before, &wanted, ClusterTime::ZERO, unknown).await {
                        return acknowledged;
                    }
                }
                Err(Failed::NotDone(r)) if !unknown => {
                    let by_gate = self.shared.server_gate && r.to_string().contains("failed validation");
                    if !r.is_transient() && !by_gate {
                        self.shared.oracle.violation(format!("write of order {} refused: {r}", wanted.order.n));
                    }
                    return false;
                }
                Err(Failed::Unknown(_)) => {
                    unknown = true;
                    if before.is_none() {
                        self.never_delete.insert(wanted.order.n);
                    }
                }
                Err(_) => {}
            }
            sleep(&self.shared.rt, Micros::from_ms(50 * (attempt + 1).min(10))).await;
        }
        false
    }

    fn operation(&self, permit: &WritePermit, before: Option<Known>, wanted: &Known) -> WriteOp {
        let ns = permit.ns.clone();
        let only_if = before.map(|k| Expect { field: "rev", value: bson::Bson::Int64(k.order.rev) });
        let doc = || self.shared.shapes.document(permit.side, &wanted.order, self.shared.config.padding);
        match (before, wanted.deleted) {
            (None, _) => WriteOp::Insert { ns, doc: doc() },
            (Some(_), true) => WriteOp::Delete { ns, key: wanted.order.key(), only_if },
            (Some(_), false) => WriteOp::Replace { ns, key: wanted.order.key(), only_if, doc: doc(), upsert: false },
        }
    }

    /// Nothing matched: an earlier attempt of ours landed (acknowledged), was seen and then rolled back (`None`: try again), or an
    /// acknowledged version has gone missing.
    async fn judge(
        &self,
        permit: &WritePermit,
        before: Option<Known>,
        wanted: &Known,
        at: ClusterTime,
        unknown: bool,
    ) -> Option<bool> {
        let side = permit.side as usize;
        let after = at.max(self.shared.oracle.seen(side));
        let (found, read_at) = loop {
            if let Some(found) = self.reader.fetch_after(&wanted.order, permit.side, after).await {
                break found;
            }
            sleep(&self.shared.rt, Micros::from_ms(100)).await;
        };
        let ours = if wanted.deleted { found.is_none() } else { found == Some((wanted.order.rev, wanted.order.by)) };
        if ours && unknown {
            // It is known by this read: whoever reads later must see at least what it reflects, after an election too.
            self.shared.oracle.acknowledge(side, *wanted, at.max(read_at));
            return Some(true);
        }
        if unknown && found == before.map(|k| (k.order.rev, k.order.by)) {
            return None;
        }
        if let Some(before) = &before
            && self.reader.is_left_behind(before, permit.side)
            && self.shared.oracle.strand(before, found)
        {
            return Some(false);
        }
        self.client.report(|r| r.totals.lost += 1);
        self.shared.oracle.violation(format!(
            "write of order {} rev {} on {} under epoch {} met {found:?} (deleted {}, retried {unknown})",
            wanted.order.n,
            wanted.order.rev,
            permit.side.name(),
            permit.epoch,
            wanted.deleted
        ));
        Some(false)
    }
}

/// True when a read returned less than what was acknowledged before it began.
fn is_older(found: Option<(i64, i64)>, floor: &Known) -> bool {
    match found {
        // A deleted order may still be missing; a live one may have been deleted since, by its own lane: the caller re-reads.
        None => !floor.deleted,
        Some((rev, _)) => floor.deleted || rev < floor.order.rev,
    }
}

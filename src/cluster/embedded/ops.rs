//! The life of an operation: drawn latency, faults on the way, the majority, and the answer.

use std::ops::Bound;
use std::sync::Arc;

use super::Core;
use super::config::spread;
use super::faults::OpKind;
use super::slots::{self, Txn};
use super::stage::{Stage, Staged};
use super::state::{Down, Standing, State, to_time, to_ts};
use super::store::Ts;
use crate::cluster::{
    ClusterTime, Failed, Fence, Key, Ns, Observation, Page, PageLimit, Read, Reason, TxnDone, TxnOp, WriteOp, Written,
};
use crate::runtime::{Either, Micros, race, sleep};

/// What is in store for an operation.
pub(super) struct Plan {
    /// From the caller to the moment of effect.
    pub(super) before: Micros,
    /// From there (or from the majority) back to the caller.
    pub(super) after: Micros,
    pub(super) fate: Fate,
    /// 64 bits of its own for whatever else is left to chance.
    pub(super) bits: u64,
}

impl Plan {
    /// Whether a request lands whose caller died after sending it: every other one does.
    pub(super) fn survives(&self) -> bool {
        self.bits & 4 == 0 && matches!(self.fate, Fate::Fine | Fate::Landed | Fate::Late)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    NotDone,
    Landed,
    Never,
    Late,
}

/// Runs when it is dropped armed: what becomes of a request whose caller died, or gave up, while it was on its way.
pub(super) struct OnItsWay<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnItsWay<F> {
    pub(super) fn new(abandoned: F) -> Self {
        OnItsWay(Some(abandoned))
    }

    pub(super) fn arrived(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnItsWay<F> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.0.take() {
            abandoned();
        }
    }
}

pub(super) fn network(what: &str) -> Reason {
    Reason::Network(format!("connection to the embedded cluster lost {what}"))
}

fn timeout(what: &str) -> Reason {
    Reason::Timeout(format!("the embedded cluster did not answer in time: {what}"))
}

fn no_primary() -> Reason {
    Reason::NotPrimary("the embedded cluster is electing a primary".into())
}

impl Core {
    /// Draws what is in store for an operation and sees that the cluster can be reached at all.
    pub(super) async fn begin(&self, kind: OpKind, ns: &Ns, extra_ns: u64) -> Result<Plan, Failed> {
        let (plan, down) = self.with(|s, _| (self.plan(s, kind, ns, extra_ns), s.down()));
        if down == Some(Down::Electing) {
            sleep(&self.rt, plan.before).await;
            return Err(Failed::NotDone(no_primary()));
        }
        if down == Some(Down::Unreachable) && !self.reachable_by(self.rt.now() + self.config.op_timeout).await {
            return Err(Failed::NotDone(timeout("no server could be selected")));
        }
        if plan.fate == Fate::NotDone {
            sleep(&self.rt, plan.before).await;
            return Err(Failed::NotDone(network("before anything was sent")));
        }
        Ok(plan)
    }

    fn plan(&self, s: &mut State, kind: OpKind, ns: &Ns, extra_ns: u64) -> Plan {
        s.counters.begun[kind as usize] += 1;
        let log = s.log(ns);
        let n = log.draws[kind as usize];
        log.draws[kind as usize] += 1;
        let name = log.entity;
        let entity = name ^ (u64::from(self.config.id) << 8 | kind as u64);
        let bits = self.rt.draw(super::DRAWS, entity, n);
        let l = &self.config.latency;
        let median = match kind {
            OpKind::Scan => l.scan,
            OpKind::Read => l.read,
            OpKind::Write => l.write,
            OpKind::Transact => l.transact,
            OpKind::Admin => l.admin,
            OpKind::Changes => l.changes,
            OpKind::Observe => l.read,
        };
        let percent = s.faults.latency * s.faults.latency_of.get(ns).copied().unwrap_or(100);
        let total = spread(median + Micros(extra_ns / 1_000), bits).0.saturating_mul(percent) / 10_000;
        // The answer's share of the way: an eighth to a half.
        let back = total * (1 + ((bits >> 16) & 3)) / 8;
        let dice = ((bits >> 18) & 0xF_FFFF) as u32;
        let rates = s.faults.rates(kind, ns);
        let ppm = ((u64::from(dice) * 1_000_000) >> 20) as u32;
        let fate = if ppm < rates.not_done {
            Fate::NotDone
        } else if ppm - rates.not_done < rates.unknown {
            let f = s.faults.fates;
            let sum = (f.landed + f.never + f.late).max(1);
            match ((((bits >> 38) & 0xFFFF) * u64::from(sum)) >> 16) as u32 {
                x if x < f.landed => Fate::Landed,
                x if x < f.landed + f.never => Fate::Never,
                _ => Fate::Late,
            }
        } else {
            Fate::Fine
        };
        s.busy.note(self.rt.now(), kind, name, Micros(total));
        Plan { before: Micros(total - back), after: Micros(back), fate, bits: bits.rotate_right(54) }
    }

    /// Waits until the cluster can be reached, at most until `deadline`.
    pub(super) async fn reachable_by(&self, deadline: Micros) -> bool {
        loop {
            let (down, changed) = self.with(|s, _| (s.down(), s.faults.changed.clone()));
            let notified = changed.notified();
            if down != Some(Down::Unreachable) {
                return true;
            }
            if let Either::Right(()) = race(notified, self.rt.sleep_until(deadline)).await {
                return false;
            }
        }
    }

    /// For a read at its moment of effect: the time to read at. Waits for `after`.
    pub(super) async fn read_time(&self, after: ClusterTime, bits: u64) -> Result<Ts, Failed> {
        let after = to_ts(after);
        let deadline = self.rt.now() + self.config.op_timeout;
        loop {
            let (down, majority, stale, wait, changed) =
                self.with(|s, _| (s.down(), s.majority(), s.stale(), s.wait_for(after), s.faults.changed.clone()));
            let notified = changed.notified();
            match down {
                Some(Down::Electing) => return Err(Failed::NotDone(no_primary())),
                Some(Down::Unreachable) => {}
                None => {
                    // Every other read still goes to the old primary, which answers as well as it can.
                    if let Some(old) = stale
                        && old >= after
                        && bits & 1 == 0
                    {
                        return Ok(old);
                    }
                    if majority >= after {
                        return Ok(majority);
                    }
                }
            }
            let now = self.rt.now();
            if now >= deadline {
                return Err(Failed::NotDone(timeout("the read waited for a cluster time that did not come")));
            }
            let until = match (down, wait) {
                (None, Standing::NotBefore(at)) => at.max(now + Micros::from_ms(1)).min(deadline),
                _ => deadline,
            };
            race(notified, self.rt.sleep_until(until)).await;
        }
    }

    pub(super) async fn scan(
        &self,
        ns: &Ns,
        from: Option<&Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Result<Page, Failed> {
        let per = self.config.latency.per_read_ns * limit.docs.min(100_000) as u64;
        let plan = self.begin(OpKind::Scan, ns, per).await?;
        sleep(&self.rt, plan.before).await;
        let at = self.read_time(after, plan.bits).await?;
        let page = self.with(|s, _| {
            let mut page = Page { docs: Vec::new(), end: true, at: to_time(at) };
            let Some(coll) = s.colls.get(ns) else { return page };
            let start = from.map_or(Bound::Unbounded, Bound::Excluded);
            let mut bytes = 0;
            page.docs.reserve(limit.docs.min(coll.live));
            for (key, chain) in coll.docs.range::<Key, _>((start, Bound::Unbounded)) {
                let Some(doc) = chain.at(at) else { continue };
                bytes += doc.size();
                if !page.docs.is_empty() && (page.docs.len() >= limit.docs || bytes > limit.bytes) {
                    page.end = false;
                    break;
                }
                page.docs.push((key.clone(), doc.clone()));
            }
            page
        });
        sleep(&self.rt, plan.after).await;
        Ok(page)
    }

    pub(super) async fn read(&self, ns: &Ns, keys: &[Key], after: ClusterTime) -> Result<Read, Failed> {
        let per = self.config.latency.per_read_ns * keys.len() as u64;
        let plan = self.begin(OpKind::Read, ns, per).await?;
        sleep(&self.rt, plan.before).await;
        let at = self.read_time(after, plan.bits).await?;
        let docs = self.with(|s, _| {
            let coll = s.colls.get(ns);
            let get = |k: &Key| coll.and_then(|c| c.docs.get(k)).and_then(|c| c.at(at)).cloned();
            keys.iter().map(get).collect()
        });
        sleep(&self.rt, plan.after).await;
        Ok(Read { docs, at: to_time(at) })
    }

    /// For a write at its moment of effect: `Ok(true)` when it takes effect, `Ok(false)` when it does not although it was sent.
    pub(super) fn arrives(&self, bits: u64) -> Result<bool, Failed> {
        match self.with(|s, _| s.down()) {
            None => Ok(true),
            Some(Down::Electing) if bits & 2 == 0 => Err(Failed::NotDone(no_primary())),
            Some(Down::Electing) => Err(Failed::Unknown(network("during an election"))),
            Some(Down::Unreachable) => Ok(bits & 2 == 0),
        }
    }

    /// After a write took effect: waits for its majority and for the way back.
    pub(super) async fn acknowledge(&self, ts: Ts, term: usize, deadline: Micros, plan: &Plan) -> Result<(), Failed> {
        loop {
            let (standing, changed) = self.with(|s, _| (s.standing(ts, term), s.faults.changed.clone()));
            let notified = changed.notified();
            let now = self.rt.now();
            match standing {
                Standing::Majority => break,
                Standing::Interrupted => {
                    return Err(Failed::Unknown(Reason::NotPrimary("the primary stepped down".into())));
                }
                _ if now >= deadline => return Err(Failed::Unknown(timeout("waiting for a majority"))),
                // Soon: nothing that could change on the way is worth waking up for.
                Standing::NotBefore(at) if at > now && at.since(now) < Micros::from_ms(10) => {
                    self.rt.sleep_until(at.min(deadline)).await
                }
                // What was due already waits for a member to come back, and the clock must not stop for it.
                Standing::NotBefore(at) => {
                    race(notified, self.rt.sleep_until(at.max(now + Micros::from_ms(1)).min(deadline))).await;
                }
            }
        }
        self.answer(plan).await
    }

    /// The way back of a write's answer.
    pub(super) async fn answer(&self, plan: &Plan) -> Result<(), Failed> {
        sleep(&self.rt, plan.after).await;
        if plan.fate == Fate::Landed {
            return Err(Failed::Unknown(network("while waiting for the answer")));
        }
        if self.with(|s, _| s.down()) == Some(Down::Unreachable) {
            sleep(&self.rt, self.config.op_timeout).await;
            return Err(Failed::Unknown(timeout("the answer was lost")));
        }
        Ok(())
    }

    /// The error of a write whose effect is lost, or late.
    pub(super) async fn lost(&self, plan: &Plan) -> Failed {
        sleep(&self.rt, plan.after).await;
        Failed::Unknown(network("while waiting for the answer"))
    }

    /// For a write at its moment of effect: whether it takes effect now. Otherwise its error; `late` is called when it lands after it.
    async fn takes_effect(&self, plan: &Plan, late: &(dyn Fn() + Sync)) -> Result<(), Failed> {
        match (plan.fate, self.arrives(plan.bits)?) {
            (Fate::Late, true) => late(),
            (Fate::Fine | Fate::NotDone | Fate::Landed, true) => return Ok(()),
            (Fate::Never, true) | (_, false) => {}
        }
        Err(self.lost(plan).await)
    }

    /// How long after its error a late write lands: 0.3 to 2 s.
    pub(super) fn lateness(plan: &Plan) -> Micros {
        Micros::from_ms(300 + (plan.bits >> 8) % 1_700) + plan.after
    }

    /// Runs `land` when a late request arrives; it says whether that wrote anything.
    pub(super) fn land_late(
        self: &Arc<Self>,
        plan: &Plan,
        name: &'static str,
        land: impl Fn(&Core, &mut State, Micros) -> bool + Send + 'static,
    ) {
        let (core, at) = (self.clone(), self.rt.now() + Self::lateness(plan));
        let late = async move {
            core.rt.sleep_until(at).await;
            core.with(|s, now| {
                if s.down().is_none() && land(&core, s, now) {
                    s.counters.landed_late += 1;
                }
            });
            // Dropped only now, outside the lock: it may hold a snapshot to close.
            drop(land);
        };
        self.rt.spawn(self.config.group, name, Box::pin(late));
    }

    pub(super) async fn write(self: &Arc<Self>, op: &WriteOp) -> Result<Written, Failed> {
        let ns = match op {
            WriteOp::Insert { ns, .. } | WriteOp::Replace { ns, .. } | WriteOp::Delete { ns, .. } => ns,
        };
        let plan = self.begin(OpKind::Write, ns, 0).await?;
        let deadline = self.rt.now() + self.config.majority_timeout;
        let late = || {
            let (op, bits) = (op.clone(), plan.bits);
            self.land_late(&plan, "late write", move |core, s, now| {
                core.apply(s, now, &op, bits).is_ok_and(|(_, ts)| ts.is_some())
            });
        };
        let sent = OnItsWay::new(|| {
            if plan.survives() {
                late()
            }
        });
        sleep(&self.rt, plan.before).await;
        sent.arrived();
        self.takes_effect(&plan, &late).await?;
        let (applied, newest, term) = self.with(|s, now| (self.apply(s, now, op, plan.bits), s.newest(), s.term()));
        let (matched, committed) = match applied {
            Ok(a) => a,
            Err(reason) => {
                self.answer(&plan).await?;
                return Err(Failed::NotDone(reason));
            }
        };
        // An answer that nothing matched also waits: what it saw must not be rolled back.
        let ts = committed.unwrap_or(newest);
        self.acknowledge(ts, term, deadline, &plan).await?;
        Ok(Written { matched, at: to_time(ts) })
    }

    /// Applies a plain write: how many documents matched, and the commit when there was one.
    fn apply(&self, s: &mut State, now: Micros, op: &WriteOp, bits: u64) -> Result<(u64, Option<Ts>), Reason> {
        let mut stage = Stage::plain(s, now);
        let matched = match op {
            WriteOp::Insert { ns, doc } => stage.insert(ns, doc).map(|()| 1)?,
            WriteOp::Replace { ns, key, only_if, doc, upsert } => {
                stage.replace(ns, key, only_if.as_ref(), doc, *upsert, false)?
            }
            WriteOp::Delete { ns, key, only_if } => stage.delete(ns, key, only_if.as_ref())?,
        };
        let staged: Staged = stage.finish();
        let ts = (!staged.is_empty()).then(|| staged.commit(s, &self.config, now, None, bits));
        Ok((matched, ts))
    }

    pub(super) async fn transact(self: &Arc<Self>, fence: &Fence, ops: &[TxnOp]) -> Result<TxnDone, Failed> {
        let count = |op: &TxnOp| match op {
            TxnOp::Insert { docs, .. } => docs.len(),
            TxnOp::Put { .. } => 1,
            TxnOp::Delete { keys, .. } => keys.len(),
            TxnOp::Expect { .. } => 0,
        };
        let per = self.config.latency.per_write_ns * ops.iter().map(count).sum::<usize>() as u64;
        let fences = slots::fences();
        let ns = ops.first().map_or(&fences, TxnOp::ns);
        let plan = self.begin(OpKind::Transact, ns, per).await?;
        let late = |at: Micros| at > fence.deadline;
        if late(self.rt.now()) {
            return Err(Failed::NotDone(timeout("the transaction's deadline had passed")));
        }
        // The first statement, the slot's, takes the snapshot; the others follow; then the commit is sent.
        let begin = Micros(plan.before.0 / 3);
        sleep(&self.rt, begin).await;
        self.arrives(plan.bits & !2)?;
        let txn = Arc::new(Txn::open(self));
        let commit_at = self.rt.now() + (plan.before - begin);
        if late(commit_at) {
            self.rt.sleep_until(fence.deadline).await;
            return Err(Failed::NotDone(timeout("the transaction's deadline passed before its commit")));
        }
        let late = || {
            let (txn, fence, ops, bits) = (txn.clone(), fence.clone(), ops.to_vec(), plan.bits);
            self.land_late(&plan, "late transaction", move |_, s, now| txn.commit(s, now, &fence, &ops, bits).is_ok());
        };
        // A caller that dies among the statements aborts it; one that dies after sending the commit may not.
        self.rt.sleep_until(Micros(commit_at.0 - plan.before.0 / 6)).await;
        let sent = OnItsWay::new(|| {
            if plan.survives() {
                late()
            }
        });
        self.rt.sleep_until(commit_at).await;
        sent.arrived();
        self.takes_effect(&plan, &late).await?;
        let (committed, term) = self.with(|s, now| (txn.commit(s, now, fence, ops, plan.bits), s.term()));
        drop(txn);
        let ts = match committed {
            Ok(ts) => ts,
            Err(failed) => {
                self.answer(&plan).await?;
                return Err(failed);
            }
        };
        let deadline = fence.deadline.min(self.rt.now() + self.config.majority_timeout);
        self.acknowledge(ts, term, deadline, &plan).await?;
        Ok(TxnDone { at: to_time(ts) })
    }

    pub(super) async fn observe(&self) -> Result<Observation, Failed> {
        let plan = match self.begin(OpKind::Observe, &slots::fences(), 0).await {
            // A secondary answers too.
            Err(Failed::NotDone(Reason::NotPrimary(_))) => None,
            other => Some(other?),
        };
        if let Some(plan) = &plan {
            sleep(&self.rt, plan.before + plan.after).await;
        }
        Ok(self.with(|s, now| Observation {
            server_ms: s.server_ms(now),
            majority: to_time(s.majority()),
            members: s.members(&self.config),
            oplog_window: Some(s.window(now)),
        }))
    }
}

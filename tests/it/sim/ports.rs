//! What stands between a runner and the world: a line that can be cut, calls and records that are counted and that a runner can die
//! at, a wall clock that can be set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use tidegate::cluster::embedded::Embedded;
use tidegate::cluster::{
    AdminDone, AdminOp, ChangeBatch, Changes, Cluster, ClusterTime, Failed, Fence, Key, Ns, Observation, Page,
    PageLimit, Question, Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use tidegate::journal::{JournalError, JournalStore, MemStore, Record};
use tidegate::runtime::{Either, Fut, Group, Micros, Rt, Runtime, race, sleep};
use tokio::sync::Notify;

use super::faults::{Moment, Sort};

/// How long a call on a cut line takes to fail.
const TIMEOUT: Micros = Micros::from_secs(2);

/// The line from some processes to the cluster.
#[derive(Default)]
pub struct Line {
    cut: AtomicBool,
    changed: Notify,
}

impl Line {
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Returns once the line is as wanted.
    async fn becomes(&self, cut: bool) {
        loop {
            let changed = self.changed.notified();
            if self.is_cut() == cut {
                return;
            }
            changed.await;
        }
    }
}

/// Nothing is armed.
const NEVER: u64 = u64::MAX;

/// The calls and the records of all runners of a run, counted; one of them may be where a runner dies.
#[derive(Default)]
pub struct Points {
    counts: [AtomicU64; 2],
    armed: [AtomicU64; 2],
    moment: [AtomicU64; 2],
    /// The generation that died, 0 when none has.
    died: AtomicU64,
}

impl Points {
    pub fn new() -> Arc<Points> {
        let points = Points::default();
        points.armed.iter().for_each(|a| a.store(NEVER, Ordering::SeqCst));
        Arc::new(points)
    }

    /// So many there have been.
    pub fn count(&self, sort: Sort) -> u64 {
        self.counts[sort as usize].load(Ordering::SeqCst)
    }

    /// A runner dies at the `nth` from now on, counted from 0.
    pub fn arm(&self, sort: Sort, nth: u64, moment: Moment) {
        self.moment[sort as usize].store(moment as u64, Ordering::SeqCst);
        self.armed[sort as usize].store(self.count(sort) + nth, Ordering::SeqCst);
    }

    pub fn disarm(&self) {
        self.armed.iter().for_each(|a| a.store(NEVER, Ordering::SeqCst));
    }

    /// The generation that has died at a point since this was last asked.
    pub fn take_died(&self) -> Option<u32> {
        Some(self.died.swap(0, Ordering::SeqCst) as u32).filter(|g| *g > 0)
    }

    /// Counts; answers whether to die here, and when.
    fn pass(&self, sort: Sort) -> Option<Moment> {
        let n = self.counts[sort as usize].fetch_add(1, Ordering::SeqCst);
        let due = self.armed[sort as usize].compare_exchange(n, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        due.then(|| match self.moment[sort as usize].load(Ordering::SeqCst) {
            0 => Moment::Before,
            1 => Moment::During,
            _ => Moment::After,
        })
    }
}

/// One runner, as far as it can die.
#[derive(Clone)]
pub struct Mortal {
    pub rt: Rt,
    pub points: Arc<Points>,
    pub generation: u32,
    pub groups: [Group; 2],
}

impl Mortal {
    /// Never returns.
    async fn die<T>(&self) -> T {
        self.points.died.store(u64::from(self.generation), Ordering::SeqCst);
        self.groups.iter().for_each(|g| self.rt.kill(*g));
        std::future::pending().await
    }

    /// Carries out `f`, or dies before it, in the midst of it or after it.
    async fn at<T>(&self, sort: Sort, f: impl Future<Output = T>) -> T {
        match self.points.pass(sort) {
            None => f.await,
            Some(Moment::Before) => self.die().await,
            Some(Moment::During) => {
                // Most calls take between one and ten milliseconds.
                let after = Micros(200 + 700 * (self.points.count(sort) % 10));
                let _ = race(f, sleep(&self.rt, after)).await;
                self.die().await
            }
            Some(Moment::After) => {
                let _ = f.await;
                self.die().await
            }
        }
    }
}

/// The cluster as some processes reach it: a runner, or the application.
pub struct Port {
    pub inner: Arc<Embedded>,
    pub rt: Rt,
    pub line: Arc<Line>,
    /// `None` for the application.
    pub mortal: Option<Mortal>,
    /// Lines are cut in this run: without it nobody need look.
    pub may_be_cut: bool,
}

fn lost(what: &str) -> Reason {
    Reason::Timeout(format!("the line to the cluster is cut: {what}"))
}

impl Port {
    async fn call<T>(&self, writes: bool, f: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let through = async {
            if !self.may_be_cut {
                return f.await;
            }
            if self.line.is_cut()
                && matches!(race(self.line.becomes(false), sleep(&self.rt, TIMEOUT)).await, Either::Right(()))
            {
                return Err(Failed::NotDone(lost("nothing was sent")));
            }
            match race(f, self.line.becomes(true)).await {
                Either::Left(done) => done,
                Either::Right(()) => {
                    sleep(&self.rt, TIMEOUT).await;
                    let reason = lost("no answer came");
                    Err(if writes { Failed::Unknown(reason) } else { Failed::NotDone(reason) })
                }
            }
        };
        match &self.mortal {
            Some(m) => m.at(Sort::Call, through).await,
            None => through.await,
        }
    }
}

impl Cluster for Port {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        Box::pin(self.call(false, self.inner.scan(ns, from, limit, after)))
    }

    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        Box::pin(self.call(false, self.inner.read(ns, keys, after)))
    }

    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        Box::pin(self.call(false, self.inner.ask(ns, keys, questions, after)))
    }

    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        Box::pin(self.call(false, self.inner.draw(ns, among, most)))
    }

    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        Box::pin(self.call(true, self.inner.write(op)))
    }

    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        Box::pin(self.call(true, self.inner.transact(fence, ops)))
    }

    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        Box::pin(async move {
            let stream = self.call(false, self.inner.changes(ns, from)).await?;
            let port = Port {
                inner: self.inner.clone(),
                rt: self.rt.clone(),
                line: self.line.clone(),
                mortal: self.mortal.clone(),
                may_be_cut: self.may_be_cut,
            };
            Ok(Box::new(Stream { port, stream }) as _)
        })
    }

    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        Box::pin(self.call(true, self.inner.admin(op)))
    }

    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        Box::pin(self.call(false, self.inner.observe()))
    }
}

struct Stream {
    port: Port,
    stream: Box<dyn Changes>,
}

impl Changes for Stream {
    fn next(&mut self, max_wait: Micros) -> Fut<'_, Result<ChangeBatch, Failed>> {
        Box::pin(self.port.call(false, self.stream.next(max_wait)))
    }
}

/// The journal as one runner reaches it.
pub struct Disk {
    pub store: MemStore,
    pub mortal: Mortal,
}

impl JournalStore for Disk {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(self.mortal.at(Sort::Append, self.store.append(record)))
    }

    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        self.store.load()
    }
}

/// The simulated runtime with a wall clock that can be set.
pub struct Clock {
    pub rt: Rt,
    pub off_ms: Arc<AtomicI64>,
}

impl Runtime for Clock {
    fn now(&self) -> Micros {
        self.rt.now()
    }
    fn wall_ms(&self) -> i64 {
        self.rt.wall_ms() + self.off_ms.load(Ordering::SeqCst)
    }
    fn sleep_until(&self, at: Micros) -> Fut<'static, ()> {
        self.rt.sleep_until(at)
    }
    fn spawn(&self, group: Group, name: &'static str, f: Fut<'static, ()>) {
        self.rt.spawn(group, name, f);
    }
    fn kill(&self, group: Group) {
        self.rt.kill(group);
    }
    fn blocking(&self, f: Box<dyn FnOnce() + Send>) -> Fut<'static, ()> {
        self.rt.blocking(f)
    }
    fn draw(&self, stream: u32, entity: u64, n: u64) -> u64 {
        self.rt.draw(stream, entity, n)
    }
}

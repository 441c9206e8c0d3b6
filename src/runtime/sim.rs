//! A deterministic single-threaded executor with a virtual microsecond clock.
//!
//! Tasks run in the order in which they were woken; time moves only when none can run. The same seed and inputs give the same run.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::timers::{TimerId, Timers};
use super::{Fut, Group, Micros, Runtime, keyed_hash};

/// 2026-01-05T09:00:00Z, the wall-clock time at which a simulation begins unless it says otherwise.
pub const WALL_START_MS: i64 = 1_767_603_600_000;

struct Task {
    /// In the order of spawning; a slot is used again, an id never.
    id: u64,
    group: Group,
    /// `None` while it is being polled.
    runnable: Option<(Fut<'static, ()>, Arc<TaskWaker>, Waker)>,
}

#[derive(Default)]
struct Inner {
    tasks: Vec<Option<Task>>,
    /// Slots of `tasks` that are free.
    free: Vec<usize>,
    timers: Timers,
    next_id: u64,
    /// The task being polled, and whether its group was killed meanwhile.
    running: Option<(u64, Group)>,
    running_killed: bool,
    /// Groups that stand still, and their tasks that were woken meanwhile.
    suspended: BTreeSet<Group>,
    held: Vec<Woken>,
    /// Nothing runs any more.
    is_over: bool,
}

/// A task that was woken: its slot and id.
type Woken = (usize, u64);

#[derive(Default)]
struct Ready(Mutex<VecDeque<Woken>>);

struct TaskWaker {
    woken: Woken,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.ready.0).push_back(self.woken);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a task panicked; the panic itself ends the simulation.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A simulation. Drive it with [`Machine::run_until`] or [`Machine::block_on`]; when it goes, its tasks go with it.
///
/// Tasks hold the runtime and the runtime holds its tasks: somebody has to own both.
pub struct Sim(Arc<Machine>);

/// The simulated runtime.
pub struct Machine {
    me: Weak<Machine>,
    seed: u64,
    wall_start_ms: i64,
    now: AtomicU64,
    inner: Mutex<Inner>,
    ready: Arc<Ready>,
    polls: AtomicU64,
}

impl Sim {
    /// A new simulation at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Sim::starting_at(seed, WALL_START_MS)
    }

    /// A new simulation whose wall clock starts at `wall_start_ms`, milliseconds since the Unix epoch.
    #[must_use]
    pub fn starting_at(seed: u64, wall_start_ms: i64) -> Self {
        Sim(Arc::new_cyclic(|me| Machine {
            wall_start_ms,
            me: me.clone(),
            seed,
            now: AtomicU64::new(0),
            inner: Mutex::default(),
            ready: Arc::default(),
            polls: AtomicU64::new(0),
        }))
    }
}

impl Deref for Sim {
    type Target = Arc<Machine>;
    fn deref(&self) -> &Arc<Machine> {
        &self.0
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        lock(&self.inner).is_over = true;
        let mut dead: Vec<Task> = std::mem::take(&mut lock(&self.inner).tasks).into_iter().flatten().collect();
        // Outside the lock, oldest first: as when they are killed.
        dead.sort_unstable_by_key(|t| t.id);
        drop(dead);
    }
}

impl Machine {
    /// The seed that every draw is keyed with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many times a task has been polled; a measure of work that does not depend on the machine.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::SeqCst)
    }

    /// Runs everything due up to and including `until`, then sets the clock there.
    pub fn run_until(&self, until: Micros) {
        while self.step(until) {}
        self.now.fetch_max(until.0, Ordering::SeqCst);
    }

    /// As [`Machine::run_until`], but looks after every step: ends early, the clock where it stands, when `stop` says so.
    pub fn run_watched(&self, until: Micros, mut stop: impl FnMut() -> bool) {
        while self.step(until) {
            if stop() {
                return;
            }
        }
        self.now.fetch_max(until.0, Ordering::SeqCst);
    }

    /// Lets every task of `group` stand still where it is, as a stopped process does, until [`Machine::resume`].
    pub fn suspend(&self, group: Group) {
        lock(&self.inner).suspended.insert(group);
    }

    /// Lets the group go on.
    pub fn resume(&self, group: Group) {
        let held = {
            let mut inner = lock(&self.inner);
            inner.suspended.remove(&group);
            std::mem::take(&mut inner.held)
        };
        // Those of other groups are held again when their turn comes.
        lock(&self.ready.0).extend(held);
    }

    /// Runs until `f` is done, advancing virtual time as needed; `None` when nothing is left that could finish it.
    pub fn block_on<T: Send + 'static>(&self, f: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let slot = Arc::new(Mutex::new(None));
        let out = slot.clone();
        self.spawn(
            Group(u32::MAX),
            "block_on",
            Box::pin(async move {
                let v = f.await;
                *lock(&out) = Some(v);
            }),
        );
        loop {
            if let Some(v) = lock(&slot).take() {
                return Some(v);
            }
            if !self.step(Micros::MAX) {
                return lock(&slot).take();
            }
        }
    }

    /// One step: a ready task, or else the next timer not after `limit`. False when neither is left.
    fn step(&self, limit: Micros) -> bool {
        let woken = lock(&self.ready.0).pop_front();
        if let Some(woken) = woken {
            self.poll_task(woken);
            return true;
        }
        let due = lock(&self.inner).timers.fire(limit);
        let Some((at, waker)) = due else { return false };
        self.now.fetch_max(at.0, Ordering::SeqCst);
        waker.wake();
        true
    }

    fn poll_task(&self, (slot, id): Woken) {
        let (mut future, cell, waker) = {
            let mut inner = lock(&self.inner);
            let Some(group) = inner.task(slot, id).map(|t| t.group) else { return };
            if inner.suspended.contains(&group) {
                inner.held.push((slot, id));
                return;
            }
            let Some(runnable) = inner.task(slot, id).and_then(|t| t.runnable.take()) else { return };
            inner.running = Some((id, group));
            inner.running_killed = false;
            runnable
        };
        cell.queued.store(false, Ordering::SeqCst);
        self.polls.fetch_add(1, Ordering::SeqCst);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut inner = lock(&self.inner);
        inner.running = None;
        if done || inner.running_killed {
            let task = inner.remove(slot);
            drop(inner);
            drop((task, future));
        } else if let Some(task) = inner.task(slot, id) {
            task.runnable = Some((future, cell, waker));
        }
    }
}

impl Inner {
    /// The task in a slot, unless the slot has been given to another one since.
    fn task(&mut self, slot: usize, id: u64) -> Option<&mut Task> {
        self.tasks.get_mut(slot)?.as_mut().filter(|t| t.id == id)
    }

    fn remove(&mut self, slot: usize) -> Option<Task> {
        let task = self.tasks.get_mut(slot)?.take();
        self.free.extend(task.is_some().then_some(slot));
        task
    }
}

struct SleepUntil {
    sim: Weak<Machine>,
    at: Micros,
    registered: Option<TimerId>,
}

impl Future for SleepUntil {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sim) = self.sim.upgrade() else { return Poll::Pending };
        let mut inner = lock(&sim.inner);
        if sim.now() >= self.at {
            if let Some(id) = self.registered.take() {
                inner.timers.cancel(id);
            }
            return Poll::Ready(());
        }
        match self.registered {
            Some(id) => inner.timers.update(id, cx.waker()),
            None => {
                inner.next_id += 1;
                let seq = inner.next_id;
                let id = inner.timers.set(self.at, seq, cx.waker().clone());
                drop(inner);
                self.registered = Some(id);
            }
        }
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        if let (Some(id), Some(sim)) = (self.registered, self.sim.upgrade()) {
            lock(&sim.inner).timers.cancel(id);
        }
    }
}

impl Runtime for Machine {
    fn now(&self) -> Micros {
        Micros(self.now.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        self.wall_start_ms + self.now().as_ms() as i64
    }

    fn sleep_until(&self, at: Micros) -> Fut<'static, ()> {
        Box::pin(SleepUntil { sim: self.me.clone(), at, registered: None })
    }

    fn spawn(&self, group: Group, _name: &'static str, f: Fut<'static, ()>) {
        let woken = {
            let mut inner = lock(&self.inner);
            if inner.is_over {
                drop(inner);
                // A destructor's last wish: outside the lock, as it may have one too.
                return drop(f);
            }
            inner.next_id += 1;
            let id = inner.next_id;
            let slot = inner.free.pop().unwrap_or(inner.tasks.len());
            let cell =
                Arc::new(TaskWaker { woken: (slot, id), queued: AtomicBool::new(true), ready: self.ready.clone() });
            let waker = cell.clone().into();
            let task = Some(Task { id, group, runnable: Some((f, cell, waker)) });
            match inner.tasks.get_mut(slot) {
                Some(free) => *free = task,
                None => inner.tasks.push(task),
            }
            (slot, id)
        };
        lock(&self.ready.0).push_back(woken);
    }

    fn kill(&self, group: Group) {
        let mut inner = lock(&self.inner);
        let mut of_group: Vec<(u64, usize)> = (inner.tasks.iter().enumerate())
            .filter_map(|(slot, t)| t.as_ref().filter(|t| t.group == group).map(|t| (t.id, slot)))
            .collect();
        of_group.sort_unstable();
        let mut dead = Vec::new();
        for (id, slot) in of_group {
            if inner.running.is_some_and(|(r, _)| r == id) {
                inner.running_killed = true;
            } else {
                dead.extend(inner.remove(slot));
            }
        }
        drop(inner);
        // Dropped outside the lock, oldest first: a destructor may wake or cancel a timer.
        drop(dead);
    }

    fn blocking(&self, f: Box<dyn FnOnce() + Send>) -> Fut<'static, ()> {
        Box::pin(async move { f() })
    }

    fn draw(&self, stream: u32, entity: u64, n: u64) -> u64 {
        keyed_hash(self.seed, stream, entity, n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runtime::{Either, Rt, race, sleep};

    #[test]
    fn virtual_time_moves_only_when_nothing_can_run() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let out = sim.block_on(async move {
            sleep(&rt, Micros(200)).await;
            let a = rt.now();
            sleep(&rt, Micros::from_secs(3_600)).await;
            (a, rt.now())
        });
        assert_eq!(out, Some((Micros(200), Micros(3_600_000_200))));
    }

    #[test]
    fn the_left_future_wins_a_tie() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let left = sim.block_on(async move {
            matches!(race(sleep(&rt, Micros(5)), sleep(&rt, Micros(5))).await, Either::Left(()))
        });
        assert_eq!(left, Some(true));
    }

    #[test]
    fn killing_a_group_drops_its_tasks_and_timers() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let hits = Arc::new(Mutex::new(0));
        for g in [1, 2] {
            let (rt2, hits) = (rt.clone(), hits.clone());
            rt.spawn(
                Group(g),
                "t",
                Box::pin(async move {
                    loop {
                        sleep(&rt2, Micros(10)).await;
                        *lock(&hits) += 1;
                    }
                }),
            );
        }
        sim.run_until(Micros(100));
        assert_eq!(*lock(&hits), 20);
        rt.kill(Group(1));
        sim.run_until(Micros(200));
        assert_eq!(*lock(&hits), 30);
        assert_eq!(lock(&sim.inner).timers.len(), 1);
    }

    #[test]
    fn a_task_may_kill_its_own_group() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let rt2 = rt.clone();
        rt.spawn(
            Group(1),
            "suicide",
            Box::pin(async move {
                rt2.kill(Group(1));
                sleep(&rt2, Micros(1)).await;
                unreachable!("a killed task does not run on");
            }),
        );
        sim.run_until(Micros(100));
        assert!(lock(&sim.inner).tasks.iter().all(Option::is_none));
    }

    /// Each run of a long one left all its data behind: its tasks held the runtime that held them.
    #[test]
    fn tasks_go_with_the_simulation_and_whatever_they_still_want_too() {
        struct LastWish(Rt, u32);
        impl Drop for LastWish {
            fn drop(&mut self) {
                if let Some(fewer) = self.1.checked_sub(1) {
                    let next = LastWish(self.0.clone(), fewer);
                    self.0.spawn(Group(2), "last wish", Box::pin(async move { drop(next) }));
                }
            }
        }
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let left = Arc::downgrade(&sim);
        let (rt2, wish) = (rt.clone(), LastWish(rt.clone(), 3));
        rt.spawn(
            Group(1),
            "t",
            Box::pin(async move {
                sleep(&rt2, Micros(1_000)).await;
                drop(wish);
            }),
        );
        drop(rt);
        sim.run_until(Micros(10));
        drop(sim);
        assert!(left.upgrade().is_none());
    }

    #[test]
    fn a_suspended_group_stands_still_and_goes_on() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let ticks = Arc::new(Mutex::new(Vec::new()));
        for g in [1, 2] {
            let (rt2, ticks) = (rt.clone(), ticks.clone());
            rt.spawn(
                Group(g),
                "t",
                Box::pin(async move {
                    loop {
                        sleep(&rt2, Micros(10)).await;
                        lock(&ticks).push((g, rt2.now().0));
                    }
                }),
            );
        }
        sim.run_until(Micros(5));
        sim.suspend(Group(1));
        sim.run_until(Micros(35));
        assert_eq!(*lock(&ticks), [(2, 10), (2, 20), (2, 30)]);
        sim.resume(Group(1));
        sim.run_until(Micros(45));
        // What was due long ago is late, not lost, and happens once.
        assert_eq!(lock(&ticks)[3..], [(1, 35), (2, 40), (1, 45)]);
    }

    #[test]
    fn a_watched_run_stops_where_it_is_told_to() {
        let sim = Sim::new(1);
        let rt: Rt = sim.clone();
        let rt2 = rt.clone();
        rt.spawn(
            Group(1),
            "t",
            Box::pin(async move {
                loop {
                    sleep(&rt2, Micros(10)).await;
                }
            }),
        );
        sim.run_watched(Micros(100), || sim.now() >= Micros(30));
        assert_eq!(sim.now(), Micros(30));
        sim.run_watched(Micros(100), || false);
        assert_eq!(sim.now(), Micros(100));
    }

    #[test]
    fn draws_are_keyed_not_sequential() {
        let sim = Sim::new(9);
        let a = sim.draw(1, 2, 3);
        let _ = sim.draw(1, 2, 4);
        assert_eq!(a, sim.draw(1, 2, 3));
        assert_ne!(a, Sim::new(10).draw(1, 2, 3));
    }
}

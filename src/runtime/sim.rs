//! A deterministic single-threaded executor with a virtual microsecond clock.
//!
//! Tasks run in the order in which they were woken; time moves only when none can run. The same seed and inputs give the same run.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::{Fut, Group, Micros, Runtime, keyed_hash};

/// 2026-01-05T09:00:00Z, the wall-clock time at which a simulation begins unless it says otherwise.
pub const WALL_START_MS: i64 = 1_767_603_600_000;

struct Task {
    group: Group,
    future: Option<Fut<'static, ()>>,
    waker: Waker,
}

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(Micros, u64), Waker>,
    next_id: u64,
    /// The task being polled, and whether its group was killed meanwhile.
    running: Option<(u64, Group)>,
    running_killed: bool,
}

#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

struct TaskWaker {
    id: u64,
    queued: Mutex<bool>,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        let mut queued = lock(&self.queued);
        if !*queued {
            *queued = true;
            lock(&self.ready.0).push_back(self.id);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a task panicked; the panic itself ends the simulation.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated runtime. Drive it with [`Sim::run_until`] or [`Sim::block_on`].
pub struct Sim {
    me: Weak<Sim>,
    seed: u64,
    wall_start_ms: i64,
    now: Mutex<Micros>,
    inner: Mutex<Inner>,
    ready: Arc<Ready>,
    wakers: Mutex<BTreeMap<u64, Arc<TaskWaker>>>,
    polls: Mutex<u64>,
}

impl Sim {
    /// A new simulation at time zero.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Sim::starting_at(seed, WALL_START_MS)
    }

    /// A new simulation whose wall clock starts at `wall_start_ms`, milliseconds since the Unix epoch.
    #[must_use]
    pub fn starting_at(seed: u64, wall_start_ms: i64) -> Arc<Self> {
        Arc::new_cyclic(|me| Sim {
            wall_start_ms,
            me: me.clone(),
            seed,
            now: Mutex::new(Micros::ZERO),
            inner: Mutex::default(),
            ready: Arc::default(),
            wakers: Mutex::default(),
            polls: Mutex::new(0),
        })
    }

    /// The seed that every draw is keyed with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many times a task has been polled; a measure of work that does not depend on the machine.
    #[must_use]
    pub fn polls(&self) -> u64 {
        *lock(&self.polls)
    }

    /// Runs everything due up to and including `until`, then sets the clock there.
    pub fn run_until(&self, until: Micros) {
        while self.step(until) {}
        let mut now = lock(&self.now);
        *now = (*now).max(until);
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
        let id = lock(&self.ready.0).pop_front();
        if let Some(id) = id {
            self.poll_task(id);
            return true;
        }
        let due = {
            let mut inner = lock(&self.inner);
            let Some((&(at, seq), _)) = inner.timers.first_key_value() else { return false };
            if at > limit {
                return false;
            }
            let waker = inner.timers.remove(&(at, seq));
            let mut now = lock(&self.now);
            *now = (*now).max(at);
            waker
        };
        if let Some(w) = due {
            w.wake();
        }
        true
    }

    fn poll_task(&self, id: u64) {
        let (mut future, waker) = {
            let mut inner = lock(&self.inner);
            let Some(task) = inner.tasks.get_mut(&id) else { return };
            let Some(future) = task.future.take() else { return };
            let (group, waker) = (task.group, task.waker.clone());
            inner.running = Some((id, group));
            inner.running_killed = false;
            (future, waker)
        };
        if let Some(w) = lock(&self.wakers).get(&id) {
            *lock(&w.queued) = false;
        }
        *lock(&self.polls) += 1;
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut inner = lock(&self.inner);
        inner.running = None;
        if done || inner.running_killed {
            inner.tasks.remove(&id);
            drop(inner);
            lock(&self.wakers).remove(&id);
            drop(future);
        } else if let Some(task) = inner.tasks.get_mut(&id) {
            task.future = Some(future);
        }
    }
}

struct SleepUntil {
    sim: Weak<Sim>,
    at: Micros,
    registered: Option<u64>,
}

impl Future for SleepUntil {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sim) = self.sim.upgrade() else { return Poll::Pending };
        if *lock(&sim.now) >= self.at {
            return Poll::Ready(());
        }
        let mut inner = lock(&sim.inner);
        let seq = match self.registered {
            Some(seq) => seq,
            None => {
                inner.next_id += 1;
                inner.next_id
            }
        };
        inner.timers.insert((self.at, seq), cx.waker().clone());
        drop(inner);
        self.registered = Some(seq);
        Poll::Pending
    }
}

impl Drop for SleepUntil {
    fn drop(&mut self) {
        if let (Some(seq), Some(sim)) = (self.registered, self.sim.upgrade()) {
            lock(&sim.inner).timers.remove(&(self.at, seq));
        }
    }
}

impl Runtime for Sim {
    fn now(&self) -> Micros {
        *lock(&self.now)
    }

    fn wall_ms(&self) -> i64 {
        self.wall_start_ms + self.now().as_ms() as i64
    }

    fn sleep_until(&self, at: Micros) -> Fut<'static, ()> {
        Box::pin(SleepUntil { sim: self.me.clone(), at, registered: None })
    }

    fn spawn(&self, group: Group, _name: &'static str, f: Fut<'static, ()>) {
        let mut inner = lock(&self.inner);
        inner.next_id += 1;
        let id = inner.next_id;
        let waker = Arc::new(TaskWaker { id, queued: Mutex::new(true), ready: self.ready.clone() });
        lock(&self.wakers).insert(id, waker.clone());
        inner.tasks.insert(id, Task { group, future: Some(f), waker: waker.into() });
        drop(inner);
        lock(&self.ready.0).push_back(id);
    }

    fn kill(&self, group: Group) {
        let mut dead = Vec::new();
        let mut inner = lock(&self.inner);
        let ids: Vec<u64> = inner.tasks.iter().filter(|(_, t)| t.group == group).map(|(id, _)| *id).collect();
        for id in ids {
            if inner.running.is_some_and(|(r, _)| r == id) {
                inner.running_killed = true;
            } else if let Some(t) = inner.tasks.remove(&id) {
                lock(&self.wakers).remove(&id);
                dead.push(t);
            }
        }
        drop(inner);
        // Dropped outside the lock: a destructor may wake or cancel a timer.
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
        assert!(lock(&sim.inner).tasks.is_empty());
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

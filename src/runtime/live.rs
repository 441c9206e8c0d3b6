//! The runtime of a real rollout: tokio's clock, tasks and blocking pool, and the operating system's wall clock.
// The only place (with `sim`) that may read a clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Fut, Group, Micros, Runtime, keyed_hash};

/// Runs tasks on the tokio runtime it was created in.
pub struct Live {
    began: Instant,
    handle: Handle,
    seed: u64,
    tasks: Mutex<BTreeMap<Group, Vec<AbortHandle>>>,
}

impl Live {
    /// Uses the tokio runtime behind `handle`. The seed comes from the clock and the operating system: live draws need not repeat, and
    /// those of two processes that start at the same moment must not be the same.
    #[must_use]
    pub fn new(handle: Handle) -> Arc<Self> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let seed = RandomState::new().hash_one((clock, std::process::id()));
        Arc::new(Live { began: Instant::now(), handle, seed, tasks: Mutex::default() })
    }
}

impl Runtime for Live {
    fn now(&self) -> Micros {
        Micros(self.began.elapsed().as_micros() as u64)
    }

    fn wall_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
    }

    fn sleep_until(&self, at: Micros) -> Fut<'static, ()> {
        let deadline = self.began + Duration::from_micros(at.0.min(u64::MAX / 4));
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn spawn(&self, group: Group, _name: &'static str, f: Fut<'static, ()>) {
        let task = self.handle.spawn(f);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let list = tasks.entry(group).or_default();
        list.retain(|t| !t.is_finished());
        list.push(task.abort_handle());
    }

    fn kill(&self, group: Group) {
        let list = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        for t in list.unwrap_or_default() {
            t.abort();
        }
    }

    fn blocking(&self, f: Box<dyn FnOnce() + Send>) -> Fut<'static, ()> {
        let task = self.handle.spawn_blocking(f);
        Box::pin(async move {
            // The closure cannot be cancelled once started, and a panic in it has been reported by the panic hook.
            let _ = task.await;
        })
    }

    fn draw(&self, stream: u32, entity: u64, n: u64) -> u64 {
        keyed_hash(self.seed, stream, entity, n)
    }
}

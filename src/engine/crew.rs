//! Several who do one piece of work side by side, in turns: how they come to its end. What the work is they know themselves.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::ctx::Halt;
use crate::runtime::{Either, race};

/// What they share.
#[derive(Default)]
pub(super) struct Crew {
    /// Nobody begins another piece: there is none, or somebody stopped.
    over: AtomicBool,
    /// The engine is stopping.
    left: AtomicBool,
    changed: Notify,
}

impl Crew {
    /// Nobody begins another piece.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.tell();
    }

    /// The work is to be left.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
        self.end();
    }

    /// True when nobody is to begin another piece.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// True when it was left before its end.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// Something changed that [`Crew::until`] may wait for.
    pub(super) fn tell(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `ready` answers; it is asked again whenever something changes.
    pub(super) async fn until<T>(&self, ready: impl Fn() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(t) = ready() {
                return t;
            }
            changed.await;
        }
    }

    /// Waits for something, unless the work is over first: who is paused does not keep the failure of another secret.
    pub(super) async fn unless_over<T>(&self, f: impl Future<Output = T>) -> Option<T> {
        match race(f, self.until(|| self.is_over().then_some(()))).await {
            Either::Left(v) => Some(v),
            Either::Right(()) => None,
        }
    }

    /// One of them, whose failure ends the work of all.
    pub(super) async fn one(&self, work: impl Future<Output = Result<(), Halt>>) -> Result<(), Halt> {
        let ended = work.await;
        if ended.is_err() {
            self.end();
        }
        ended
    }
}

/// The outcome of all. Who let go may begin again; any other reason is final and goes first.
pub(super) fn joined(ended: Vec<Result<(), Halt>>) -> Result<(), Halt> {
    let mut halts: Vec<Halt> = ended.into_iter().filter_map(Result::err).collect();
    let first = halts.iter().position(|h| *h != Halt::LetGo).unwrap_or(0);
    if halts.is_empty() { Ok(()) } else { Err(halts.swap_remove(first)) }
}

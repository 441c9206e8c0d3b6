//! A migration in place: both shapes live in one collection, and `undo` keeps what every document was (DESIGN rule 13).
//!
//! There are no two sides to keep in step, only a shape that every document is to have: next's on the way there, legacy's on the way
//! back. A document is written by one transaction over the very bytes it was read with, so that no edit is ever overwritten.

mod carry;
mod compare;
pub(crate) mod judge;
mod pass;
pub(super) mod record;
mod tasks;
mod view;

use std::sync::Mutex;

use tokio::sync::Notify;

pub(super) use carry::{Source, carry, prove};
pub(super) use compare::pass as reconcile;
pub(super) use tasks::run;
pub(super) use view::{rest, way_back};

use super::ctx::{Ctx, lock};
use crate::cluster::{CONTROL_DB, Key, Ns};
use crate::plan::Collection;
use crate::runtime::Micros;
use crate::transform::Shape;
pub(super) use judge::Way;

/// Where pre-images are kept, on the cluster of the collection.
pub(super) fn undo_ns() -> Ns {
    Ns::new(CONTROL_DB, "undo")
}

/// Which way it goes, and who is at it.
#[derive(Default)]
struct Turn {
    way: Way,
    /// Transactions under way, by their way.
    busy: [usize; 2],
    /// When a worker last found a document that an application had written in the other shape, and which.
    other: Option<(Micros, Key)>,
}

/// What the actors of a migration in place share.
pub(super) struct InPlace {
    pub shape: Shape,
    /// Taken up again, after a crash or by another process.
    pub resumed: bool,
    turn: Mutex<Turn>,
    changed: Notify,
}

impl InPlace {
    /// `None` for a plan with two collections.
    pub(super) fn of(collection: &Collection, resumed: bool) -> Option<InPlace> {
        let shape = collection.shape.as_ref().filter(|_| collection.in_place())?;
        Some(InPlace { shape: Shape::new(shape), resumed, turn: Mutex::default(), changed: Notify::new() })
    }

    /// The way it goes now.
    pub(super) fn way(&self) -> Way {
        lock(&self.turn).way
    }

    /// Turns to `way`. When this returns, no transaction of the other way is under way or of unknown outcome: a document that is right
    /// from here on is not written by it any more.
    pub(super) async fn turn(&self, ctx: &Ctx, way: Way) {
        {
            let mut turn = lock(&self.turn);
            if turn.way != way {
                *turn = Turn { way, busy: turn.busy, other: None };
            }
        }
        loop {
            let changed = self.changed.notified();
            if lock(&self.turn).busy[way.other() as usize] == 0 {
                return;
            }
            ctx.wait(changed, Micros::from_ms(50)).await;
        }
    }

    /// Before a transaction is made up, until its outcome is known.
    fn begin(&self) -> Working<'_> {
        let mut turn = lock(&self.turn);
        let way = turn.way;
        turn.busy[way as usize] += 1;
        Working { place: self, way }
    }

    fn saw_other(&self, at: Micros, key: &Key) {
        lock(&self.turn).other = Some((at, key.clone()));
    }

    /// When a document that an application had written in the other shape was last found, and which.
    fn last_other(&self) -> Option<(Micros, Key)> {
        lock(&self.turn).other.clone()
    }
}

/// Somebody is at it, this way.
struct Working<'a> {
    place: &'a InPlace,
    way: Way,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        lock(&self.place.turn).busy[self.way as usize] -= 1;
        self.place.changed.notify_waiters();
    }
}

//! The pure core: what a rollout is, what may happen next, and what a journal means.
//!
//! [`decide`] turns a state and an input into events, [`State::apply`] folds an event into the state. No async, no clock, no I/O,
//! no randomness: the same inputs give the same events, and replaying a journal gives the state it was written from. Effects are
//! never carried out here; the engine does that, after the event that intends them is durable.

mod decide;
mod event;
mod hooks;
mod in_place;
mod observe;
mod payload;
mod state;
mod task;

pub use decide::{GateSummary, Input, Refusal, decide, no_way_back};
pub use event::{Event, EventError};
pub use hooks::{Awaits, Delivery, Outbox};
pub use state::{Back, Sealed, State, Status, Switched};
pub use task::{Task, back_tasks, tasks_of};

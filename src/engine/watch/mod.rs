//! A rollout seen and steered from other terminals, through the control database.
//!
//! The holder of the lease publishes its picture (`view`) and takes commands (`asked`); whoever watches reads the one and writes the
//! others, without a lease and without a fence. A command is carried out by the runner, and at most once: its id is in the journal
//! before anything is done for it, and an id that is in the journal is never carried out again, whoever takes the rollout up.

mod asked;
mod hold;
mod look;
mod view;

pub(super) use asked::elsewhere;
pub use asked::{Answer, Asked, Wish, answer, ask, commands_ns};
pub(super) use hold::{Order, Published, amended, publish, publish_end, take_commands};
pub use look::{Looker, Seen, time};
pub(super) use view::Pen;
pub use view::{VIEW_MAX, View, ViewError, read_view, views_ns};

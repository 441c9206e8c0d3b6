//! Calling out: a plan's commands and webhooks, behind a port. Nothing is decided here, and nothing comes back but how it went.
//!
//! What is called is told what happened; no connection string reaches it by itself. What it answers is cut, masked and scrubbed
//! before anybody sees it. [`Hooks::default`] calls nothing and says so: what drills and simulations have.

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "mongo")]
mod command;
#[cfg(feature = "mongo")]
mod flag_file;
#[cfg(feature = "mongo")]
mod mask;
#[cfg(feature = "mongo")]
mod outside;
#[cfg(feature = "mongo")]
mod webhook;

#[cfg(feature = "mongo")]
pub use outside::missing;

use crate::plan::Hook;
use crate::runtime::{Fut, Rt};

/// One call of a hook.
#[derive(Clone, Debug)]
pub struct Call {
    /// The hook.
    pub hook: Hook,
    /// What for, in a word.
    pub on: String,
    /// The same for this hook and what happened, however often it is called.
    pub event_id: String,
    /// What it is told, JSON.
    pub body: String,
    /// What a command sees in its environment besides.
    pub env: Vec<(&'static str, String)>,
}

/// How one attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// It succeeded: exit code 0, or a status of 2xx.
    pub ok: bool,
    /// It failed in a way that may pass.
    pub again: bool,
    /// In words without secrets.
    pub outcome: String,
    /// A command's exit code.
    pub exit: Option<i32>,
    /// A webhook's status.
    pub status: Option<u16>,
    /// The end of what it answered, without secrets and safe to show.
    pub output: String,
}

/// The port to what hooks call.
pub trait Caller: Send + Sync + 'static {
    /// One attempt, over within the hook's time-out.
    fn call<'a>(&'a self, rt: &'a Rt, call: &'a Call) -> Fut<'a, Attempt>;

    /// Puts a flag file there whole, or leaves the one that is there. The error says why not.
    fn keep<'a>(&'a self, rt: &'a Rt, file: Keep<'a>) -> Fut<'a, Result<(), String>>;
}

/// A flag file to be put somewhere.
#[derive(Clone, Debug)]
pub struct Keep<'a> {
    /// Where.
    pub path: &'a str,
    /// Whose it is: another one's is not overwritten.
    pub set: &'a str,
    /// How new: a newer one is not overwritten.
    pub epoch: i64,
    /// What it says.
    pub text: String,
}

/// Who calls a plan's hooks.
#[derive(Clone)]
pub struct Hooks(pub Arc<dyn Caller>);

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks(Arc::new(Nothing))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Real processes, and a real network.
    #[cfg(feature = "mongo")]
    #[must_use]
    pub fn live() -> Hooks {
        Hooks(Arc::new(outside::Outside))
    }
}

/// Nothing leaves a drill.
struct Nothing;

impl Caller for Nothing {
    fn call<'a>(&'a self, _: &'a Rt, call: &'a Call) -> Fut<'a, Attempt> {
        let outcome = format!("nothing is called in a drill; it would have been `{}`", call.hook.call.text());
        Box::pin(async move { Attempt { ok: true, outcome, ..Attempt::default() } })
    }

    fn keep<'a>(&'a self, _: &'a Rt, _: Keep<'a>) -> Fut<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

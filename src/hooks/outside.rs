//! The live end of hooks: what is called for real, and what keeps it from being called.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::mask::Secrets;
use super::{Attempt, Call, Caller, Keep, command, flag_file, webhook};
use crate::plan::{Hook, HookCall};
use crate::runtime::{Fut, Rt};
use crate::scrub;

/// Real processes, and a real network.
pub(super) struct Outside;

impl Caller for Outside {
    fn call<'a>(&'a self, rt: &'a Rt, call: &'a Call) -> Fut<'a, Attempt> {
        match &call.hook.call {
            HookCall::Command { argv, env } => Box::pin(command::run(rt, call, argv, env)),
            HookCall::Webhook { url, headers } => Box::pin(webhook::post(rt, call, url, headers)),
        }
    }

    fn keep<'a>(&'a self, rt: &'a Rt, file: Keep<'a>) -> Fut<'a, Result<(), String>> {
        Box::pin(async move {
            let (path, set, answer) = (PathBuf::from(file.path), file.set.to_owned(), Arc::new(Mutex::new(None)));
            let (epoch, slot) = (file.epoch, answer.clone());
            rt.blocking(Box::new(move || {
                let kept = flag_file::replace(&path, &set, epoch, file.text.as_bytes());
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            }))
            .await;
            let kept = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            kept.unwrap_or_else(|| Err("it was not written".into()))
        })
    }
}

/// What keeps a hook from being called on this machine; `None` when nothing is known to. Looks, and calls nothing.
#[must_use]
pub fn missing(hook: &Hook) -> Option<String> {
    let mut secrets = Secrets::default();
    if let Some(why) = hook.call.texts().find_map(|t| secrets.fill_in(t).err()) {
        return Some(why);
    }
    let HookCall::Command { argv, .. } = &hook.call else { return None };
    let program = Path::new(argv.first()?);
    let found = match program.components().count() {
        1 => std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join(program).is_file()),
        _ => program.is_file(),
    };
    (!found).then(|| format!("the program `{}` is not there", scrub::short(&program.display().to_string(), 80)))
}

/// An attempt that failed for good.
pub(super) fn failed(outcome: impl Into<String>) -> Attempt {
    Attempt { outcome: outcome.into(), ..Attempt::default() }
}

/// An attempt that may go better another time.
pub(super) fn try_again(outcome: impl Into<String>) -> Attempt {
    Attempt { again: true, ..failed(outcome) }
}

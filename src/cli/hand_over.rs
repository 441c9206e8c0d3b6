//! Handing a rollout over to a process of its own, without a screen: the one that has stopped at a safe point starts it and waits for
//! its first picture.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::live::World;
use super::run::Common;
use super::{DONE, NEEDS_OPERATOR, out, shown};
use crate::engine::watch::Looker;
use crate::runtime::Micros;

/// How long the other process may take to publish.
const WITHIN: Micros = Micros::from_secs(30);

/// Starts it and waits until it carries the rollout on. `epoch` is the one that was given back. Answers with the exit code.
pub(super) fn hand_over(args: &Common, world: &World, journal: &Path, epoch: i64) -> u8 {
    let log = PathBuf::from(format!("{}.log", world.plan.id));
    let failed = |why: &str| {
        out::say(&format!("not handed over: {why}; the rollout is stopped at a safe point, `tidegate resume` goes on"));
        NEEDS_OPERATOR
    };
    if world.plan.observes() {
        return failed("nothing is written on the cluster, where the other process would be seen");
    }
    match super::read_plan(&args.plan) {
        Ok(plan) if plan.hash == world.plan.hash => {}
        _ => return failed(&format!("{} is not the plan that runs, which was amended", shown(&args.plan))),
    }
    let mut child = match start(args, journal, &log) {
        Ok(child) => child,
        Err(e) => return failed(&format!("no process could be started: {e}")),
    };
    let mut looker = Looker::new(&world.rt, &world.clusters[0], &world.plan.id);
    let until = world.rt.now() + WITHIN;
    while world.rt.now() < until {
        // Its first picture: a lease alone would say nothing of a process that has it and then finds that it cannot go on.
        let view = world.block_on(looker.look()).ok().and_then(|s| s.view);
        let ended = child.try_wait().ok().flatten();
        if ended.is_none() && view.is_some_and(|v| v.epoch > epoch && v.ended.is_none()) {
            let (pid, plan) = (child.id(), shown(&args.plan));
            out::say(&format!("handed over to process {pid}, which logs to {}", shown(&log)));
            out::say(&format!("`tidegate watch {plan}` comes back to it"));
            return DONE;
        }
        if let Some(status) = ended {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing");
            return failed(&format!("the process ended ({status}): {}", crate::scrub::short(last, 300)));
        }
        world.pause(200);
    }
    failed(&format!("process {} has not taken it up within {WITHIN}; it may yet", child.id()))
}

/// In a process group of its own, so that whatever ends this terminal's processes does not end it.
fn start(args: &Common, journal: &Path, log: &Path) -> std::io::Result<Child> {
    let mut options = File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(log)?;
    let mut words: Vec<OsString> = vec!["resume".into(), args.plan.clone().into(), "--headless".into()];
    words.extend(["--journal".into(), journal.into()]);
    if let Some(name) = &args.name {
        words.extend(["--as".into(), name.into()]);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()
}

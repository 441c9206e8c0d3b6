//! A command: JSON on its standard input, its exit code as the answer.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use futures_util::future::join3;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::mask::{Secrets, Tail};
use super::outside::{failed, try_again};
use super::{Attempt, Call};
use crate::runtime::{Either, Micros, Rt, race, sleep, timeout};

/// What a command sees of tidegate's own environment: nothing that holds a connection string.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// How long the answer of a command that has ended is waited for: what it left running may hold the pipe open.
const PIPES: Micros = Micros::from_ms(500);

pub(super) async fn run(rt: &Rt, call: &Call, argv: &[String], env: &[(String, String)]) -> Attempt {
    let mut secrets = Secrets::default();
    let Some((program, args)) = argv.split_first() else { return failed("no program is named") };
    let mut command = Command::new(program);
    command.args(args).env_clear().kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(INHERITED.iter().filter_map(|n| Some((n, std::env::var_os(n)?))));
    command.env("TIDEGATE_EVENT", &call.on).env("TIDEGATE_EVENT_ID", &call.event_id);
    command.envs(call.env.iter().map(|(name, text)| (name, text)));
    for (name, text) in env {
        match secrets.fill_in(text) {
            Ok(value) => command.env(name, value),
            Err(why) => return failed(why),
        };
    }
    // A group of its own: Ctrl-C is tidegate's, and what the command has started ends with it.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return failed(secrets.clean(&format!("it cannot be started: {e}"))),
    };
    let tail = Mutex::new(Tail::default());
    let mut leash = Leash::on(&child);
    let ended = timeout(rt, call.hook.timeout, finish(rt, &mut child, &call.body, &tail)).await;
    if ended.is_some() {
        leash.let_go();
    }
    drop(leash);
    let output = secrets.clean_tail(&tail.lock().unwrap_or_else(PoisonError::into_inner));
    let attempt = match ended {
        None => try_again(format!("killed: it had not ended after {}", call.hook.timeout)),
        Some(Err(e)) => try_again(secrets.clean(&format!("it cannot be waited for: {e}"))),
        Some(Ok(status)) => judge(status),
    };
    Attempt { output, ..attempt }
}

/// Feeds it, listens to it, and waits for its end.
async fn finish(rt: &Rt, child: &mut Child, body: &str, tail: &Mutex<Tail>) -> std::io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is told may be right all the same.
            let _ = stdin.write_all(body.as_bytes()).await;
        }
    };
    let mut pipes = std::pin::pin!(join3(feed, listen(stdout, tail), listen(stderr, tail)));
    match race(child.wait(), pipes.as_mut()).await {
        Either::Left(status) => {
            let _ = race(pipes, sleep(rt, PIPES)).await;
            status
        }
        Either::Right(_) => child.wait().await,
    }
}

async fn listen(pipe: Option<impl AsyncRead + Unpin>, tail: &Mutex<Tail>) {
    let Some(mut pipe) = pipe else { return };
    let mut buf = [0; 4_096];
    while let Ok(n @ 1..) = pipe.read(&mut buf).await {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buf[..n]);
    }
}

fn judge(status: ExitStatus) -> Attempt {
    match status.code() {
        Some(0) => Attempt { ok: true, outcome: "exit code 0".into(), exit: Some(0), ..Attempt::default() },
        Some(code) => Attempt { exit: Some(code), ..try_again(format!("exit code {code}")) },
        None => try_again(format!("it was ended from outside ({status})")),
    }
}

/// Ends the whole group of a command that is not waited for any more.
struct Leash(Option<u32>);

impl Leash {
    fn on(child: &Child) -> Leash {
        Leash(child.id())
    }

    /// It has ended by itself; what it left running is meant to.
    fn let_go(&mut self) {
        self.0 = None;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(pid) = self.0.and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

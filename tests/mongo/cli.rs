//! The program against a real replica set: the simulated application on one side, a rollout on the other.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use libtest_mimic::Trial;
use serde_json::Value;

use super::canary::{self, Dir};
use super::{R, ReplSet, on_shared};

/// `NAME` is the rollout's.
pub const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-NAME"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "cli_NAME.orders"
next = "cli_NAME.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { convert = "total", from = "string", to = "decimal" }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "1s"
[[stage]]
id = "full"
reads = 100
writes = 100
soak = "1s"
[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#;

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("cli::a_rollout_is_completed_under_traffic", |set| async move {
            tokio::task::spawn_blocking(move || completed(&set)).await.map_err(|e| e.to_string())?
        }),
        on_shared("cli::a_rollout_is_stopped_refused_and_resumed_under_traffic", |set| async move {
            tokio::task::spawn_blocking(move || stopped(&set)).await.map_err(|e| e.to_string())?
        }),
    ]
}

/// A directory with the plan of a rollout of its own.
fn plan(name: &str) -> Result<Dir, String> {
    let dir = Dir::new()?;
    std::fs::write(dir.path().join("plan.toml"), PLAN.replace("NAME", name)).map_err(|e| e.to_string())?;
    Ok(dir)
}

fn start(set: &Arc<ReplSet>, dir: &Path, args: &[&str]) -> Result<std::process::Child, String> {
    tidegate(set, dir, args).spawn().map_err(|e| e.to_string())
}

fn check(what: &str, ok: bool, said: &str) -> R {
    if ok { Ok(()) } else { Err(format!("{what}: {said}")) }
}

const WORKLOAD: [&str; 8] =
    ["workload", "plan.toml", "--documents", "500", "--ops", "60", "--until-finished", "--json"];

fn tidegate(set: &Arc<ReplSet>, dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    c.args(args).current_dir(dir).env("TIDEGATE_URI", set.uri()).stdin(Stdio::null());
    c.stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// The exit code, the last line as JSON, and everything said.
fn ended(child: std::process::Child) -> Result<(i32, Value, String), String> {
    let o = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    let said = format!("{text}{}", String::from_utf8_lossy(&o.stderr));
    canary::look("a program", said.as_bytes());
    let last = text.lines().last().unwrap_or("null");
    let json = serde_json::from_str(last).map_err(|e| format!("{e}: {said}"))?;
    Ok((o.status.code().unwrap_or(-1), json, said))
}

fn completed(set: &Arc<ReplSet>) -> R {
    let dir = plan("completed")?;
    let app = start(set, dir.path(), &WORKLOAD)?;
    let (code, sum, said) = ended(start(set, dir.path(), &["run", "plan.toml", "--json", "--advance", "auto"])?)?;
    check("the rollout", code == 0 && sum["outcome"] == "completed" && sum["writes"]["lost"] == 0, &said)?;
    check("its stages", sum["stages"].as_array().is_some_and(|s| s.len() == 4), &said)?;
    let (code, found, said) = ended(app)?;
    let clean = found["lost"] == 0 && found["acknowledged"].as_u64().is_some_and(|n| n > 0);
    check("the application", code == 0 && clean, &said)?;
    let journal = tidegate(set, dir.path(), &["journal", "verify", "orders-completed.journal.jsonl"]).output();
    check("the journal", journal.map_err(|e| e.to_string())?.status.success(), &said)
}

fn stopped(set: &Arc<ReplSet>) -> R {
    let dir = plan("stopped")?;
    let app = start(set, dir.path(), &WORKLOAD)?;
    // It waits for an operator in the first stage, and is told to leave instead.
    let (code, sum, said) = ended(start(set, dir.path(), &["run", "plan.toml", "--json", "--exit-when-needed"])?)?;
    check("an operator is needed", code == 4 && sum["outcome"] == "needs_operator", &said)?;

    let refused = |args: &[&str], why: &str| {
        let o = tidegate(set, dir.path(), args).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&o.stderr).into_owned();
        check(why, o.status.code() == Some(1) && said.contains(why), &said)
    };
    refused(&["run", "plan.toml"], "use `tidegate resume`")?;
    let other = PLAN.replace("NAME", "stopped").replace("soak = \"1s\"", "soak = \"2s\"");
    std::fs::write(dir.path().join("other.toml"), other).map_err(|e| e.to_string())?;
    refused(&["resume", "other.toml"], "the plan has changed")?;

    // SIGTERM ends it at a safe point; meanwhile nobody else may run it.
    let child = start(set, dir.path(), &["resume", "plan.toml", "--json", "--as", "anna"])?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    refused(&["resume", "plan.toml"], "is run by anna")?;
    kill("-TERM", &child)?;
    let (code, sum, said) = ended(child)?;
    check("SIGTERM", code == 4 && sum["writes"]["lost"] == 0, &said)?;
    check("it says what happens", said.contains("stopping at a safe point; a second Ctrl-C ends at once"), &said)?;

    kill("-INT", &app)?;
    let (code, found, said) = ended(app)?;
    let clean = found["lost"] == 0 && found["acknowledged"].as_u64().is_some_and(|n| n > 0);
    check("the application", code == 0 && clean, &said)
}

fn kill(signal: &str, child: &std::process::Child) -> R {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().map_err(|e| e.to_string())?;
    check("kill", status.success(), signal)
}

//! Whole rollouts by the real program, in processes of its own, on a replica set of three nodes and under an application that writes
//! all the time: to the end, through kills, with a second runner, with a runner that stood still past its lease.

use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use super::program::{Place, Program};
use super::replset::ReplSet;
use super::{R, TOKIO, on_three};

pub const PLAN: &str = include_str!("rollout.toml");
const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    vec![on_three("rollout::a_rollout_runs_to_contract_under_the_application_and_loses_nothing", completes)]
}

/// Errors with everything about `found` unless it is as wanted.
fn same(what: &str, found: &Value, wanted: &Value) -> R {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found}, not {wanted}")) }
}

/// The runner's and the application's last words on a rollout that lost nothing.
fn lost_nothing(run: &Program, app: &mut Program) -> R {
    let sum = run.summary()?;
    let said = |e: String| format!("{e}; summary {sum}");
    same("outcome", &sum["outcome"], &"completed".into()).map_err(said)?;
    for n in ["lost", "stale", "stray"] {
        same(n, &sum["writes"][n], &0.into()).map_err(said)?;
    }
    for n in ["missing", "extra", "differing"] {
        same(n, &sum["documents"][n], &0.into()).map_err(said)?;
    }
    if sum["documents"]["matched"].as_u64().unwrap_or(0) == 0 || sum["writes"]["acknowledged"].as_u64() == Some(0) {
        return Err(said("nothing was compared or written".into()));
    }
    let stages: Vec<&str> = sum["stages"].as_array().into_iter().flatten().filter_map(|s| s["id"].as_str()).collect();
    if stages != ["copy", "shadow", "canary", "half", "full", "contract"] {
        return Err(said("not every stage passed".into()));
    }
    app.ends_with(0, Duration::from_secs(60))?;
    let app = app.summary()?;
    for n in ["lost", "stale"] {
        same(n, &app[n], &0.into()).map_err(|e| format!("the application: {e}; {app}"))?;
    }
    if app["acknowledged"].as_u64().unwrap_or(0) < 100 {
        return Err(format!("the application hardly wrote: {app}"));
    }
    Ok(())
}

/// The local journal is intact and closed, and the database's holds the same records.
fn journals_agree(place: &Place, journal: &str) -> R {
    let out = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["journal", "verify", "--json"])
        .arg(place.file(journal))
        .output()
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let report: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
    if !out.status.success()
        || report["closed"] != true
        || report["torn_tail"] != Value::Null && report["torn_tail"] != false
    {
        return Err(format!("journal verify: {said} {}", String::from_utf8_lossy(&out.stderr)));
    }
    let local = std::fs::read_to_string(place.file(journal)).map_err(|e| e.to_string())?;
    let local: Vec<&str> = local.lines().collect();
    let kept = TOKIO.block_on(place.journal_in_database())?;
    if local == kept { Ok(()) } else { Err(format!("{} records here, {} in the database", local.len(), kept.len())) }
}

fn completes(set: &ReplSet) -> R {
    let place = Place::new(set, "completes", PLAN, |p| p)?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    run.ends_with(0, LONG)?;
    lost_nothing(&run, &mut app)?;
    journals_agree(&place, "first.jsonl")
}

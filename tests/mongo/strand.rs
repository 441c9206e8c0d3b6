//! A hard rollback by the real program while next's own replica set is dead, and its salvage once that set is back: two sets, an
//! application that writes all the time.

use std::collections::BTreeSet;
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree};
use super::{R, TOKIO, mongod, on_its_own};

const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    let name = "strand::next_killed_left_behind_and_salvaged_loses_nothing_but_listed_conflicts";
    vec![on_its_own(name, killed)]
}

/// The plan with next on a set of its own and a last stage that soaks until somebody acts.
fn on_two_sets() -> impl Fn(String) -> String {
    |plan| {
        let plan =
            plan.replace("environment = \"test\"", "next_uri = \"${TIDEGATE_NEXT_URI}\"\nenvironment = \"test\"");
        let at = plan.find("id = \"full\"").map_or(plan.len(), |p| p);
        let (head, tail) = plan.split_at(at);
        format!("{head}{}", tail.replacen("soak = \"2s\"", "soak = \"10m\"", 1))
    }
}

fn record<'a>(lines: &'a [Value], kind: &str) -> Result<&'a Value, String> {
    lines.iter().find(|l| l["kind"] == kind).ok_or_else(|| format!("no record of kind {kind}"))
}

/// Waits until everything is on next and some writing has gone on there.
fn full(run: &mut Program) -> R {
    until("full soaks", LONG, || {
        let entered = run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == "full")?;
        let Some(at) = entered.and_then(|l| l["seq"].as_i64()) else { return Ok(None) };
        run.prints(|l| l["kind"] == "soak_began" && l["seq"].as_i64().unwrap_or(0) > at)
    })?;
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

fn killed() -> R {
    let mongod = mongod::find()?;
    let (set, mut next) = TOKIO.block_on(async {
        let set = ReplSet::start(&mongod, 1).await?;
        Ok::<_, String>((set, ReplSet::start(&mongod, 1).await?))
    })?;
    let place = Place::new(&set, "stranded", PLAN, on_two_sets())?.with_next(&next);
    let mut app = place.application(1_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    full(&mut run)?;
    // The runner stands still while the application goes on writing on next; then next dies, then the runner.
    run.signal("STOP")?;
    std::thread::sleep(Duration::from_secs(4));
    next.kill(0);
    run.kill()?;
    let why = ["--headless", "--json", "--journal", "back.jsonl", "--as", "back", "--hard", "--strand", "--take-over"];
    let args = [&why[..], &["--reason", "the rack of next has no power"]].concat();
    let mut back = place.start("back", "rollback", &args)?;
    until("next is sealed", LONG, || back.prints(|l| l["kind"] == "sealed"))?;
    until("the salvage is outstanding", LONG, || {
        back.prints(|l| l["kind"] == "task_held" && l["body"]["why"].to_string().contains("salvage outstanding"))
    })?;
    // The application writes on legacy meanwhile. Nobody has to be there for that.
    std::thread::sleep(Duration::from_secs(3));
    back.signal("TERM")?;
    back.ends_with(4, Duration::from_secs(60))?;
    let sum = back.summary()?;
    let stranded = &sum["stranded"];
    if sum["outcome"] != "needs_operator" || stranded["ms_at_risk"].as_u64().unwrap_or(0) < 3_000 {
        return Err(format!("the summary of what is stranded: {sum}"));
    }
    next.run(0)?;
    TOKIO.block_on(next.wait_for_primary(Duration::from_secs(60)))?;
    let mut salvage = place.resume("salvage", "back.jsonl", &["--exit-when-needed"])?;
    let code = salvage.wait(LONG)?;
    let lines = salvage.lines();
    let sum = salvage.summary()?;
    let conflicts: BTreeSet<String> = lines
        .iter()
        .filter(|l| l["kind"] == "conflict_found")
        .filter_map(|l| l["body"]["key"].as_str().map(str::to_owned))
        .collect();
    let found = |what: &str| Err(format!("{what}: exit {code}, {conflicts:?}, {sum}; {}", salvage.tail()));
    if sum["stranded"]["salvaged"]["carried"].as_u64().unwrap_or(0) == 0 {
        return found("nothing was carried over");
    }
    if code != if conflicts.is_empty() { 3 } else { 4 } || sum["stranded"]["conflicts_open"] != conflicts.len() {
        return found("the outcome");
    }
    app.ends_with(0, Duration::from_secs(120))?;
    let app = app.summary()?;
    if app["lost"] != 0 || app["stale"] != 0 || app["acknowledged"].as_u64().unwrap_or(0) < 100 {
        return Err(format!("the application: {app}; conflicts {conflicts:?}"));
    }
    let listed = |key: &Value| key.as_str().is_some_and(|k| conflicts.contains(k));
    if !app["stranded"].as_array().is_some_and(|all| all.iter().all(listed)) {
        return Err(format!("left behind and listed nowhere: {app}; conflicts {conflicts:?}"));
    }
    kept(&set, &conflicts)?;
    if !conflicts.is_empty() {
        let mut args = vec!["--headless".to_owned(), "--json".into(), "--journal".into(), "back.jsonl".into()];
        for (i, key) in conflicts.iter().enumerate() {
            args.extend(["--resolve".to_owned(), format!("{key}={}", if i % 2 == 0 { "next" } else { "legacy" })]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        place.start("repair", "repair", &args)?.ends_with(3, LONG)?;
    }
    let all = std::fs::read_to_string(place.file("back.jsonl")).map_err(|e| e.to_string())?;
    let all: Vec<Value> = all.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let decided = record(&all, "strand_decided")?;
    if !decided["body"]["why"].to_string().contains("no power") {
        return Err(format!("the reason is not journalled: {decided}"));
    }
    let sealed = &record(&all, "sealed")?["body"]["evidence"];
    println!("sealed: {sealed}\nsalvage: {}\n{} conflicts", sum["stranded"], conflicts.len());
    journals_agree(&place, "back.jsonl")
}

/// Both versions of every conflict are in quarantine.
fn kept(set: &ReplSet, conflicts: &BTreeSet<String>) -> R {
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let all = client.database("tidegate").collection::<Document>("quarantine");
        let n = all.count_documents(doc! { "outcome": "conflict" }).await.map_err(|e| e.to_string())?;
        if n == conflicts.len() as u64 { Ok(()) } else { Err(format!("{n} conflicts kept of {}", conflicts.len())) }
    })
}

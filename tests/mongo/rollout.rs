//! Whole rollouts by the real program, in processes of its own, on a replica set of three nodes and under an application that writes
//! all the time: to the end, through kills, with a second runner, with a runner that stood still past its lease.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;
use tidegate::cluster::mongo::Mongo;
use tidegate::cluster::{Change, Cluster, ClusterTime, Key, Ns, StreamPos};
use tidegate::runtime::Micros;

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::{R, TOKIO, live, on_three};

pub const PLAN: &str = include_str!("rollout.toml");
const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    vec![
        on_three("rollout::a_rollout_runs_to_contract_loses_nothing_and_has_no_way_back_then", completes),
        on_three("rollout::a_runner_killed_twenty_times_loses_nothing", killed),
        on_three("rollout::a_second_runner_is_refused_and_named", second_runner),
        on_three("rollout::a_second_signal_ends_at_once", two_signals),
        on_three("rollout::a_runner_stopped_past_its_lease_writes_no_data_when_it_continues", stopped),
    ]
}

/// Errors with everything about `found` unless it is as wanted.
fn same(what: &str, found: &Value, wanted: &Value) -> R {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found}, not {wanted}")) }
}

/// The runner's and the application's last words on a rollout that lost nothing.
pub fn lost_nothing(run: &Program, app: &mut Program) -> R {
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
pub fn journals_agree(place: &Place, journal: &str) -> R {
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
    super::back::finished_is_not_rolled_back(&place)?;
    journals_agree(&place, "first.jsonl")
}

/// The records of stages and tasks, which every rollout has, killed or not: what a runner has come to.
pub fn progress(lines: &[Value]) -> usize {
    let kinds = ["stage_entered", "task_intended", "task_done", "soak_began", "stage_passed"];
    lines.iter().filter(|l| kinds.iter().any(|k| l["kind"] == *k)).count()
}

/// Pseudo-random numbers, the same on every run (splitmix64).
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const KILLS: usize = 20;
/// Records of progress up to the last stage; a rollout of the plan has 58 in all.
pub const LAST_RECORD: u64 = 50;
const SEED: u64 = 20_270_309;

/// The seed of the moments: `TIDEGATE_TEST_SEED` tries others.
pub fn seed() -> u64 {
    std::env::var("TIDEGATE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED)
}

fn killed(set: &ReplSet) -> R {
    let slow = |p: String| p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 1000");
    let place = Place::new(set, "killed", PLAN, slow)?;
    let mut app = place.application(6_000, &[])?;
    let mut draws = Draws(seed());
    // Each kill has a moment of its own: some time after the rollout has come so far, or after the process has begun at all.
    let mut run = place.run("runner-0", "killed.jsonl")?;
    for kill in 0..KILLS as u64 {
        let wanted = (kill * LAST_RECORD / KILLS as u64 + draws.below(3)) as usize;
        let at_once = kill % 6 == 5;
        let began = Instant::now();
        if !at_once {
            let file = place.file("killed.jsonl");
            until("the rollout goes on", LONG, || {
                run.running()?;
                let there = run.lines().iter().any(|l| l["kind"] == "resumed" || l["kind"] == "started");
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
                Ok((there && progress(&lines) >= wanted).then_some(()))
            })?;
        }
        std::thread::sleep(Duration::from_millis(draws.below(if at_once { 400 } else { 700 })));
        if !run.kill()? {
            return Err(format!("kill {kill}: it had ended by itself; {}", run.tail()));
        }
        let last = run.lines().pop().unwrap_or_default();
        eprintln!("kill {kill} after {:?}, last {} {}", began.elapsed(), last["kind"], last["body"]);
        let name = format!("runner-{}", kill + 1);
        run = place.resume(&name, "killed.jsonl", &["--take-over", "--reason", "killed"])?;
    }
    // Once more where there is no way back, if it can be caught there.
    until("legacy is being quarantined", LONG, || {
        let ended = run.running().is_err();
        Ok((ended || run.lines().iter().any(is_task("quarantine"))).then_some(()))
    })?;
    std::thread::sleep(Duration::from_millis(draws.below(60)));
    if run.kill()? {
        eprintln!("killed in the quarantine, last {}", run.lines().pop().unwrap_or_default());
        if run.lines().iter().any(|l| l["kind"] == "closed") {
            // All was done but the summary.
            app.ends_with(0, Duration::from_secs(60))?;
            return journals_agree(&place, "killed.jsonl");
        }
        run = place.resume("runner-last", "killed.jsonl", &["--take-over", "--reason", "killed"])?;
        run.ends_with(0, LONG)?;
    }
    lost_nothing(&run, &mut app)?;
    journals_agree(&place, "killed.jsonl")
}

fn second_runner(set: &ReplSet) -> R {
    let slow = |p: String| p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 200");
    let place = Place::new(set, "second", PLAN, slow)?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("anna@bridge", "anna.jsonl")?;
    until("the copy begins", LONG, || run.prints(is_task("backfill")))?;
    let since = run.lines()[0]["at"].as_str().unwrap_or("?")[..10].to_owned();
    // The intent is printed before the copy opens its fences, one for each chunk on its way.
    let before = until("the copy has its fences", LONG, || {
        let found = TOKIO.block_on(control(set, &place.id))?;
        Ok(found.keys().any(|slot| slot.ends_with("/backfill-3")).then_some(found))
    })?;
    for (name, command) in [("bert-runs", "run"), ("bert-resumes", "resume")] {
        let args = ["--headless", "--json", "--journal", "bert.jsonl", "--as", name];
        let mut second = place.start(name, command, &args)?;
        second.ends_with(1, Duration::from_secs(30))?;
        let said = second.stderr();
        if !said.contains(&format!("is run by anna@bridge since {since}")) || !second.lines().is_empty() {
            return Err(format!("{command}: {}", second.tail()));
        }
    }
    let after = TOKIO.block_on(control(set, &place.id))?;
    if before != after {
        return Err(format!("the lease or a fence has moved: {before:?}, then {after:?}"));
    }
    run.running()?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    app.signal("TERM")?;
    app.ends_with(0, Duration::from_secs(60))
}

fn two_signals(set: &ReplSet) -> R {
    let slow = |p: String| p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 200");
    let place = Place::new(set, "signals", PLAN, slow)?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("anna@bridge", "anna.jsonl")?;
    until("the copy begins", LONG, || run.prints(is_task("backfill")))?;
    // Without a cluster that answers there is no safe point to come to.
    (0..set.len()).try_for_each(|i| set.freeze(i))?;
    let ended = run.signal("TERM").and_then(|()| {
        until("it says that it stops", Duration::from_secs(10), || run.says("a second Ctrl-C ends at once"))?;
        std::thread::sleep(Duration::from_secs(1));
        run.running()?;
        run.signal("TERM")?;
        run.ends_with(4, Duration::from_secs(2))
    });
    (0..set.len()).try_for_each(|i| set.thaw(i))?;
    ended?;
    app.signal("TERM")?;
    app.wait(Duration::from_secs(60)).map(drop)
}

pub fn is_task(task: &'static str) -> impl Fn(&Value) -> bool {
    move |l| l["kind"] == "task_intended" && l["body"]["task"] == task
}

/// Who may write: the epochs of the lease and of every fence.
async fn control(set: &ReplSet, id: &str) -> Result<BTreeMap<String, i64>, String> {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let db = client.database("tidegate");
    let mut epochs = BTreeMap::new();
    for (coll, filter) in [
        ("rollouts", doc! { "_id": id }),
        ("fences", doc! { "_id": { "$gte": format!("{id}/"), "$lt": format!("{id}0") } }),
    ] {
        let mut found = db.collection::<Document>(coll).find(filter).await.map_err(|e| e.to_string())?;
        while found.advance().await.map_err(|e| e.to_string())? {
            let d = found.deserialize_current().map_err(|e| e.to_string())?;
            epochs.insert(
                format!("{coll} {}", d.get_str("_id").unwrap_or("?")),
                d.get_i64("epoch").map_err(|e| e.to_string())?,
            );
        }
    }
    Ok(epochs)
}

/// What is seen of a collection.
pub type Seen = Arc<Mutex<Vec<Change>>>;

/// Everything that happens to a collection from now on.
pub async fn watch(set: &ReplSet, ns: Ns) -> Result<Seen, String> {
    let db = Mongo::connect(&set.uri(), live()).await.map_err(|e| e.to_string())?;
    let from = db.observe().await.map_err(|e| e.to_string())?.majority;
    let mut pos = StreamPos { token: None, at: from };
    let mut stream = db.changes(&ns, &pos).await.map_err(|e| e.to_string())?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let out = seen.clone();
    TOKIO.spawn(async move {
        while Arc::strong_count(&out) > 1 {
            match stream.next(Micros::from_ms(500)).await {
                Ok(batch) => {
                    pos = batch.pos;
                    out.lock().expect("no test panics with it").extend(batch.events);
                }
                // It goes on where it stood.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if let Ok(opened) = db.changes(&ns, &pos).await {
                        stream = opened;
                    }
                }
            }
        }
        drop(db);
    });
    Ok(seen)
}

/// How many changes of a copy the sessions of each epoch have made: before a newer epoch had written into the journal, and after.
pub fn by_epoch(
    lines: &[Value],
    records: &Seen,
    copies: &Seen,
    epochs: &BTreeMap<[u8; 16], i64>,
    id: &str,
) -> Result<BTreeMap<(i64, bool), u64>, String> {
    let records = records.lock().expect("no test panics with it");
    let mut taken = BTreeMap::<i64, ClusterTime>::new();
    for l in lines {
        let epoch = l["epoch"].as_i64().ok_or("a record without an epoch")?;
        if taken.contains_key(&epoch) {
            continue;
        }
        let key = bson::RawBson::Document(bson::rawdoc! { "rollout": id, "seq": l["seq"].as_i64().unwrap_or(0) });
        let key = Key::new(key.as_raw_bson_ref()).map_err(|e| e.to_string())?;
        let seen = records.iter().find(|c| c.key.as_ref() == Some(&key)).ok_or("a record was not seen")?;
        taken.insert(epoch, seen.at);
    }
    let mut by = BTreeMap::new();
    for c in copies.lock().expect("no test panics with it").iter() {
        if let Some(e) = c.session.and_then(|s| epochs.get(&s.0)) {
            let late = taken.range(e + 1..).any(|(_, at)| *at < c.at);
            *by.entry((*e, late)).or_default() += 1;
        }
    }
    Ok(by)
}

/// The epoch under which each session was registered.
pub async fn sessions(set: &ReplSet, id: &str) -> Result<BTreeMap<[u8; 16], i64>, String> {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let all = client.database("tidegate").collection::<Document>("sessions");
    let mut found = all.find(doc! { "rollout": id }).await.map_err(|e| e.to_string())?;
    let mut epochs = BTreeMap::new();
    while found.advance().await.map_err(|e| e.to_string())? {
        let d = found.deserialize_current().map_err(|e| e.to_string())?;
        if let (Some(Bson::Binary(b)), Ok(epoch)) = (d.get("_id"), d.get_i64("epoch")) {
            epochs.insert(b.bytes.as_slice().try_into().map_err(|_| "a session of another length")?, epoch);
        }
    }
    Ok(epochs)
}

fn stopped(set: &ReplSet) -> R {
    let slow = |p: String| p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 400");
    let place = Place::new(set, "stopped", PLAN, slow)?;
    let mut app = place.application(8_000, &["--read-percent", "30"])?;
    let copies = TOKIO.block_on(watch(set, Ns::new("stopped", "orders_v2")))?;
    let records = TOKIO.block_on(watch(set, Ns::new("tidegate", "journal")))?;
    let mut first = place.run("first", "first.jsonl")?;
    until("the copy begins", LONG, || first.prints(is_task("backfill")))?;
    // A few chunks in, and the tail at work.
    std::thread::sleep(Duration::from_millis(5_300));
    first.signal("STOP")?;
    let stood = Instant::now();
    // Refused while the lease lasts, given once it has run out.
    let mut refused = 0;
    let mut second = until("the lease runs out", Duration::from_secs(30), || {
        let mut second = place.resume("second", "second.jsonl", &[])?;
        let there = until("it resumes or is refused", Duration::from_secs(30), || {
            if second.lines().iter().any(|l| l["kind"] == "resumed") {
                return Ok(Some(true));
            }
            Ok(if second.running().is_err() { Some(false) } else { None })
        })?;
        if there {
            return Ok(Some(second));
        }
        second.ends_with(1, Duration::from_secs(1))?;
        if !second.stderr().contains("is run by first since") {
            return Err(second.tail());
        }
        refused += 1;
        std::thread::sleep(Duration::from_millis(300));
        Ok(None)
    })?;
    if refused == 0 || stood.elapsed() < Duration::from_secs(6) {
        return Err(format!("the lease was given after {:?}, refused {refused} times", stood.elapsed()));
    }
    let resumed = second.prints(|l| l["kind"] == "resumed")?.ok_or("it resumed")?;
    let epoch = resumed["epoch"].as_i64().unwrap_or(0);
    // Every slot is the new runner's from here on.
    let fenced = |when: &str| -> R {
        let now = TOKIO.block_on(control(set, &place.id))?;
        match now.iter().find(|(_, e)| **e < epoch) {
            Some(old) => Err(format!("{when}: {old:?} in {now:?}")),
            None => Ok(()),
        }
    };
    fenced("after the take-over")?;
    std::thread::sleep(Duration::from_secs(2));
    first.signal("CONT")?;
    first.ends_with(1, Duration::from_secs(30))?;
    if !first.stderr().contains("another runner has it") {
        return Err(first.tail());
    }
    fenced("after the old runner has ended")?;
    second.ends_with(0, LONG)?;
    fenced("at the end")?;
    lost_nothing(&second, &mut app)?;
    journals_agree(&place, "second.jsonl")?;
    // What the server saw: no change of a copy by a session of the old runner after the record of the take-over.
    let local = std::fs::read_to_string(place.file("second.jsonl")).map_err(|e| e.to_string())?;
    let lines: Vec<Value> = local.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let epochs = TOKIO.block_on(sessions(set, &place.id))?;
    let by = by_epoch(&lines, &records, &copies, &epochs, &place.id)?;
    let n = |epoch, after| by.get(&(epoch, after)).copied().unwrap_or(0);
    if n(1, true) > 0 || n(1, false) == 0 || n(epoch, false) == 0 {
        return Err(format!("changes of copies by (epoch, after a newer one began): {by:?}"));
    }
    Ok(())
}

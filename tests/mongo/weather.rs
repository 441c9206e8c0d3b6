//! Everything at once, in one rollout: a runner killed fifty times, ten elections in the copy, under the tails and in cutovers, a terminal
//! that goes away, and a line to the servers that delays and cuts. Nothing is lost, nothing is done twice, nobody writes late.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tidegate::cluster::Ns;

use super::program::{Place, Program, until};
use super::proxy::Lines;
use super::replset::ReplSet;
use super::rollout::{
    self, Draws, LAST_RECORD, by_epoch, is_task, journals_agree, lost_nothing, progress, seed, sessions, watch,
};
use super::watch::Pty;
use super::{R, TOKIO, mongod, on_its_own};

const LONG: Duration = Duration::from_secs(300);
const KILLS: u64 = 50;
/// The kill before which the runner has a terminal, which goes away.
const LOST_TERMINAL: u64 = 20;
/// A runner that finds no primary for half a minute ends, and may be resumed: on a busy machine an election can take so long.
const GIVEN_UP: usize = 3;
/// The local copy of the journal.
const JOURNAL: &str = "weather.jsonl";
/// Elections in each part of the rollout.
const ELECTIONS: [(Part, usize); 3] = [(Part::Copy, 4), (Part::Tail, 3), (Part::Cutover, 3)];

pub fn trials() -> Vec<Trial> {
    vec![on_its_own("weather::fifty_kills_ten_elections_and_a_bad_line_lose_nothing", all_at_once)]
}

/// What a rollout is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Copy,
    Tail,
    Cutover,
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// The part that the last records tell of.
fn part(lines: &[Value]) -> Option<Part> {
    let last =
        lines.iter().rev().find(|l| ["task_intended", "task_done", "soak_began"].iter().any(|k| l["kind"] == *k))?;
    match (last["kind"].as_str()?, last["body"]["task"].to_string()) {
        ("task_intended", task) if task.contains("backfill") => Some(Part::Copy),
        ("task_intended", task) if task.contains("move_writes") => Some(Part::Cutover),
        // The tail runs from the first copy on.
        ("soak_began", _) => Some(Part::Tail),
        _ => None,
    }
}

/// Makes the primary step down in each part of the rollout until it is over; answers how often, and when.
fn elect(set: &ReplSet, file: &Path, over: &AtomicBool) -> BTreeMap<Part, usize> {
    let mut held = BTreeMap::new();
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
        let Some(part) = part(&lines(file)) else { continue };
        let wanted = ELECTIONS.iter().find(|(p, _)| *p == part).map_or(0, |(_, n)| *n);
        if held.get(&part).copied().unwrap_or(0) >= wanted {
            continue;
        }
        match TOKIO.block_on(set.step_down(2)) {
            Ok(node) => {
                *held.entry(part).or_insert(0) += 1;
                eprintln!("node {node} steps down: {part:?}");
            }
            Err(e) => eprintln!("no step down: {e}"),
        }
        std::thread::sleep(Duration::from_millis(3_500));
    }
    held
}

fn all_at_once() -> R {
    let mut draws = Draws(seed());
    eprintln!("TIDEGATE_TEST_SEED={}", seed());
    let bad = Lines::new(seed());
    let set = TOKIO.block_on(ReplSet::start_behind(&mongod::find()?, 3, |port| bad.before(port)))?;
    let adapt = |p: String| {
        p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 150")
            .replace("freeze_max = \"3s\"", "freeze_max = \"6s\"")
            // An election is no reason to stop: there are ten.
            .replace("for = \"5s\"", "for = \"60s\"")
    };
    let place = Place::new(&set, "weather", rollout::PLAN, adapt)?;
    let mut app = place.application(6_000, &[])?;
    let copies = [("weather", "orders_v2"), ("weather", "orders")].map(|(db, coll)| Ns::new(db, coll));
    let copies = copies.map(|ns| TOKIO.block_on(watch(&set, ns)));
    let records = TOKIO.block_on(watch(&set, Ns::new("tidegate", "journal")))?;
    let file = place.file(JOURNAL);
    let over = AtomicBool::new(false);
    let (ended, held) = std::thread::scope(|s| {
        let elections = s.spawn(|| elect(&set, &file, &over));
        let ended = killed(&set, &place, &file, &mut draws);
        over.store(true, Ordering::SeqCst);
        (ended, elections.join().unwrap_or_default())
    });
    let mut run = ended?;
    run.ends_with(0, LONG)?;
    lost_nothing(&run, &mut app)?;
    journals_agree(&place, JOURNAL)?;
    eprintln!(
        "{held:?}; {} connections cut, {} pieces late",
        bad.cut.load(Ordering::SeqCst),
        bad.late.load(Ordering::SeqCst)
    );
    if ELECTIONS.iter().any(|(part, n)| held.get(part) != Some(n)) || bad.cut.load(Ordering::SeqCst) < 10 {
        return Err(format!("the weather was too good: {held:?}"));
    }
    once(&lines(&file))?;
    TOKIO.block_on(indexes(&set))?;
    let epochs = TOKIO.block_on(sessions(&set, &place.id))?;
    for seen in copies {
        let by = by_epoch(&lines(&file), &records, &seen?, &epochs, &place.id)?;
        let late: BTreeMap<_, _> = by.iter().filter(|((_, late), _)| *late).collect();
        eprintln!("changes by epoch: {:?}", by.iter().map(|((e, _), n)| (*e, *n)).collect::<Vec<_>>());
        if !late.is_empty() {
            return Err(format!("changes of copies by an epoch that another had taken over from: {late:?}"));
        }
    }
    Ok(())
}

/// Kills the runner again and again; answers the last one, which is left alone.
fn killed(set: &ReplSet, place: &Place, file: &Path, draws: &mut Draws) -> Result<Program, String> {
    let take = ["--take-over", "--reason", "killed"];
    let mut run = place.run("runner-0", JOURNAL)?;
    let mut given_up = 0;
    for kill in 0..KILLS {
        let wanted = (kill * LAST_RECORD / KILLS + draws.below(3)) as usize;
        let at_once = kill % 6 == 5;
        let began = Instant::now();
        if !at_once {
            until("the rollout goes on", LONG, || {
                if run.running().is_err() && given_up < GIVEN_UP && run.stderr().contains("no primary") {
                    given_up += 1;
                    eprintln!("without a primary for too long, it has ended by itself; {}", run.stderr().trim());
                    run = place.resume(&format!("again-{kill}-{given_up}"), JOURNAL, &take)?;
                }
                run.running()?;
                let there = run.lines().iter().any(|l| l["kind"] == "resumed" || l["kind"] == "started");
                Ok((there && progress(&lines(file)) >= wanted).then_some(()))
            })?;
        }
        std::thread::sleep(Duration::from_millis(draws.below(if at_once { 600 } else { 900 })));
        if !run.kill()? {
            return Err(format!("kill {kill}: it had ended by itself; {}", run.tail()));
        }
        let last = lines(file).pop().unwrap_or_default();
        eprintln!("kill {kill} after {:?}, last {} {:.100}", began.elapsed(), last["kind"], last["body"].to_string());
        if kill == LOST_TERMINAL {
            lose_terminal(set, place, file, &take)?;
        }
        run = place.resume(&format!("runner-{}", kill + 1), JOURNAL, &take)?;
    }
    Ok(run)
}

/// A runner with a dashboard, whose terminal goes away: it goes on without one, until it is killed too.
fn lose_terminal(set: &ReplSet, place: &Place, file: &Path, take: &[&str]) -> R {
    let args = [&["resume", "plan.toml", "--journal", JOURNAL, "--as", "on-screen"][..], take].concat();
    let mut t = Pty::start(set, place, &args)?;
    let ours = |l: &Value| l["kind"] == "resumed" && l["body"]["holder"] == "on-screen";
    until("it is taken up on a screen", LONG, || Ok(lines(file).iter().any(ours).then_some(())))?;
    std::thread::sleep(Duration::from_secs(1));
    let before = TOKIO.block_on(lease(set, &place.id))?;
    t.lose()?;
    std::thread::sleep(Duration::from_secs(6));
    let after = TOKIO.block_on(lease(set, &place.id))?;
    let same = after.get_str("holder").ok() == before.get_str("holder").ok();
    if !t.is_running()? || !same || after.get_i64("expires_ms").ok() <= before.get_i64("expires_ms").ok() {
        return Err(format!("it has not outlived its terminal: {before}, then {after}"));
    }
    eprintln!("the terminal is gone, the rollout goes on");
    t.kill()
}

async fn lease(set: &ReplSet, id: &str) -> Result<Document, String> {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let all = client.database("tidegate").collection::<Document>("rollouts");
    all.find_one(doc! { "_id": id }).await.map_err(|e| e.to_string())?.ok_or_else(|| "no lease".to_owned())
}

/// Each stage is entered and passed once, each task intended and done once, and no epoch of the route was ever two routes.
fn once(lines: &[Value]) -> R {
    let mut count = BTreeMap::<String, usize>::new();
    let (mut stage, mut routes) = (String::new(), BTreeMap::<i64, BTreeSet<String>>::new());
    for l in lines {
        let (kind, body) = (l["kind"].as_str().unwrap_or("?"), &l["body"]);
        match kind {
            "stage_entered" => {
                stage = body["id"].to_string();
                *count.entry(format!("{kind} {stage}")).or_default() += 1;
            }
            "stage_passed" => *count.entry(format!("{kind} {}", body["id"])).or_default() += 1,
            "task_intended" | "task_done" => {
                *count.entry(format!("{kind} {stage} {}", body["index"])).or_default() += 1
            }
            "soak_began" => *count.entry(format!("{kind} {stage}")).or_default() += 1,
            "completed" | "closed" | "started" => *count.entry(kind.to_owned()).or_default() += 1,
            "route_settled" => {
                let shares = ["writes_next_below", "reads_next_below", "shadow"].map(|f| body[f].to_string());
                routes.entry(body["epoch"].as_i64().unwrap_or(0)).or_default().insert(shares.join(" "));
            }
            _ => {}
        }
    }
    let twice: Vec<_> = count.iter().filter(|(_, n)| **n != 1).collect();
    let two: Vec<_> = routes.iter().filter(|(_, r)| r.len() != 1).collect();
    let built = lines.iter().filter(|l| is_task("indexes")(l)).count();
    let stages = count.keys().filter(|k| k.starts_with("stage_passed")).count();
    if !twice.is_empty() || !two.is_empty() || built != 1 || stages != 6 || routes.len() < 6 {
        return Err(format!(
            "not once: {twice:?}; epochs that were two routes: {two:?}; {built} builds, {stages} stages"
        ));
    }
    Ok(())
}

/// Next has the index of the plan, and no other.
async fn indexes(set: &ReplSet) -> R {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let next = client.database("weather").collection::<Document>("orders_v2");
    let names = next.list_index_names().await.map_err(|e| e.to_string())?;
    if names == ["_id_", "by_customer"] { Ok(()) } else { Err(format!("{names:?}")) }
}

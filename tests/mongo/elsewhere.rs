//! A rollout whose runner is killed on one working copy, taken over from an empty directory on another one, with another home, and
//! finished there: everything that counts is in the database.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::rollout::{self, is_task, journals_agree, lost_nothing};
use super::{R, TOKIO, cli, on_shared, on_three};

const LONG: Duration = Duration::from_secs(150);
/// How long a lease lasts that is not renewed.
const LEASE: Duration = Duration::from_secs(10);

pub fn trials() -> Vec<Trial> {
    vec![
        on_three("elsewhere::a_rollout_killed_twice_is_taken_over_from_empty_directories_under_traffic", killed_twice),
        on_shared("elsewhere::a_rollout_killed_here_is_finished_from_an_empty_directory", |set| async move {
            tokio::task::spawn_blocking(move || killed_once(&set)).await.map_err(|e| e.to_string())?
        }),
    ]
}

/// Takes the rollout over; the journal goes where it goes when nobody says where.
fn taken_over(place: &Place, name: &str) -> Result<Program, String> {
    let args = ["--headless", "--json", "--as", name, "--take-over", "--reason", "its machine is gone"];
    place.start(name, "resume", &args)
}

/// The local journal, as the program names it by itself.
fn journal(place: &Place) -> String {
    format!("{}.journal.jsonl", place.id)
}

fn started(place: &Place) -> Result<Program, String> {
    place.start("first", "run", &["--headless", "--json", "--advance", "auto", "--as", "first"])
}

/// The journal that was begun in the directory `to` has everything from the first record on, and all that `from` had.
fn is_whole(from: &Place, to: &Place) -> R {
    let read = |p: &Place| std::fs::read_to_string(p.file(&journal(p))).map_err(|e| e.to_string());
    let (was, is) = (read(from)?, read(to)?);
    let first: Value = is.lines().next().and_then(|l| serde_json::from_str(l).ok()).unwrap_or_default();
    if first["seq"] != 1 || first["kind"] != "started" {
        return Err(format!("the journal begins with {first}"));
    }
    // The last line may have been cut off in the middle.
    let whole = was.rfind('\n').map_or("", |end| &was[..=end]);
    if whole.is_empty() || !is.starts_with(whole) {
        return Err(format!("{} records of the other directory are not the first ones here", whole.lines().count()));
    }
    // Who runs it now, and why.
    let mut lines = is.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    match lines.any(|l| l["kind"] == "resumed" && l["body"]["reason"] == "its machine is gone") {
        true => Ok(()),
        false => Err("nobody has written down who took it over".into()),
    }
}

fn stage(run: &mut Program, id: &str) -> R {
    until(&format!("stage {id}"), LONG, || run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == *id))
        .map(drop)
}

/// Once before the lease has run out, in the copy, and once after, in the middle of the cutovers.
fn killed_twice(set: &ReplSet) -> R {
    let slow = |p: String| p.replace("max_lag = \"5s\"", "max_lag = \"5s\"\nmax_rate = 1000");
    let first = Place::new(set, "elsewhere", rollout::PLAN, slow)?;
    let mut app = first.application(3_000, &[])?;
    let mut run = started(&first)?;
    until("the copy begins", LONG, || run.prints(is_task("backfill")))?;
    std::thread::sleep(Duration::from_millis(1_200));
    run.kill()?;

    let second = first.elsewhere()?;
    let mut refused = second.start("refused", "resume", &["--headless", "--json", "--as", "second"])?;
    refused.ends_with(1, Duration::from_secs(30))?;
    if !refused.stderr().contains("is run by first since") {
        return Err(refused.tail());
    }
    let mut run = taken_over(&second, "second")?;
    stage(&mut run, "half")?;
    std::thread::sleep(Duration::from_millis(300));
    run.kill()?;
    let killed = Instant::now();
    is_whole(&first, &second)?;

    std::thread::sleep(LEASE + Duration::from_secs(1) - killed.elapsed().min(LEASE));
    let third = second.elsewhere()?;
    let mut run = taken_over(&third, "third")?;
    run.ends_with(0, LONG)?;
    lost_nothing(&run, &mut app)?;
    is_whole(&second, &third)?;
    journals_agree(&third, &journal(&third))
}

fn killed_once(set: &ReplSet) -> R {
    let plan = cli::PLAN.replace("orders-NAME", "orders-v2").replace("cli_NAME.", "shop.");
    let first = Place::new(set, "moved", &plan, |p| p)?;
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let orders = client.database("moved").collection("orders");
        let order =
            |n: i32| mongodb::bson::doc! { "_id": n, "customer": { "name": format!("Cust {n}") }, "total": "1.50" };
        orders.insert_many((0..500).map(order)).await.map_err(|e| e.to_string())
    })?;
    let mut run = started(&first)?;
    stage(&mut run, "half")?;
    run.kill()?;
    let second = first.elsewhere()?;
    let mut run = taken_over(&second, "second")?;
    run.ends_with(0, LONG)?;
    let sum = run.summary()?;
    let documents = &sum["documents"];
    let clean = ["missing", "extra", "differing"].iter().all(|n| documents[n] == 0);
    if sum["outcome"] != "completed" || !clean || documents["matched"] != 500 {
        return Err(sum.to_string());
    }
    is_whole(&first, &second)?;
    journals_agree(&second, &journal(&second))
}

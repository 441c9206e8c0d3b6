//! The way back by hand: what `tidegate rollback --explain` prints, sent through the driver exactly as printed, brings everything back.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Database};
use serde_json::Value;

use super::back::{is_at_rest, soaks, soaks_in};
use super::program::{Place, Program};
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree};
use super::{R, TOKIO, on_one_and_three, on_three, shared};

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        on_three("explain::the_printed_commands_bring_half_a_rollout_back", half),
        on_three("explain::the_printed_commands_bring_documents_back_from_another_cluster", two_clusters),
        on_three("explain::a_rollout_that_has_moved_nothing_is_brought_back_too", early),
    ];
    all.extend(on_one_and_three("explain::the_printed_commands_bring_a_whole_rollout_back", full));
    all
}

/// What `rollback --explain` prints, with the exit code 0.
pub fn explained(place: &Place, name: &str) -> Result<Value, String> {
    let mut said = place.start(name, "rollback", &["--explain", "--json"])?;
    said.ends_with(0, Duration::from_secs(30))?;
    said.lines().pop().ok_or_else(|| said.tail())
}

/// Sends one printed command and holds its answer against what is printed that it must be.
async fn send(clients: &[Client; 2], step: &Value) -> R {
    let on = usize::from(step["on"] == "next");
    let db = clients[on].database(step["db"].as_str().ok_or("no db")?);
    let command = Bson::try_from(step["command"].clone()).map_err(|e| e.to_string())?;
    let command = command.as_document().ok_or("no command")?.clone();
    let began = Instant::now();
    loop {
        let answer = db.run_command(command.clone()).await.map_err(|e| format!("{}: {e}", step["title"]))?;
        let bad = |what: &str| Err(format!("{} {what}: {answer}", step["title"]));
        if answer.contains_key("writeErrors") || answer.contains_key("writeConcernError") {
            return bad("was not done");
        }
        if let Some(n) = step["expect"]["n"].as_i64()
            && i64::from(answer.get_i32("n").unwrap_or(-1)) != n
        {
            return bad(&format!("has n other than {n}"));
        }
        if step["expect"]["documents"] == 0 && !first_batch(&answer).is_empty() {
            if step["expect"]["repeat"] == true && began.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            return bad("found something");
        }
        if let Some(to) = step["copy_to"].as_object() {
            copy(&clients[0], &db, answer, to).await?;
        }
        return Ok(());
    }
}

fn first_batch(answer: &Document) -> Vec<Document> {
    let batch = |c: &Document| ["firstBatch", "nextBatch"].iter().find_map(|b| c.get_array(b).ok().cloned());
    let all = answer.get_document("cursor").ok().and_then(batch).unwrap_or_default();
    all.into_iter().filter_map(|d| d.as_document().cloned()).collect()
}

/// Every document of a cursor into a collection of legacy's cluster.
async fn copy(to: &Client, db: &Database, mut answer: Document, target: &serde_json::Map<String, Value>) -> R {
    let name = |f: &str| target[f].as_str().unwrap_or_default().to_owned();
    let target = to.database(&name("db")).collection::<Document>(&name("collection"));
    loop {
        let batch = first_batch(&answer);
        if !batch.is_empty() {
            target.insert_many(batch).await.map_err(|e| e.to_string())?;
        }
        let cursor = answer.get_document("cursor").map_err(|e| e.to_string())?;
        let (id, ns) = (cursor.get_i64("id").unwrap_or(0), cursor.get_str("ns").unwrap_or_default());
        if id == 0 {
            return Ok(());
        }
        let coll = ns.split_once('.').map_or("", |(_, c)| c);
        let more = doc! { "getMore": id, "collection": coll };
        answer = db.run_command(more).await.map_err(|e| e.to_string())?;
    }
}

/// All of it, in order.
pub fn by_hand(uris: [&str; 2], way: &Value) -> R {
    TOKIO.block_on(async {
        let mut clients = Vec::new();
        for uri in uris {
            clients.push(Client::with_uri_str(uri).await.map_err(|e| e.to_string())?);
        }
        let clients: [Client; 2] = clients.try_into().map_err(|_| "two clients")?;
        for step in way["steps"].as_array().ok_or("no steps")? {
            send(&clients, step).await?;
        }
        Ok(())
    })
}

/// The application ends by itself once next is put away, and misses nothing that was acknowledged to it.
pub fn app_is_whole(app: &mut Program) -> R {
    app.ends_with(0, Duration::from_secs(60))?;
    let sum = app.summary()?;
    if sum["lost"] != 0 || sum["stale"] != 0 || sum["acknowledged"].as_u64().unwrap_or(0) < 100 {
        return Err(format!("the application: {sum}"));
    }
    Ok(())
}

fn by_hand_from(set: &ReplSet, id: &str, stage: &'static str, pause: Duration) -> R {
    let place = Place::new(set, id, PLAN, soaks_in(stage))?;
    let mut app = place.application(2_000, &["--read-percent", "40"])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, stage)?;
    run.kill()?;
    // The application goes on: what it writes on next now nobody carries back.
    std::thread::sleep(pause);
    let way = explained(&place, "explain")?;
    if way["steps"].as_array().is_none_or(|s| s.len() < 15) || way.to_string().contains("127.0.0.1") {
        return Err(format!("the steps, or an address in them: {way}"));
    }
    by_hand([&set.uri(), &set.uri()], &way)?;
    app_is_whole(&mut app)?;
    is_at_rest(set, &place.id)?;
    // Whoever takes it up is told that it is over.
    for (name, more) in [("asks", &[][..]), ("insists", &["--take-over", "--reason", "why not"][..])] {
        let mut resume = place.resume(name, "first.jsonl", more)?;
        resume.ends_with(1, Duration::from_secs(30))?;
        if !resume.stderr().contains("is finished; its journal is closed") {
            return Err(resume.tail());
        }
    }
    journals_agree(&place, "first.jsonl")?;
    let mut again = place.start("again", "rollback", &["--explain"])?;
    again.ends_with(1, Duration::from_secs(30))?;
    if again.stderr().contains("everything is on legacy already") { Ok(()) } else { Err(again.tail()) }
}

fn half(set: &ReplSet) -> R {
    by_hand_from(set, "handhalf", "half", Duration::from_secs(2))
}

fn full(set: &ReplSet) -> R {
    // Longer than the lease.
    by_hand_from(set, "handfull", "full", Duration::from_secs(11))
}

fn two_clusters(set: &ReplSet) -> R {
    let other = shared()?;
    let two =
        |p: String| soaks_in("half")(p.replace("environment", "next_uri = \"${TIDEGATE_NEXT_URI}\"\nenvironment"));
    let place = Place::new(set, "handtwo", PLAN, two)?.with_next(&other);
    let mut app = place.application(1_000, &["--read-percent", "40"])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    run.kill()?;
    std::thread::sleep(Duration::from_secs(2));
    let way = explained(&place, "explain")?;
    by_hand([&set.uri(), &other.uri()], &way)?;
    app_is_whole(&mut app)?;
    let kept = TOKIO.block_on(async {
        let client = Client::with_uri_str(other.uri()).await?;
        let names = client.database(&place.id).list_collection_names().await?;
        client.database(&place.id).drop().await?;
        Ok::<_, mongodb::error::Error>(names)
    });
    let kept = kept.map_err(|e| e.to_string())?;
    if kept.contains(&"orders_v2.isolated.handtwo".to_owned()) { Ok(()) } else { Err(format!("on next: {kept:?}")) }
}

fn early(set: &ReplSet) -> R {
    let place = Place::new(set, "handearly", PLAN, soaks_in("shadow"))?;
    let mut none = place.start("none", "rollback", &["--explain"])?;
    none.ends_with(1, Duration::from_secs(30))?;
    if !none.stderr().contains("has not been begun") {
        return Err(none.tail());
    }
    let mut app = place.application(500, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "shadow")?;
    let warned = explained(&place, "warned")?;
    if !warned["stands"].to_string().contains("first RUNS IT NOW") {
        return Err(format!("the runner is not named: {warned}"));
    }
    run.kill()?;
    let way = explained(&place, "explain")?;
    by_hand([&set.uri(), &set.uri()], &way)?;
    app_is_whole(&mut app)?;
    is_at_rest(set, &place.id)
}

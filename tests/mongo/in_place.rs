//! Migrating in place by the real program on a replica set of three nodes, while an application edits what it finds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Client, Collection};
use serde_json::Value;
use tidegate::plan::Plan;
use tidegate::transform::{Shape, Transform};

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::{R, TOKIO, on_one_and_three, on_shared, on_three};

const PLAN: &str = include_str!("in_place.toml");
const LONG: Duration = Duration::from_secs(240);
const DOCUMENTS: i64 = 20_000;
/// One document in so many is edited.
const EVERY: i64 = 20;

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        on_three("in_place::20_000_documents_come_back_byte_for_byte_while_one_in_twenty_is_edited", comes_back),
        on_three("in_place::a_runner_killed_there_and_back_restores_every_document", killed),
        on_shared("in_place::a_shape_matches_what_the_server_finds", |s| async move { shapes(&s).await }),
    ];
    all.extend(on_one_and_three("in_place::it_completes_and_verify_agrees", completes));
    all
}

type Docs = BTreeMap<i64, RawDocumentBuf>;

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

async fn orders(set: &ReplSet, id: &str) -> Result<Collection<RawDocumentBuf>, String> {
    Ok(Client::with_uri_str(set.uri()).await.map_err(text)?.database(id).collection("orders"))
}

async fn fill(all: &Collection<RawDocumentBuf>) -> R {
    for from in (0..DOCUMENTS).step_by(2_000) {
        let doc = |id: i64| {
            rawdoc! {
                "_id": id, "rev": 0i64, "customer": { "city": format!("city {}", id % 7), "name": format!("Cust {}", id % 97) },
                "total": format!("{}.{:02}", id, id % 100), "note": "", "tags": ["a", id],
            }
        };
        let docs: Vec<_> = (from..(from + 2_000).min(DOCUMENTS)).map(doc).collect();
        all.insert_many(docs).await.map_err(text)?;
    }
    Ok(())
}

async fn everything(all: &Collection<RawDocumentBuf>) -> Result<Docs, String> {
    let mut found = all.find(doc! {}).await.map_err(text)?;
    let mut docs = Docs::new();
    while found.advance().await.map_err(text)? {
        let d = found.current().to_owned();
        docs.insert(d.get_i64("_id").map_err(text)?, d);
    }
    Ok(docs)
}

async fn changed(all: &Collection<RawDocumentBuf>) -> Result<i64, String> {
    all.count_documents(doc! { "schema_version": 2 }).await.map(|n| n as i64).map_err(text)
}

/// An application that edits one document in twenty, each in the shape that it has at that moment, and keeps what the server then had.
struct App {
    stop: Arc<AtomicBool>,
    edits: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<Docs, String>>,
}

impl App {
    fn start(all: Collection<RawDocumentBuf>) -> App {
        let (stop, edits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, done) = (stop.clone(), edits.clone());
        let task = TOKIO.spawn(async move {
            let mut written = Docs::new();
            let mut n = 0i64;
            while !stopped.load(Ordering::SeqCst) {
                // A stride without a common divisor: every key has its turn.
                let id = (n * 617 % (DOCUMENTS / EVERY)) * EVERY;
                n += 1;
                written.insert(id, edit(&all, id, n).await?);
                done.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Ok(written)
        });
        App { stop, edits, task }
    }

    fn edits(&self) -> u64 {
        self.edits.load(Ordering::SeqCst)
    }

    fn stop(self) -> Result<Docs, String> {
        self.stop.store(true, Ordering::SeqCst);
        TOKIO.block_on(self.task).map_err(text)?
    }
}

async fn edit(all: &Collection<RawDocumentBuf>, id: i64, n: i64) -> Result<RawDocumentBuf, String> {
    let note = format!("edit {n}");
    let next = doc! { "$set": { "note": &note, "customer_name": format!("Renamed {n}") }, "$inc": { "rev": 1i64 } };
    let legacy = doc! { "$set": { "note": &note, "customer.name": format!("Renamed {n}") }, "$inc": { "rev": 1i64 } };
    loop {
        for (shape, update) in [(doc! { "$eq": 2 }, &next), (doc! { "$exists": false }, &legacy)] {
            let filter = doc! { "_id": id, "schema_version": shape };
            let found = all.find_one_and_update(filter, update.clone()).return_document(ReturnDocument::After).await;
            if let Some(doc) = found.map_err(text)? {
                return Ok(doc);
            }
        }
    }
}

fn transform(plan: &str) -> Result<Transform, String> {
    let plan = Plan::parse(&plan.replace("WATCH", "1s"), "in_place.toml").map_err(|e| e.render(false))?;
    Ok(Transform::new(&plan.collections[0].steps))
}

/// Untouched documents are what they were, edited ones their edit brought back.
fn came_back(before: &Docs, written: &Docs, after: &Docs) -> R {
    let t = transform(PLAN)?;
    if before.len() != after.len() {
        return Err(format!("{} documents before, {} after", before.len(), after.len()));
    }
    let (mut same, mut next, mut legacy) = (0, 0, 0);
    for (id, was) in before {
        let wanted = match written.get(id) {
            None => {
                same += 1;
                was.clone()
            }
            Some(w) if is_next(w) => {
                next += 1;
                t.invert(w).map_err(text)?
            }
            Some(w) => {
                legacy += 1;
                w.clone()
            }
        };
        let is = &after[id];
        if is.as_bytes() != wanted.as_bytes() {
            return Err(format!("{id} is {is:?}, not {wanted:?}; written: {:?}", written.get(id)));
        }
    }
    eprintln!("{same} untouched and equal, {next} last edited in next's shape, {legacy} in legacy's");
    let every = (DOCUMENTS / EVERY) as usize;
    if written.len() == every && same == before.len() - every {
        Ok(())
    } else {
        Err(format!("{} documents were edited, not {every}", written.len()))
    }
}

fn is_next(d: &RawDocument) -> bool {
    d.get("schema_version").ok().flatten().is_some()
}

fn place(set: &ReplSet, id: &str, watch: &str, more: &str) -> Result<Place, String> {
    Place::new(set, id, PLAN, |p| format!("{}{more}", p.replace("WATCH", watch)))
}

fn comes_back(set: &ReplSet) -> R {
    let place = place(set, "inplace", "10m", "")?;
    let all = TOKIO.block_on(orders(set, &place.id))?;
    TOKIO.block_on(fill(&all))?;
    let before = TOKIO.block_on(everything(&all))?;
    let mut run = place.run("first", "first.jsonl")?;
    until("it watches", LONG, || run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == "watch"))?;
    let next = TOKIO.block_on(changed(&all))?;
    if next != DOCUMENTS {
        return Err(format!("{next} documents were changed"));
    }
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    let app = App::start(all.clone());
    until("edits", LONG, || Ok((app.edits() > 200).then_some(())))?;
    let mut back =
        place.start("back", "rollback", &["--headless", "--json", "--journal", "back.jsonl", "--as", "back"])?;
    back.ends_with(3, LONG)?;
    until("every key has been edited", LONG, || Ok((app.edits() > 1_000).then_some(())))?;
    let written = app.stop()?;
    came_back(&before, &written, &TOKIO.block_on(everything(&all))?)?;
    eprintln!("changed within {}, undone within {}", took(&run, "backfill"), took(&back, "undo"));
    let sum = back.summary()?;
    if sum["outcome"] != "rolled_back" || sum["documents"]["matched"] != DOCUMENTS || sum["writes"]["stray"] != 0 {
        return Err(format!("{sum}; {}", back.tail()));
    }
    super::rollout::journals_agree(&place, "back.jsonl")
}

/// How long a task took, by the journal.
fn took(run: &Program, task: &str) -> String {
    let lines = run.lines();
    let at = |l: &Value| l["at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
    let Some(begun) = lines.iter().position(|l| l["kind"] == "task_intended" && l["body"]["task"] == task) else {
        return "?".into();
    };
    let done = lines[begun..].iter().find(|l| l["kind"] == "task_done").and_then(at);
    match (at(&lines[begun]), done) {
        (Some(a), Some(b)) => format!("{} ms", b.duration_since(a).as_millis()),
        _ => "?".into(),
    }
}

fn killed(set: &ReplSet) -> R {
    let place = place(set, "inplacekill", "10m", "\n[throttle]\nmax_rate = 4000\n")?;
    let all = TOKIO.block_on(orders(set, &place.id))?;
    TOKIO.block_on(fill(&all))?;
    let before = TOKIO.block_on(everything(&all))?;
    let app = App::start(all.clone());
    let taken = ["--take-over", "--reason", "killed"];
    let advance = |to: i64, up: bool| {
        let what = format!("{to} documents are in next's shape");
        until(&what, LONG, || {
            let n = TOKIO.block_on(changed(&all))?;
            Ok(((n >= to) == up).then_some(()))
        })
    };
    let mut run = place.run("runner-0", "kill.jsonl")?;
    for (n, to) in [4_000, 9_000, 14_000].into_iter().enumerate() {
        advance(to, true)?;
        run.kill()?;
        run = place.resume(&format!("runner-{}", n + 1), "kill.jsonl", &taken)?;
    }
    until("it watches", LONG, || run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == "watch"))?;
    run.kill()?;
    let args = ["--headless", "--json", "--journal", "kill.jsonl", "--as", "back"];
    run = place.start("back", "rollback", &[&args[..], &taken].concat())?;
    for (n, to) in [15_000, 8_000, 2_000].into_iter().enumerate() {
        advance(to, false)?;
        run.kill()?;
        run = place.resume(&format!("back-{n}"), "kill.jsonl", &taken)?;
    }
    run.ends_with(3, LONG)?;
    until("every key has been edited", LONG, || Ok((app.edits() > 1_000).then_some(())))?;
    let written = app.stop()?;
    came_back(&before, &written, &TOKIO.block_on(everything(&all))?)?;
    super::rollout::journals_agree(&place, "kill.jsonl")
}

fn completes(set: &ReplSet) -> R {
    let place = place(set, "inplaceend", "1s", "")?;
    let all = TOKIO.block_on(orders(set, &place.id))?;
    TOKIO.block_on(fill(&all))?;
    let before = TOKIO.block_on(everything(&all))?;
    let app = App::start(all.clone());
    let mut run = place.run("first", "first.jsonl")?;
    run.ends_with(0, LONG)?;
    let written = app.stop()?;
    let t = transform(PLAN)?;
    for (id, is) in TOKIO.block_on(everything(&all))? {
        let from = written.get(&id).unwrap_or(&before[&id]);
        let wanted = if is_next(from) { from.clone() } else { t.apply(from).map_err(text)? };
        if is.as_bytes() != wanted.as_bytes() {
            return Err(format!("{id} is {is:?}, not {wanted:?}"));
        }
    }
    let mut verify = place.start("verify", "verify", &["--json"])?;
    verify.ends_with(0, LONG)?;
    let said = verify.lines().pop().unwrap_or_default();
    if said["matched"] == DOCUMENTS && said["differing"] == 0 { Ok(()) } else { Err(said.to_string()) }
}

/// What the engine judges by itself is what a person finds with the same filter.
async fn shapes(set: &ReplSet) -> R {
    let client = Client::with_uri_str(set.uri()).await.map_err(text)?;
    let all = client.database("shapes").collection::<Document>("docs");
    let docs = [
        doc! { "_id": 0 },
        doc! { "_id": 1, "v": 2, "c": { "name": "x", "tags": ["a", "b"] } },
        doc! { "_id": 2, "v": 2i64, "c": bson::Bson::Null },
        doc! { "_id": 3, "v": 2.0, "c": [{ "name": "x" }, { "name": 5 }] },
        doc! { "_id": 4, "v": [2, "2"], "c": { "name": [] } },
        doc! { "_id": 5, "v": bson::Bson::Null, "c": { "name": { "first": "x" }, "tags": [["a", "b"]] } },
        doc! { "_id": 6, "v": "2", "c": ["x", { "0": "y" }] },
        doc! { "_id": 7, "v": { "a": 1, "b": 2 }, "c": { "tags": [{ "p": 1 }, { "p": [1, 2i64] }] } },
    ];
    all.insert_many(&docs).await.map_err(text)?;
    let filters = [
        doc! { "v": 2 },
        doc! { "v": "2" },
        doc! { "v": bson::Bson::Null },
        doc! { "v": [2, "2"] },
        doc! { "v": { "b": 2, "a": 1 } },
        doc! { "v": { "a": 1.0, "b": 2 } },
        doc! { "c.name": "x" },
        doc! { "c.name": bson::Bson::Null },
        doc! { "c.tags": ["a", "b"] },
        doc! { "c.tags.0": "a" },
        doc! { "c.0": "x" },
        doc! { "c.tags.0": ["a", "b"] },
        doc! { "c.tags.0.1": "b" },
        doc! { "c.0.name": "x" },
        doc! { "c.tags.p": 2 },
        doc! { "c.name": { "$exists": true } },
        doc! { "c.name": { "$exists": false } },
        doc! { "c.name": { "$type": "string" } },
        doc! { "c.name": { "$type": "array" } },
        doc! { "c.tags": { "$type": "array" } },
        doc! { "c.tags.p": { "$type": "long" } },
        doc! { "v": { "$type": "number" } },
        doc! { "v": { "$type": "null", "$exists": true } },
        doc! { "v": 2, "c": { "$type": "object" } },
    ];
    let mut wrong = Vec::new();
    for filter in filters {
        let mut found = all.find(filter.clone()).sort(doc! { "_id": 1 }).await.map_err(text)?;
        let mut theirs = Vec::new();
        while found.advance().await.map_err(text)? {
            theirs.push(found.current().get_i32("_id").map_err(text)?);
        }
        let shape = Shape::new(&filter);
        let matches = |d: &&Document| RawDocumentBuf::try_from(*d).is_ok_and(|d| shape.matches(&d));
        let ours: Vec<i32> = docs.iter().filter(matches).filter_map(|d| d.get_i32("_id").ok()).collect();
        if ours != theirs {
            wrong.push(format!("{filter}: {ours:?}, the server finds {theirs:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

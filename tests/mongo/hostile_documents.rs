//! Ten thousand documents made to hurt, on a real server: carried to next, edited there and brought back byte for byte, and each one
//! that cannot be carried listed by its `_id` with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};
use tidegate::cluster::Key;

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::{R, TOKIO, on_shared};
use crate::hostile::{self, Hostile};

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
[rollback]
baseline_ratio = 50
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
STEPS
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "1s"
[[stage]]
id = "full"
reads = 100
writes = 100
soak = "10m"
"#;

const LONG: Duration = Duration::from_secs(240);

pub fn trials() -> Vec<Trial> {
    let on = |name: &str, count: u64, large: u64| {
        let id = format!("hostile{count}");
        on_shared(name, move |set| async move {
            tokio::task::spawn_blocking(move || there_and_back(&set, &id, count, large))
                .await
                .map_err(|e| e.to_string())?
        })
    };
    vec![
        on("hostile::a_thousand_documents_go_there_and_back_or_are_listed", 1_000, 1),
        on("hostile::ten_thousand_documents_go_there_and_back_or_are_listed", 10_000, 4),
    ]
}

type Docs = BTreeMap<Key, RawDocumentBuf>;

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// A server takes 16 MiB and a little for a command.
const COMMAND_BYTES: usize = 15 << 20;

async fn insert_batch(db: &Database, all: RawArrayBuf) -> R {
    let command = rawdoc! { "insert": "orders", "documents": all, "writeConcern": { "w": "majority" } };
    let said: Document = db.run_raw_command(command).await.map_err(text)?;
    if said.contains_key("writeErrors") { Err(format!("{said:.400}")) } else { Ok(()) }
}

async fn insert(db: &Database, docs: &[Hostile]) -> R {
    let (mut batch, mut bytes) = (RawArrayBuf::new(), 0);
    for d in docs.iter().filter(|d| !d.only_raw) {
        let size = d.doc.as_bytes().len() + 16;
        if bytes > 0 && bytes + size > COMMAND_BYTES {
            insert_batch(db, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        batch.push(&*d.doc);
        bytes += size;
    }
    insert_batch(db, batch).await?;
    // An insert would fill in a zero timestamp, and refuse some names: a pipeline that makes a constant stores it.
    for d in docs.iter().filter(|d| d.only_raw) {
        let key = Key::of(&d.doc).map_err(text)?;
        let constant = RawArrayBuf::from_iter([rawdoc! { "$replaceWith": { "$literal": d.doc.clone() } }]);
        let updates = RawArrayBuf::from_iter([rawdoc! { "q": by_id(&key), "u": constant, "upsert": true }]);
        let command = rawdoc! { "update": "orders", "updates": updates, "writeConcern": { "w": "majority" } };
        let said: Document = db.run_raw_command(command).await.map_err(text)?;
        if !matches!(said.get_i32("n"), Ok(1)) {
            return Err(format!("{key}: {said:.400}"));
        }
    }
    Ok(())
}

fn by_id(key: &Key) -> RawDocumentBuf {
    rawdoc! { "_id": { "$eq": bson::RawBson::from(key.value()) } }
}

async fn everything(db: &Database, coll: &str) -> Result<Docs, String> {
    let mut found = db.collection::<RawDocumentBuf>(coll).find(doc! {}).await.map_err(text)?;
    let mut docs = Docs::new();
    while found.advance().await.map_err(text)? {
        let d = found.current().to_owned();
        docs.insert(Key::of(&d).map_err(text)?, d);
    }
    Ok(docs)
}

/// Errors with the first document that is not what it should be.
fn same(what: &str, wanted: &Docs, found: &Docs) -> R {
    let bytes = |d: Option<&RawDocumentBuf>| d.map(|d| d.as_bytes().to_vec());
    let keys: BTreeSet<&Key> = wanted.keys().chain(found.keys()).collect();
    let wrong: Vec<&&Key> = keys.iter().filter(|k| bytes(wanted.get(k)) != bytes(found.get(k))).collect();
    let Some(first) = wrong.first() else { return Ok(()) };
    let show = |d: Option<&RawDocumentBuf>| format!("{d:?}").chars().take(700).collect::<String>();
    let (is, was) = (show(found.get(first)), show(wanted.get(first)));
    Err(format!("{what}: {} of {} differ, first {first}: {is}, not {was}", wrong.len(), keys.len()))
}

/// What the list in the control database says of the rollout's documents: the key's value and why, and the document itself.
async fn listed(db: &Database, id: &str) -> Result<BTreeMap<Key, (String, Option<RawDocumentBuf>)>, String> {
    let all = db.client().database("tidegate").collection::<RawDocumentBuf>("quarantine");
    let mut found = all.find(doc! { "plan": id, "event": "refused" }).await.map_err(text)?;
    let mut list = BTreeMap::new();
    while found.advance().await.map_err(text)? {
        let d = found.current();
        let key = Key::new(d.get("key").map_err(text)?.ok_or("a record without a key")?).map_err(text)?;
        let why = d.get_str("why").map_err(text)?.to_owned();
        list.insert(key, (why, d.get_document("document").ok().map(RawDocument::to_owned)));
    }
    Ok(list)
}

/// Every document that cannot be carried is told with its key and the reason, and kept.
fn all_listed(db: &Database, place: &Place, run: &mut Program, misfits: &[&Hostile]) -> R {
    let told = |run: &Program| run.lines().into_iter().filter(|l| l["kind"] == "stray_found").collect::<Vec<_>>();
    until("all that cannot be carried are told", LONG, || {
        run.running()?;
        Ok((told(run).len() >= misfits.len()).then_some(()))
    })?;
    let (told, list) = (told(run), TOKIO.block_on(listed(db, &place.id))?);
    if told.len() != misfits.len() || list.len() != misfits.len() {
        return Err(format!("{} told and {} listed of {}", told.len(), list.len(), misfits.len()));
    }
    for m in misfits {
        let key = Key::of(&m.doc).map_err(text)?;
        let why = m.refused.unwrap_or("?");
        let line = told
            .iter()
            .find(|l| l["body"]["key"] == hostile::told_as(&key))
            .ok_or_else(|| format!("{key} is not told"))?;
        let kept = list.get(&key).ok_or_else(|| format!("{key} is not listed"))?;
        if !line["body"]["why"].as_str().is_some_and(|w| w.contains(why)) || !kept.0.contains(why) {
            return Err(format!("{key}: {line} and {}, not {why}", kept.0));
        }
        // What leaves no room for a record's own fields is named, and not kept.
        let fits = m.doc.as_bytes().len() < 15 << 20;
        if kept.1.as_ref().map(|d| d.as_bytes()) != fits.then_some(m.doc.as_bytes()) {
            return Err(format!("{key} is not kept as it is"));
        }
    }
    Ok(())
}

/// Nothing that steers a terminal, hides or reorders text is printed.
fn is_harmless(place: &Place, name: &str) -> R {
    for file in [format!("{name}.out"), format!("{name}.err"), "first.jsonl".to_owned()] {
        let said = std::fs::read_to_string(place.file(&file)).unwrap_or_default();
        let odd = |c: &char| {
            c.is_control() && *c != '\n'
                || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        };
        if let Some(line) = said.lines().find(|l| l.chars().any(|c| odd(&c))) {
            return Err(format!("{file}: {line:?}"));
        }
    }
    Ok(())
}

fn ask(place: &Place, what: &str) -> R {
    place.start(what, "watch", &["--ask", what, "--json"])?.ends_with(0, LONG)
}

fn paused(run: &mut Program) -> R {
    until("it pauses", LONG, || run.prints(|l| l["kind"] == "paused")).map(drop)
}

fn there_and_back(set: &ReplSet, id: &str, count: u64, large: u64) -> R {
    let place = Place::new(set, id, PLAN, |p| p.replace("STEPS", hostile::STEPS))?;
    let db = TOKIO.block_on(Client::with_uri_str(set.uri())).map_err(text)?.database(id);
    let docs: Vec<Hostile> = hostile::documents(count, large, |_| "as it was").collect();
    let misfits: Vec<&Hostile> = docs.iter().filter(|d| d.refused.is_some()).collect();
    let by_key = |h: &Hostile| Ok::<_, String>((Key::of(&h.doc).map_err(text)?, h.doc.clone()));
    let mut wanted: Docs = docs.iter().map(by_key).collect::<Result<_, _>>()?;
    if wanted.len() != docs.len() {
        return Err("two documents have one _id".into());
    }
    TOKIO.block_on(insert(&db, &docs))?;
    same("what the server stores", &wanted, &TOKIO.block_on(everything(&db, "orders"))?)?;

    let mut run = place.run("first", "first.jsonl")?;
    paused(&mut run)?;
    all_listed(&db, &place, &mut run, &misfits)?;
    ask(&place, "continue")?;
    let held = "no stage passes while they are missing";
    until(held, LONG, || run.prints(|l| l["kind"] == "task_held" && l["body"]["why"].to_string().contains("missing")))?;
    same("legacy", &wanted, &TOKIO.block_on(everything(&db, "orders"))?)?;

    // A person takes them away, says so, and the rollout goes on.
    let mut keys = Vec::new();
    for m in &misfits {
        let key = Key::of(&m.doc).map_err(text)?;
        let deletes = RawArrayBuf::from_iter([rawdoc! { "q": by_id(&key), "limit": 1 }]);
        let command = rawdoc! { "delete": "orders", "deletes": deletes, "writeConcern": { "w": "majority" } };
        TOKIO.block_on(async { db.run_raw_command(command).await }).map_err(text)?;
        wanted.remove(&key);
        keys.extend(["--key".to_owned(), hostile::told_as(&key)]);
    }
    until("the copy is whole", LONG, || run.prints(|l| l["kind"] == "soak_began"))?;
    ask(&place, "stop")?;
    run.ends_with(4, LONG)?;
    let args = ["--template", "release", "--yes", "--json", "--journal", "first.jsonl", "--reason", "moved elsewhere"];
    let args: Vec<&str> = args.into_iter().chain(keys.iter().map(String::as_str)).collect();
    place.start("release", "repair", &args)?.ends_with(0, LONG)?;
    let mut run = place.resume("second", "first.jsonl", &["--take-over", "--reason", "released"])?;
    until("everything is on next", LONG, || {
        let entered = run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == "full")?;
        let Some(at) = entered.and_then(|l| l["seq"].as_i64()) else { return Ok(None) };
        run.prints(|l| l["kind"] == "soak_began" && l["seq"].as_i64().unwrap_or(0) > at)
    })?;

    // One in ten is edited on next, which owns them now.
    for (n, h) in
        hostile::documents(count, large, |_| "edited on next").enumerate().filter(|(n, h)| n % 10 == 7 && h.editable)
    {
        let key = Key::of(&h.doc).map_err(text)?;
        let updates = RawArrayBuf::from_iter([rawdoc! {
            "q": by_id(&key), "u": { "$set": { "note": "edited on next" } },
        }]);
        let command = rawdoc! { "update": "orders_v2", "updates": updates, "writeConcern": { "w": "majority" } };
        let said: Document = TOKIO.block_on(async { db.run_raw_command(command).await }).map_err(text)?;
        if !matches!(said.get_i32("nModified"), Ok(1)) {
            return Err(format!("document {n}, {key}: {said}"));
        }
        wanted.insert(key, h.doc);
    }
    let args = [
        "--hard",
        "--take-over",
        "--reason",
        "back",
        "--headless",
        "--json",
        "--journal",
        "first.jsonl",
        "--as",
        "back",
    ];
    let mut back = place.start("back", "rollback", &args)?;
    back.ends_with(3, LONG)?;
    run.ends_with(1, LONG)?;
    same("what has come back", &wanted, &TOKIO.block_on(everything(&db, "orders"))?)?;
    for name in ["first", "release", "second", "back"] {
        is_harmless(&place, name)?;
    }
    let gone = TOKIO.block_on(async { db.drop().await });
    gone.map_err(text)
}

//! TTL indexes, unique indexes and lossy steps on a real server: there, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::{Client, Collection, Database};
use tidegate::cluster::Db;
use tidegate::engine::{self, Deps, End, Engine};
use tidegate::journal::{MemStore, show};
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::{Group, sleep};
use tidegate::snapshot::Command;

use super::replset::ReplSet;
use super::{R, connect, live, on_shared};

const PLAN: &str = r#"
schema = 1
[plan]
id = "constraints"
title = "People"
[cluster]
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "constraints.people"
next = "constraints.people_v2"
steps = [{ unset = "secret", lossy = true }, { rename = "mail", to = "email" }]
indexes = [
  { keys = { email = 1 }, name = "by_email", unique = true },
  { keys = { seen = 1 }, name = "gone_by", expire_after_seconds = 7200 },
]
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
[[stage]]
id = "all"
reads = 100
writes = 100
soak = "10m"
"#;

const DOCUMENTS: i32 = 100;

pub fn trials() -> Vec<Trial> {
    vec![on_shared(
        "constraints::what_expires_is_unique_or_lost_comes_back_whole",
        |set| async move { whole(&set).await },
    )]
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

async fn expiry(db: &Database, coll: &str, name: &str) -> Result<i64, String> {
    let answer = db.run_command(doc! { "listIndexes": coll }).await.map_err(text)?;
    let list = answer.get_document("cursor").and_then(|c| c.get_array("firstBatch")).map_err(text)?;
    let found = list.iter().filter_map(|i| i.as_document()).find(|i| i.get_str("name").is_ok_and(|n| n == name));
    let seconds = found.and_then(|i| i.get("expireAfterSeconds")).ok_or_else(|| format!("{coll} has no {name}"))?;
    seconds.as_i64().or(seconds.as_i32().map(i64::from)).ok_or_else(|| format!("{seconds}"))
}

pub async fn until(engine: &Engine, journal: &MemStore, what: &str, done: impl Fn(&MemStore) -> bool) -> R {
    let began = Instant::now();
    while !done(journal) {
        if began.elapsed() > Duration::from_secs(90) {
            let log: Vec<String> = journal.records().iter().map(show).collect();
            return Err(format!("{what}: {}\n{}", engine.snapshot().why, log.join("\n")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Gives a document another address, straight on next.
async fn move_to(next: &Collection<Document>, id: i32, mail: String) -> R {
    let done = next.update_one(doc! { "_id": id }, doc! { "$set": { "email": mail } }).await.map_err(text)?;
    if done.matched_count == 1 { Ok(()) } else { Err(format!("{id} is not on next")) }
}

async fn whole(set: &ReplSet) -> R {
    let client = Client::with_uri_str(set.uri()).await.map_err(text)?;
    let db = client.database("constraints");
    let now = DateTime::now();
    let docs = (0..DOCUMENTS).map(|id| {
        doc! { "_id": id, "mail": format!("m{id}"), "secret": format!("s{id}"), "seen": now }
    });
    let legacy = db.collection::<Document>("people");
    legacy.insert_many(docs).await.map_err(text)?;
    let indexes = vec![
        doc! { "key": { "mail": 1 }, "name": "by_mail", "unique": true },
        doc! { "key": { "seen": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 },
    ];
    db.run_command(doc! { "createIndexes": "people", "indexes": indexes }).await.map_err(text)?;

    let rt = live();
    let cluster: Db = connect(set, "constraints").await?;
    let journal = MemStore::new();
    let deps = Deps {
        rt: rt.clone(),
        group: Group(7_001),
        clusters: [cluster.clone(), cluster],
        one_cluster: true,
        journal: Arc::new(journal.clone()),
        plan: Arc::new(Plan::parse(PLAN, "constraints.toml").map_err(|e| e.render(false))?),
        on_record: Arc::new(|_| {}),
    };
    let config = engine::Config { holder: "test".into(), advance: Some(Advance::Auto), ..engine::Config::default() };
    let engine = engine::start(deps, config).await.map_err(text)?;
    let soaks = |j: &MemStore| j.records().iter().filter(|r| r.kind == "soak_began").count() >= 2;
    until(&engine, &journal, "all writes are on next", soaks).await?;
    for (coll, name) in [("people", "ttl"), ("people_v2", "gone_by")] {
        let seconds = expiry(&db, coll, name).await?;
        if seconds != i64::from(i32::MAX) {
            return Err(format!("{name} lets documents expire after {seconds} s"));
        }
    }
    // Two hours old: it expires at once, were it not for the suspension.
    let next = db.collection::<Document>("people_v2");
    let long_ago = DateTime::from_millis(now.timestamp_millis() - 3 * 3_600_000);
    next.update_one(doc! { "_id": 99 }, doc! { "$set": { "seen": long_ago } }).await.map_err(text)?;
    for n in 0..20 {
        let (a, b) = (n % 10, 10 + (n * 7) % 10);
        let mail = |d: Option<Document>| d.and_then(|d| d.get_str("email").ok().map(str::to_owned)).unwrap_or_default();
        let was_a = mail(next.find_one(doc! { "_id": a }).await.map_err(text)?);
        let was_b = mail(next.find_one(doc! { "_id": b }).await.map_err(text)?);
        move_to(&next, a, format!("free-{n}")).await?;
        move_to(&next, b, was_a).await?;
        move_to(&next, a, was_b).await?;
    }
    sleep(&rt, tidegate::runtime::Micros::from_secs(3)).await;
    if next.count_documents(doc! {}).await.map_err(text)? != DOCUMENTS as u64 {
        return Err("a document has expired on next".into());
    }
    let mut wanted = Vec::new();
    for id in 0..DOCUMENTS {
        let d = next.find_one(doc! { "_id": id }).await.map_err(text)?.ok_or_else(|| format!("{id} is gone"))?;
        wanted.push((id, d.get_str("email").map_err(text)?.to_owned(), format!("s{id}")));
    }
    let reply = engine.send(Command::Rollback { hard: true, to: None }).ok_or("the engine takes no command")?;
    reply.await.map_err(text)?;
    until(&engine, &journal, "it is back", |j| j.records().last().is_some_and(|r| r.kind == "closed")).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    if engine.ended() != Some(End::RolledBack) || journal.records().iter().any(|r| r.kind == "stray_found") {
        let log: Vec<String> = journal.records().iter().map(show).collect();
        return Err(format!("{:?}\n{}", engine.ended(), log.join("\n")));
    }
    let seconds = expiry(&db, "people", "ttl").await?;
    if seconds != 3_600 {
        return Err(format!("legacy lets documents expire after {seconds} s"));
    }
    let began = Instant::now();
    while legacy.count_documents(doc! { "_id": 99 }).await.map_err(text)? != 0 {
        if began.elapsed() > Duration::from_secs(20) {
            return Err("nothing expires on legacy any more".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (id, mail, secret) in wanted.into_iter().filter(|(id, ..)| *id != 99) {
        let d =
            legacy.find_one(doc! { "_id": id }).await.map_err(text)?.ok_or_else(|| format!("{id} is not on legacy"))?;
        if (d.get_str("mail").ok(), d.get_str("secret").ok()) != (Some(mail.as_str()), Some(secret.as_str())) {
            return Err(format!("{id} is {d}, not {mail} with {secret}"));
        }
    }
    Ok(())
}

//! `tidegate check` on a real replica set: a set-up that nothing speaks against, and broken ones, each named with what to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use serde_json::Value;

use super::canary::{self, Dir};
use super::program::Place;
use super::replset::PASSWORD;
use super::{R, ReplSet, TOKIO, connecting, mongod, on_its_own, on_shared, on_three};

const PLAN: &str = r#"
schema = 1
[plan]
id = "orders-v2"
[cluster]
uri = "${TIDEGATE_URI}"
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { convert = "total", from = "string", to = "decimal" }]
indexes = [{ keys = { customer_name = 1 }, name = "by_customer" }]
[[query]]
name = "orders of a customer"
legacy = '{ "customer.name": "Cust 7" }'
next = '{ "customer_name": "Cust 7" }'
uses_index = true
[[stage]]
id = "copy"
do = ["create", "backfill", "indexes"]
[[stage]]
id = "full"
reads = 100
writes = 100
[[stage]]
id = "contract"
do = ["quarantine-legacy"]
irreversible = true
"#;

type SetUp = Pin<Box<dyn Future<Output = Result<(), mongodb::error::Error>> + Send>>;

/// A broken set-up and the one check that must name it, with a piece of what it says.
struct Case {
    name: &'static str,
    set_up: fn(Database) -> SetUp,
    check: &'static str,
    verdict: &'static str,
    says: &'static str,
}

const fn case(
    name: &'static str,
    check: &'static str,
    verdict: &'static str,
    says: &'static str,
    set_up: fn(Database) -> SetUp,
) -> Case {
    Case { name, set_up, check, verdict, says }
}

fn order(id: impl Into<Bson>) -> Document {
    let id = id.into();
    doc! { "customer": { "name": format!("Cust {id}") }, "total": "12.50", "_id": id }
}

async fn filled(db: &Database) -> Result<(), mongodb::error::Error> {
    let orders = db.collection::<Document>("orders");
    orders.insert_many((0..100).map(order)).await?;
    db.run_command(
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "customer.name": 1 }, "name": "by_name" }] },
    )
    .await
    .map(drop)
}

/// Legacy made anew by a command, with one document where it takes one.
async fn made(db: &Database, command: Document) -> Result<(), mongodb::error::Error> {
    db.collection::<Document>("orders").drop().await?;
    db.run_command(command).await.map(drop)
}

const CASES: [Case; 19] = [
    case("legacy_is_not_there", "legacy-exists", "fail", "does not exist", |db| {
        Box::pin(async move { db.collection::<Document>("orders").drop().await })
    }),
    case("legacy_is_empty", "legacy-not-empty", "warn", "it is empty", |db| {
        Box::pin(async move { db.collection::<Document>("orders").delete_many(doc! {}).await.map(drop) })
    }),
    case("legacy_is_capped", "legacy-kind", "fail", "here: it is capped", |db| {
        Box::pin(async move { made(&db, doc! { "create": "orders", "capped": true, "size": 1 << 20 }).await })
    }),
    case("legacy_is_a_view", "legacy-kind", "fail", "here: it is a view", |db| {
        Box::pin(async move { made(&db, doc! { "create": "orders", "viewOn": "others", "pipeline": [] }).await })
    }),
    case("legacy_is_time_series", "legacy-kind", "fail", "here: it is a time-series collection", |db| {
        Box::pin(async move { made(&db, doc! { "create": "orders", "timeseries": { "timeField": "at" } }).await })
    }),
    case("legacy_has_a_collation", "legacy-collation", "fail", "here: the collation `de`", |db| {
        Box::pin(async move { made(&db, doc! { "create": "orders", "collation": { "locale": "de" } }).await })
    }),
    case("legacy_has_encrypted_fields", "legacy-encryption", "fail", "here: encrypted fields ssn", |db| {
        Box::pin(async move {
            let key = Bson::Binary(mongodb::bson::Binary {
                subtype: mongodb::bson::spec::BinarySubtype::Uuid,
                bytes: vec![7; 16],
            });
            let field = doc! { "path": "ssn", "bsonType": "string", "keyId": key };
            made(&db, doc! { "create": "orders", "encryptedFields": { "fields": [field] } }).await
        })
    }),
    case("legacy_has_a_unique_index", "legacy-unique-indexes", "fail", "has the unique index `mail`", |db| {
        Box::pin(async move {
            let index = doc! { "key": { "customer.name": 1, "total": 1 }, "name": "mail", "unique": true };
            db.run_command(doc! { "createIndexes": "orders", "indexes": [index] }).await.map(drop)
        })
    }),
    case("legacy_has_a_ttl_index", "legacy-ttl", "warn", "`gone` deletes documents by itself", |db| {
        Box::pin(async move {
            let index = doc! { "key": { "at": 1 }, "name": "gone", "expireAfterSeconds": 86_400 };
            db.run_command(doc! { "createIndexes": "orders", "indexes": [index] }).await.map(drop)
        })
    }),
    case("legacy_has_a_validator", "legacy-validator", "warn", "next does not enforce it", |db| {
        Box::pin(async move {
            db.run_command(doc! { "collMod": "orders", "validator": { "total": { "$exists": true } } }).await.map(drop)
        })
    }),
    case("next_holds_documents", "next-empty", "fail", "holds documents already", |db| {
        Box::pin(async move { db.collection::<Document>("orders_v2").insert_one(doc! { "_id": 1 }).await.map(drop) })
    }),
    case("a_total_that_is_no_number", "transforms", "fail", "_id \"odd\": `total`", |db| {
        Box::pin(async move {
            let odd = doc! { "_id": "odd", "total": DateTime::from_millis(0) };
            db.collection::<Document>("orders").insert_one(odd).await.map(drop)
        })
    }),
    case("a_field_name_with_a_dot", "field-names", "warn", "_id \"dot\": a.b", |db| {
        Box::pin(async move {
            let mut dot = order("dot");
            dot.insert("a.b", 1);
            db.collection::<Document>("orders").insert_one(dot).await.map(drop)
        })
    }),
    case("a_field_that_stands_twice", "duplicate-fields", "fail", "_id \"twice\": total", |db| {
        Box::pin(async move {
            let mut twice = RawDocumentBuf::try_from(&order("twice")).expect("BSON");
            twice.append(mongodb::bson::cstr!("total"), "7");
            db.collection::<RawDocumentBuf>("orders").insert_one(twice).await.map(drop)
        })
    }),
    case("an_id_without_a_bucket", "id-placement", "fail", "no whole number", |db| {
        Box::pin(async move {
            let id: Decimal128 = "1.5".parse().expect("a decimal");
            db.collection::<Document>("orders").insert_one(order(Bson::Decimal128(id))).await.map(drop)
        })
    }),
    case("a_name_that_is_taken", "names-free", "fail", "the name is taken", |db| {
        Box::pin(async move {
            let name = format!("orders_v2.isolated.{}", db.name());
            db.run_command(doc! { "create": name }).await.map(drop)
        })
    }),
    case("a_query_that_scans", "queries-legacy", "warn", "looks at every document", |db| {
        Box::pin(async move { db.run_command(doc! { "dropIndexes": "orders", "index": "by_name" }).await.map(drop) })
    }),
    case("a_lease_held_by_another", "lease", "fail", "is run by anna@elsewhere", |db| {
        Box::pin(async move {
            let now = DateTime::now().timestamp_millis();
            let lease = doc! {
                "_id": db.name(), "epoch": 3i64, "holder": "anna@elsewhere", "since_ms": now, "expires_ms": now + 600_000, "nonce": 1i64,
            };
            let control = db.client().database("tidegate");
            control.collection::<Document>("rollouts").insert_one(lease).await.map(drop)
        })
    }),
    case("strays_of_an_earlier_rollout", "leftovers", "warn", "tidegate.quarantine holds documents", |db| {
        Box::pin(async move {
            let control = db.client().database("tidegate");
            let stray = doc! { "_id": format!("{}/legacy/1:1/7", db.name()) };
            control.collection::<Document>("quarantine").insert_one(stray).await.map(drop)
        })
    }),
];

pub fn trials() -> Vec<Trial> {
    let mut all: Vec<Trial> = CASES
        .iter()
        .map(|case| on_shared(&format!("check::{}", case.name), move |set| async move { named(set, case).await }))
        .collect();
    all.push(on_shared("check::nothing_speaks_against_a_good_set_up_and_nothing_is_changed", clean));
    all.push(on_its_own("check::a_standalone_is_named", || {
        TOKIO.block_on(connecting::with_standalone(|uri| async move { standalone(&uri).await }))
    }));
    all.push(on_shared("check::nobody_answers", |set| async move {
        let nobody = |t: String| t.replace("${TIDEGATE_URI}", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300");
        run(&set, "check-nobody", nobody).await?.says("reachable", "fail", "no primary answers")
    }));
    all.push(on_shared("check::two_strings_for_one_set", |set| async move {
        let twice = |t: String| t.replace("environment =", "next_uri = \"${TIDEGATE_URI}\"\nenvironment =");
        run(&set, "check-twice", twice).await?.says("two-clusters", "warn", "lead to the same replica set rs0")
    }));
    all.push(on_three("check::members_are_asked_one_by_one", members));
    all.push(on_its_own("check::exactly_the_printed_role_is_enough", || TOKIO.block_on(least_privilege())));
    all
}

/// What the program answered.
pub struct Found {
    code: i32,
    lines: Vec<Value>,
    tail: String,
}

impl Found {
    fn of(&self, check: &str) -> Result<&Value, String> {
        let line = self.lines.iter().find(|l| l["check"] == check);
        line.ok_or_else(|| format!("no check {check}; {}", self.tail))
    }

    /// The check has this verdict, says this, and what to do about it.
    fn says(&self, check: &str, verdict: &str, text: &str) -> R {
        let line = self.of(check)?;
        let first = &line["findings"][0];
        let named = line["verdict"] == verdict && first["what"].as_str().is_some_and(|w| w.contains(text));
        let code = if matches!(verdict, "warn" | "fail") { 4 } else { 0 };
        let helps = code == 0 || first["do"].as_str().is_some_and(|d| !d.is_empty());
        if named && helps && self.code == code { Ok(()) } else { Err(format!("{check}: exit {}: {line}", self.code)) }
    }
}

/// Runs `tidegate check --json` for a plan of its own.
async fn run(set: &Arc<ReplSet>, id: &str, adapt: fn(String) -> String) -> Result<Found, String> {
    let (set, id) = (set.clone(), id.to_owned());
    tokio::task::spawn_blocking(move || checked(&set, &id, adapt)).await.map_err(|e| e.to_string())?
}

fn checked(set: &ReplSet, id: &str, adapt: fn(String) -> String) -> Result<Found, String> {
    let place = Place::new(set, id, PLAN, adapt)?;
    let mut program = place.start("check", "check", &["--json"])?;
    let code = program.wait(Duration::from_secs(60))?;
    Ok(Found { code, lines: program.lines(), tail: program.tail() })
}

/// Versions and clocks come from each of the three; the primary alone knows only its own.
fn members(set: &ReplSet) -> R {
    let found = checked(set, "check-members", |t| t)?;
    for (check, says) in
        [("member-versions", "all members are"), ("member-clocks", "within"), ("members-healthy", "3 members")]
    {
        let line = found.of(check)?;
        if line["verdict"] != "pass" || !line["findings"][0]["what"].as_str().is_some_and(|w| w.contains(says)) {
            return Err(format!("{check}: {line}"));
        }
    }
    let majority = found.of("write-majority")?;
    let right = majority["findings"][0]["what"] == "a majority write needs 2 of 3 members that hold data";
    if right { Ok(()) } else { Err(format!("{majority}")) }
}

async fn named(set: Arc<ReplSet>, case: &Case) -> R {
    let id = format!("check-{}", case.name.replace('_', "-"));
    let client = Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let db = client.database(&id);
    filled(&db).await.map_err(|e| e.to_string())?;
    (case.set_up)(db.clone()).await.map_err(|e| e.to_string())?;
    let found = run(&set, &id, |t| t).await?;
    db.drop().await.map_err(|e| e.to_string())?;
    found.says(case.check, case.verdict, case.says)
}

async fn clean(set: Arc<ReplSet>) -> R {
    let client = Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let db = client.database("check-clean");
    filled(&db).await.map_err(|e| e.to_string())?;
    let hash = || db.run_command(doc! { "dbHash": 1 });
    let before = hash().await.map_err(|e| e.to_string())?;
    let found = run(&set, "check-clean", |t| t).await?;
    let after = hash().await.map_err(|e| e.to_string())?;
    if before.get("collections") != after.get("collections") {
        return Err(format!("it changed something: {before} {after}"));
    }
    let routes = client.database("tidegate").collection::<Document>("routes");
    if routes.find_one(doc! { "_id": "check-clean" }).await.map_err(|e| e.to_string())?.is_some() {
        return Err("it made a route".into());
    }
    let odd: Vec<&Value> =
        found.lines.iter().filter(|l| ["fail", "warn", "skipped"].iter().any(|v| l["verdict"] == *v)).collect();
    if !odd.is_empty() || found.code != 0 {
        return Err(format!("exit {}: {odd:?}; {}", found.code, found.tail));
    }
    found.says("sample", "pass", "100 documents")?;
    found.says("queries-legacy", "pass", "it uses by_name")?;
    found.says("round-trip", "pass", "100 byte for byte")
}

async fn standalone(uri: &str) -> R {
    let dir = Dir::new()?;
    let plan = dir.path().join("plan.toml");
    std::fs::write(&plan, PLAN).map_err(|e| e.to_string())?;
    let found = program(&plan, uri, &["--json"])?;
    found.says("replica-set", "fail", "this is a standalone server")
}

/// Runs the program where there is no replica set of the tests' own.
fn program(plan: &std::path::Path, uri: &str, args: &[&str]) -> Result<Found, String> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let out = command.arg("check").arg(plan).args(args).env("TIDEGATE_URI", uri).output();
    let out = out.map_err(|e| e.to_string())?;
    canary::look("check", &out.stdout);
    canary::look("check", &out.stderr);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(Found {
        code: out.status.code().unwrap_or(-1),
        lines: text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect(),
        tail: format!("{text}{}", String::from_utf8_lossy(&out.stderr)),
    })
}

/// With authorization on: the printed role passes, each action less is named, and a whole rollout needs no more.
async fn least_privilege() -> R {
    let set = ReplSet::start_locked(&mongod::find()?).await?;
    let say = |e: mongodb::error::Error| e.to_string();
    let root = Client::with_uri_str(set.uri_of("root")).await.map_err(say)?;
    let db = root.database("shop");
    filled(&db).await.map_err(say)?;
    let dir = Dir::new()?;
    let plan = dir.path().join("plan.toml");
    let text = PLAN.replace("id = \"full\"", "id = \"full\"\nsoak = \"1s\"");
    std::fs::write(&plan, text).map_err(|e| e.to_string())?;
    let printed = program(&plan, "", &["--role", "--json"])?;
    let role = printed.lines.first().map(|l| l["command"].clone()).ok_or("no role was printed")?;
    let role = Bson::try_from(role).map_err(|e| e.to_string())?;
    let role = role.as_document().ok_or("the role is no document")?.clone();
    let admin = root.database("admin");
    let name = role.get_str("createRole").map_err(|e| e.to_string())?.to_owned();
    admin.run_command(role.clone()).await.map_err(say)?;
    admin.run_command(doc! { "createUser": "tide", "pwd": PASSWORD, "roles": [&name] }).await.map_err(say)?;
    let uri = set.uri_of("tide");

    let found = program(&plan, &uri, &["--json"])?;
    let odd = |l: &&Value| ["fail", "warn", "skipped"].iter().any(|v| l["verdict"] == *v);
    if found.code != 0 || found.lines.iter().any(|l| odd(&l)) {
        let all: Vec<&Value> = found.lines.iter().filter(odd).collect();
        return Err(format!("the printed role is not enough: {all:?} {}", found.tail));
    }
    // One action less, and it is named.
    for (action, check) in [
        ("changeStream", "privileges-legacy"),
        ("createIndex", "privileges-next"),
        ("replSetGetStatus", "privileges-observe"),
    ] {
        let mut less = role.clone();
        less.remove("createRole");
        let privileges: Vec<Bson> = less
            .get_array("privileges")
            .map_err(|e| e.to_string())?
            .iter()
            .filter_map(Bson::as_document)
            .map(|p| {
                let kept: Vec<Bson> = p
                    .get_array("actions")
                    .into_iter()
                    .flatten()
                    .filter(|a| a.as_str() != Some(action))
                    .cloned()
                    .collect();
                Bson::Document(
                    doc! { "resource": p.get_document("resource").cloned().unwrap_or_default(), "actions": kept },
                )
            })
            .filter(|p| p.as_document().and_then(|p| p.get_array("actions").ok()).is_some_and(|a| !a.is_empty()))
            .collect();
        admin.run_command(doc! { "updateRole": &name, "privileges": privileges }).await.map_err(say)?;
        let found = program(&plan, &uri, &["--json"])?;
        let verdict = if check == "privileges-observe" { "warn" } else { "fail" };
        found.says(check, verdict, action)?;
    }
    admin.run_command(doc! { "updateRole": &name, "privileges": role.get_array("privileges").map_err(|e| e.to_string())?.clone() }).await.map_err(say)?;

    // All the way back, with next put away; then, its leavings cleaned up by somebody who may, all the way there.
    rolls(&dir, &uri, &["run", "--exit-when-needed", "--journal", "a.jsonl"], 4)?;
    rolls(&dir, &uri, &["rollback", "--hard", "--journal", "a.jsonl"], 3)?;
    let cleaned = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["cleanup", "plan.toml", "--yes"])
        .current_dir(dir.path())
        .env("TIDEGATE_URI", set.uri_of("root"))
        .output()
        .map_err(|e| e.to_string())?;
    if !cleaned.status.success() {
        return Err(format!("cleanup: {}", String::from_utf8_lossy(&cleaned.stderr)));
    }
    rolls(&dir, &uri, &["run", "--advance", "auto", "--journal", "b.jsonl"], 0)
}

/// A part of a rollout under the printed role ends with this code.
fn rolls(dir: &Dir, uri: &str, args: &[&str], code: i32) -> R {
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let (command, more) = args.split_first().ok_or("no command")?;
    run.arg(command).arg("plan.toml").args(more).args(["--headless", "--json"]).current_dir(dir.path());
    let out = run.env("TIDEGATE_URI", uri).output().map_err(|e| e.to_string())?;
    canary::look(command, &out.stdout);
    canary::look(command, &out.stderr);
    if out.status.code() == Some(code) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    Err(format!("{args:?} under the printed role: {:?} {last} {}", out.status, String::from_utf8_lossy(&out.stderr)))
}

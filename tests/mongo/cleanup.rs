//! What a rollout leaves behind, taken away: only what holds nothing, unless its name is typed; and the plan can run again.

use std::collections::BTreeMap;
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::back::{soaks, soaks_in};
use super::explain::app_is_whole;
use super::program::Place;
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree, lost_nothing};
use super::{R, TOKIO, on_three};

const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    vec![on_three("cleanup::a_plan_that_was_rolled_back_runs_again_under_its_own_id", again)]
}

fn clean(place: &Place, name: &str, code: i32, more: &[&str]) -> Result<Vec<Value>, String> {
    let mut args = vec!["--json", "--journal", "first.jsonl"];
    args.extend(more);
    let mut said = place.start(name, "cleanup", &args)?;
    said.ends_with(code, Duration::from_secs(60))?;
    Ok(said.lines())
}

/// How many documents each collection has, of the plan's database and of the plan in the control database.
fn counts(set: &ReplSet, id: &str) -> Result<BTreeMap<String, u64>, String> {
    let counted = TOKIO.block_on(async {
        let client = Client::with_uri_str(set.uri()).await?;
        let mut all = BTreeMap::new();
        for (db, of_plan) in [(id, false), ("tidegate", true)] {
            let db = client.database(db);
            for name in db.list_collection_names().await? {
                let text = doc! { "$regex": format!("^{id}(/|$)") };
                let ours = doc! { "$or": [{ "_id": text.clone() }, { "_id.rollout": id }, { "rollout": id }] };
                let filter = if of_plan {
                    ours
                } else {
                    doc! {}
                };
                let n = db.collection::<Document>(&name).count_documents(filter).await?;
                all.insert(format!("{}.{name}", db.name()), n);
            }
        }
        Ok::<_, mongodb::error::Error>(all)
    });
    counted.map_err(|e| e.to_string())
}

fn again(set: &ReplSet) -> R {
    let place = Place::new(set, "cleaned", PLAN, soaks_in("half"))?;
    let mut app = place.application(500, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    clean(&place, "held", 1, &["--yes"])?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    clean(&place, "unfinished", 1, &["--yes"])?;
    let mut back = place.start("back", "rollback", &["--headless", "--json", "--journal", "first.jsonl", "--hard"])?;
    back.ends_with(3, LONG)?;
    app_is_whole(&mut app)?;

    let before = counts(set, &place.id)?;
    let kept = "cleaned.orders_v2.isolated.cleaned";
    clean(&place, "odd", 2, &["--yes", "--drop", "cleaned.orders"])?;
    let listed = clean(&place, "listed", 0, &["--drop", kept])?;
    let names: Vec<&str> = listed.iter().filter_map(|l| l["name"].as_str()).collect();
    for wanted in [kept, "cleaned.orders_v2", "tidegate.fences of cleaned", "tidegate.journal of cleaned"] {
        if !names.contains(&wanted) {
            return Err(format!("{wanted} is not listed: {names:?}"));
        }
    }
    if counts(set, &place.id)? != before {
        return Err("only listing changed something".into());
    }
    clean(&place, "cleans", 0, &["--yes"])?;
    let after = counts(set, &place.id)?;
    let n = |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let moved = after.iter().find(|(k, _)| k.starts_with(&format!("{kept}.")));
    let gone = ["sessions", "markers", "journal", "route_acks"];
    if gone.iter().any(|c| n(&after, &format!("tidegate.{c}")) != 0)
        // The mark against a stale runner stays.
        || n(&after, "tidegate.fences") != 1
        || n(&after, "tidegate.journal_archive") != n(&before, "tidegate.journal")
        || n(&after, "tidegate.rollouts") != 1
        || n(&after, "tidegate.routes") != 1
        || moved.map(|m| *m.1) != before.get(kept).copied()
        || n(&after, "cleaned.orders") != n(&before, "cleaned.orders")
        || after.contains_key("cleaned.orders_v2")
    {
        return Err(format!("before {before:?}, after {after:?}"));
    }

    // Another version of the plan, with the same id, to its end.
    let plan = std::fs::read_to_string(&place.plan).map_err(|e| e.to_string())?;
    std::fs::write(&place.plan, plan.replace("soak = \"10m\"", "soak = \"2s\"")).map_err(|e| e.to_string())?;
    TOKIO
        .block_on(async {
            let client = Client::with_uri_str(set.uri()).await?;
            client.database(&place.id).collection::<Document>("orders").drop().await
        })
        .map_err(|e| e.to_string())?;
    let mut app = place.start("app2", "workload", &["--documents", "500", "--until-finished", "--json"])?;
    super::program::until("it follows", LONG, || app.says("follow the route"))?;
    let mut run = place.run("second", "first.jsonl")?;
    run.ends_with(0, LONG)?;
    lost_nothing(&run, &mut app)?;
    journals_agree(&place, "first.jsonl")?;
    let quarantined = "cleaned.orders.quarantine.cleaned";
    clean(&place, "ends", 0, &["--yes", "--drop", quarantined])?;
    let last = counts(set, &place.id)?;
    match (
        last.contains_key(quarantined),
        last.keys().any(|k| k.starts_with(&format!("{kept}."))),
        n(&last, "cleaned.orders_v2"),
    ) {
        (false, true, 1..) => Ok(()),
        _ => Err(format!("at the end {last:?}")),
    }
}

//! A rehearsal with documents of a real collection: it reads them, writes nothing, and finds what the steps refuse.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bson::RawDocumentBuf;
use libtest_mimic::Trial;
use mongodb::Client;
use mongodb::bson::{Document, doc, rawdoc};
use serde_json::Value;
use tidegate::workload::{Config, Shapes, initial_orders};

use super::program::Place;
use super::replset::ReplSet;
use super::rollout::PLAN;
use super::{R, TOKIO, on_shared};

pub fn trials() -> Vec<Trial> {
    vec![on_shared("rehearse::a_plan_is_tried_out_on_its_own_documents_and_nothing_is_written", |set| async move {
        tokio::task::spawn_blocking(move || tried_out(&set)).await.map_err(|e| e.to_string())?
    })]
}

/// Every collection of the rollout's database with its documents, and what tidegate keeps of the rollout.
async fn everything(set: &ReplSet, id: &str) -> mongodb::error::Result<BTreeMap<String, Vec<RawDocumentBuf>>> {
    let client = Client::with_uri_str(set.uri()).await?;
    let mut all = BTreeMap::new();
    for name in client.database(id).list_collection_names().await? {
        let mut cursor =
            client.database(id).collection::<Document>(&name).find(doc! {}).sort(doc! { "_id": 1 }).await?;
        let found = all.entry(name).or_insert_with(Vec::new);
        while cursor.advance().await? {
            found.push(cursor.current().to_owned());
        }
    }
    let rollouts = client.database("tidegate").collection::<Document>("rollouts");
    let records = rollouts.count_documents(doc! { "_id": id }).await?;
    all.insert(format!("{records} records"), Vec::new());
    Ok(all)
}

fn tried_out(set: &Arc<ReplSet>) -> R {
    let place = Place::new(set, "rehearsed", PLAN, |p| p)?;
    let config = Config { documents: 150, ..Config::default() };
    let mut orders: Vec<RawDocumentBuf> = initial_orders(&config, Shapes::default()).collect();
    orders.push(rawdoc! { "_id": "odd", "customer": { "name": "Ann" }, "total": 12 });
    let look = || TOKIO.block_on(everything(set, &place.id)).map_err(|e| e.to_string());
    TOKIO
        .block_on(async {
            let client = Client::with_uri_str(set.uri()).await?;
            client.database(&place.id).collection::<RawDocumentBuf>("orders").insert_many(&orders).await
        })
        .map_err(|e| e.to_string())?;
    let before = look()?;
    let mut run = place.start("rehearsal", "rehearse", &["--json", "--sample", "1000"])?;
    run.ends_with(4, Duration::from_secs(120))?;
    let lines = run.lines();
    let ways: Vec<(&str, &str)> = lines
        .iter()
        .filter(|l| l["kind"] == "rehearsed" && l["ok"] == true && l["documents"]["all"].as_u64() > Some(100))
        .filter_map(|l| Some((l["stage"].as_str()?, l["way"].as_str()?)))
        .collect();
    let back = ["copy", "shadow", "canary", "half", "full"];
    let wanted: Vec<(&str, &str)> = std::iter::once(("contract", "through"))
        .chain(back.iter().flat_map(|s| [(*s, "soft"), (*s, "hard")]))
        .collect();
    let sum = run.summary()?;
    if ways != wanted || sum["refused"].as_array().map(Vec::len) != Some(1) || sum["failed"] != 0 {
        return Err(run.tail());
    }
    if !sum["refused"][0].as_str().is_some_and(|why| why.contains("_id \"odd\"") && why.contains("`total`")) {
        return Err(sum.to_string());
    }
    if look()? != before {
        return Err("a rehearsal wrote to the cluster".into());
    }
    without_documents(&place)
}

/// An empty collection is no rehearsal, and is told in a sentence.
fn without_documents(place: &Place) -> R {
    let text = std::fs::read_to_string(&place.plan).map_err(|e| e.to_string())?;
    let elsewhere = text.replace("rehearsed.orders\"", "rehearsed.nothing\"");
    std::fs::write(&place.plan, elsewhere).map_err(|e| e.to_string())?;
    let mut run = place.start("nothing", "rehearse", &["--json"])?;
    run.ends_with(1, Duration::from_secs(60))?;
    let nothing = run.lines().iter().all(|l: &Value| l["kind"] != "summary");
    if nothing && run.stderr().contains("rehearsed.nothing") { Ok(()) } else { Err(run.tail()) }
}

//! What else carries documents from one collection to another: the loop most teams write, and the server itself.

use std::time::Instant;

use bson::{RawArrayBuf, RawBson, RawDocumentBuf, doc, rawdoc};
use mongodb::Database;
use tidegate::plan::Plan;
use tidegate::transform::Transform;

use super::super::R;
use super::super::replset::ReplSet;

/// Documents read and upserted together.
const BATCH: usize = 1_000;

async fn database(set: &ReplSet, db: &str) -> Result<Database, String> {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    Ok(client.database(db))
}

/// Waits until every node has everything, so that nobody pays for what came before.
pub async fn settled(set: &ReplSet) -> R {
    let db = database(set, "settle").await?;
    let all = doc! { "w": set.len() as i32, "j": true, "wtimeout": 600_000 };
    let write = doc! { "insert": "marks", "documents": [{ "at": bson::DateTime::now() }], "writeConcern": all };
    db.run_command(write).await.map_err(|e| e.to_string())?;
    for i in 0..set.len() {
        set.command(i, doc! { "fsync": 1 }).await?;
    }
    Ok(())
}

fn transform() -> Result<Transform, String> {
    let plan = Plan::parse(super::PLAN, "plan.toml").map_err(|e| format!("{e:?}"))?;
    Ok(Transform::new(&plan.collections[0].steps))
}

fn told(what: &str, documents: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what:<11} {seconds:.1} s, {:.0} a second", documents as f64 / seconds);
}

/// Read a thousand in `_id` order, transform, upsert them in one command, from the beginning to the end.
pub async fn driver_loop(set: &ReplSet, db: &str, documents: u64) -> R {
    settled(set).await?;
    let (db, transform) = (database(set, db).await?, transform()?);
    let failed = |e: mongodb::error::Error| e.to_string();
    let began = Instant::now();
    let orders = db.collection::<RawDocumentBuf>("orders");
    let mut found = orders.find(doc! {}).sort(doc! { "_id": 1 }).batch_size(BATCH as u32).await.map_err(failed)?;
    let (mut updates, mut n, mut all) = (RawArrayBuf::new(), 0, 0u64);
    loop {
        let more = found.advance().await.map_err(failed)?;
        if more {
            let made = transform.apply(found.current()).map_err(|e| e.reason())?;
            let id = RawBson::from(made.get("_id").ok().flatten().ok_or("no _id")?);
            updates.push(rawdoc! { "q": { "_id": id }, "u": made, "upsert": true });
            (n, all) = (n + 1, all + 1);
        }
        if n == BATCH || (!more && n > 0) {
            let batch = std::mem::take(&mut updates);
            let majority = rawdoc! { "w": "majority" };
            let update =
                rawdoc! { "update": "orders_loop", "updates": batch, "ordered": false, "writeConcern": majority };
            let answer = db.run_raw_command(update).await.map_err(failed)?;
            if answer.get_array("writeErrors").is_ok() {
                return Err(format!("the loop's upserts failed: {answer:?}"));
            }
            n = 0;
        }
        if !more {
            break;
        }
    }
    told("driver loop", documents, began);
    drop_of(&db, "orders_loop", all, documents).await
}

/// The same transform by the server, which writes what comes of it into another collection.
pub async fn server_merge(set: &ReplSet, db: &str, documents: u64) -> R {
    settled(set).await?;
    let db = database(set, db).await?;
    let mut pipeline = transform()?.pipeline();
    pipeline.push(doc! { "$merge": { "into": "orders_merge", "whenMatched": "replace" } });
    let began = Instant::now();
    let merge = doc! {
        "aggregate": "orders", "pipeline": pipeline, "cursor": {}, "writeConcern": { "w": "majority" },
    };
    db.run_command(merge).await.map_err(|e| e.to_string())?;
    told("$merge", documents, began);
    let n = db.collection::<RawDocumentBuf>("orders_merge").estimated_document_count().await;
    drop_of(&db, "orders_merge", n.map_err(|e| e.to_string())?, documents).await
}

async fn drop_of(db: &Database, name: &str, made: u64, documents: u64) -> R {
    db.collection::<RawDocumentBuf>(name).drop().await.map_err(|e| e.to_string())?;
    if made == documents { Ok(()) } else { Err(format!("{name}: {made} of {documents} documents")) }
}

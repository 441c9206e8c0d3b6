//! Questions about documents.

use std::sync::Arc;

use bson::{Bson, Decimal128, doc, rawdoc};
use tidegate::cluster::{Ask, Here, Question, Replies, Told};

use super::*;

/// The documents whose field `field` holds this number, found by both kinds of cluster.
fn holds(field: &'static str, n: i32) -> Question {
    let here: Here = Arc::new(move |d| {
        let there = d.get(field).ok().flatten().is_some_and(|v| v.as_i32() == Some(n));
        Ok(there.then_some(RawBson::Boolean(true)))
    });
    Question { ask: Ask::Matches(doc! { field: n }), here: Some(here) }
}

/// A field's value.
fn value(field: &'static str) -> Question {
    let here: Here = Arc::new(move |d| Ok(d.get(field).ok().flatten().map(RawBson::from)));
    Question { ask: Ask::Value(Bson::String(format!("${field}"))), here: Some(here) }
}

fn told(r: &Replies, n: usize) -> R<&[Option<RawBson>]> {
    match r.told.get(n) {
        Some(Told::Of(all)) => Ok(all),
        other => Err(format!("question {n} got {other:?}")),
    }
}

pub async fn what_is_asked_of_each_document_is_answered_in_order(env: Env) -> R {
    let ns = env.ns("asked");
    let dec = RawBson::Decimal128("1.50".parse::<Decimal128>().map_err(|e| e.to_string())?);
    env.insert(&ns, rawdoc! { "_id": 1, "v": 2, "n": dec.clone() }).await?;
    env.insert(&ns, rawdoc! { "_id": "two", "v": 3 }).await?;
    let last = env.insert(&ns, rawdoc! { "_id": 5i64, "v": 2, "n": RawBson::Null }).await?;
    let keys = [key(5.0)?, key("gone")?, key("two")?, key(1)?];
    let questions = [holds("v", 2), value("n"), holds("v", 7)];
    let r = text(env.db.ask(&ns, &keys, &questions, last.at).await)?;
    ensure!(r.at >= last.at, "asked at {}, after {}", r.at, last.at);
    let ids: Vec<bool> = r.docs.iter().map(Option::is_some).collect();
    ensure!(ids == [true, false, true, true], "{:?}", r.docs);
    let yes = Some(RawBson::Boolean(true));
    ensure!(told(&r, 0)? == [yes.clone(), None, None, yes], "{:?}", r.told);
    ensure!(told(&r, 1)? == [Some(RawBson::Null), None, None, Some(dec)], "{:?}", r.told);
    ensure!(told(&r, 2)?.iter().all(Option::is_none), "{:?}", r.told);
    let none = text(env.db.ask(&env.ns("nowhere"), &keys, &questions, ClusterTime::ZERO).await)?;
    ensure!(none.docs.iter().all(Option::is_none) && told(&none, 0)?.len() == 4, "{none:?}");
    Ok(())
}

pub async fn what_is_drawn_is_there(env: Env) -> R {
    let ns = env.ns("drawn");
    ensure!(text(env.db.draw(&ns, None, 5).await)?.is_empty(), "drawn from nothing");
    for n in 0..40 {
        env.insert(&ns, rawdoc! { "_id": n, "v": n % 4 }).await?;
    }
    let some = text(env.db.draw(&ns, None, 10).await)?;
    ensure!(!some.is_empty() && some.len() <= 10, "{some:?}");
    let found = text(env.db.draw(&ns, Some(&holds("v", 3)), 100).await)?;
    ensure!(found.len() == 10, "{found:?}");
    ensure!(text(env.db.draw(&ns, Some(&holds("v", 3)), 4).await)?.len() == 4, "more than asked for");
    for k in some.iter().chain(&found) {
        ensure!(env.get(&ns, k, ClusterTime::ZERO).await?.is_some(), "{k} is not there");
    }
    Ok(())
}

pub async fn a_query_is_explained(env: Env) -> R {
    let ns = env.ns("explained");
    env.insert(&ns, rawdoc! { "_id": 1, "v": 2 }).await?;
    let index = tidegate::cluster::IndexSpec { name: "by_v".into(), keys: doc! { "v": 1 }, ..Default::default() };
    env.admin(AdminOp::CreateIndex { ns: ns.clone(), index }).await?;
    for (filter, scans) in [(doc! { "v": 2 }, false), (doc! { "w": 2 }, true)] {
        match env.admin(AdminOp::Explain { ns: ns.clone(), filter: filter.clone() }).await? {
            AdminDone::Explained(e) => ensure!(e.scans == scans, "{filter}: {e:?}"),
            other => return Err(format!("{other:?}")),
        }
    }
    Ok(())
}

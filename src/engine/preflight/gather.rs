//! Asks for every fact. Nothing here writes, and nothing here judges.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::{Bson, Document, RawDocument, doc};

use super::super::in_place::undo_ns;
use super::super::lease::{self, rollouts_ns};
use super::super::quarantine::quarantine_ns;
use super::facts::{Facts, Held, JournalEnds, Known};
use crate::cluster::survey::{Answer, CollectionFacts, NOT_ASKED, Survey};
use crate::cluster::{CONTROL_DB, Doc, Ns};
use crate::journal::{CLOSED, Record};
use crate::plan::Plan;
use crate::route::Route;
use crate::route::client::routes_ns;
use crate::runtime::Rt;

/// Other plans whose route names one of the collections: so many are looked at.
const OTHERS: u32 = 20;

/// The clusters to ask: legacy's, and next's where it is another one.
pub struct Surveys {
    /// Legacy's.
    pub legacy: Arc<dyn Survey>,
    /// Next's.
    pub next: Option<Arc<dyn Survey>>,
}

/// Asks for everything the checks judge by; at most `sample` documents are drawn.
pub async fn gather(rt: &Rt, surveys: &Surveys, plan: Arc<Plan>, sample: u32) -> Facts {
    let (legacy, next) = (&*surveys.legacy, surveys.next.as_deref().unwrap_or(&*surveys.legacy));
    let c = &plan.collections[0];
    let mut clusters = vec![legacy.cluster().await];
    if surveys.next.is_some() {
        clusters.push(next.cluster().await);
    }
    let answers = |i: usize| clusters.get(i).or(clusters.first()).is_some_and(|c| c.hello.is_ok());
    let mut facts = Facts {
        wall_ms: rt.wall_ms(),
        legacy: CollectionFacts::unknown(),
        next: CollectionFacts::unknown(),
        names: [Err(NOT_ASKED), Err(NOT_ASKED)],
        sample: Err(NOT_ASKED),
        queries: plan.declared.queries.iter().map(|_| [Err(NOT_ASKED), Err(NOT_ASKED)]).collect(),
        hooks: Vec::new(),
        known: Err(NOT_ASKED),
        leftovers: Err(NOT_ASKED),
        clusters: Vec::new(),
        plan: plan.clone(),
    };
    if answers(0) {
        facts.legacy = legacy.collection(&c.legacy).await;
        facts.names[0] = legacy.names(&c.legacy.db).await;
        facts.sample = legacy.sample(&c.legacy, sample).await;
        facts.known = known(legacy, &plan).await;
        facts.leftovers = leftovers(legacy, &plan).await;
        for (q, answer) in plan.declared.queries.iter().zip(&mut facts.queries) {
            answer[0] = legacy.explain(&c.legacy, &q.filters[0]).await;
        }
    }
    if answers(1) {
        facts.next = if c.in_place() { facts.legacy.clone() } else { next.collection(&c.next).await };
        facts.names[1] = next.names(&c.next.db).await;
        for (q, answer) in plan.declared.queries.iter().zip(&mut facts.queries) {
            answer[1] = next.explain(&c.next, &q.filters[1]).await;
        }
    }
    facts.clusters = clusters;
    facts
}

/// This plan, and others whose route names one of the collections.
async fn known(survey: &dyn Survey, plan: &Plan) -> Answer<Vec<Known>> {
    let c = &plan.collections[0];
    let either = doc! { "$in": [c.legacy.to_string(), c.next.to_string()] };
    let filter = doc! { "$or": [{ "_id": &plan.id }, { "legacy": either.clone() }, { "next": either }] };
    let routes = survey.find(&routes_ns(), &filter, true, OTHERS).await?;
    let routes: Vec<Route> = routes.iter().filter_map(|d| Route::from_raw(d).ok()).collect();
    let mut ids: BTreeSet<String> = routes.iter().map(|r| r.plan.clone()).collect();
    ids.insert(plan.id.clone());
    let mut all = Vec::new();
    for id in ids {
        let held = survey.find(&rollouts_ns(), &doc! { "_id": &id }, true, 1).await?;
        all.push(Known {
            route: routes.iter().find(|r| r.plan == id).cloned(),
            lease: held.first().and_then(|d| lease::parse(d)).map(|l| Held {
                holder: l.holder,
                since_ms: l.since_ms,
                expires_ms: l.expires_ms,
            }),
            journal: journal(survey, &id).await?,
            plan: crate::scrub::short(&id, 80),
        });
    }
    Ok(all)
}

/// The first and the last record of a journal.
async fn journal(survey: &dyn Survey, rollout: &str) -> Answer<Option<JournalEnds>> {
    let ns = Ns::new(CONTROL_DB, "journal");
    let filter = of_rollout(rollout);
    let record = |docs: Vec<Doc>| docs.first().and_then(|d| record(d));
    let Some(first) = record(survey.find(&ns, &filter, true, 1).await?) else { return Ok(None) };
    let last = record(survey.find(&ns, &filter, false, 1).await?);
    // The plan it goes on with, which need not be the one it was begun with.
    let mut amended = filter.clone();
    amended.insert("kind", "amended");
    let amended = record(survey.find(&ns, &amended, false, 1).await?);
    let hash = |r: &Record, field: &str| r.body.get(field).and_then(|v| v.as_str()).map(str::to_owned);
    let plan_hash = amended.and_then(|r| hash(&r, "is")).or_else(|| hash(&first, "plan_hash"));
    Ok(Some(JournalEnds {
        plan_hash: plan_hash.unwrap_or_default(),
        closed: last.as_ref().is_some_and(|r| r.kind == CLOSED),
        last: last.map_or_else(|| "?".into(), |r| r.kind),
    }))
}

fn record(d: &RawDocument) -> Option<Record> {
    Record::parse(d.get_str("line").ok()?.as_bytes()).ok()
}

/// Documents whose `_id` is a document that begins with this rollout: a range of the index on `_id`.
fn of_rollout(rollout: &str) -> Document {
    doc! { "_id": { "$gte": { "rollout": rollout }, "$lt": { "rollout": rollout, "z": Bson::MaxKey } } }
}

/// Control collections with data of an earlier rollout of the plan.
async fn leftovers(survey: &dyn Survey, plan: &Plan) -> Answer<Vec<String>> {
    // '0' is the character after '/'.
    let texts = doc! { "_id": { "$gte": format!("{}/", plan.id), "$lt": format!("{}0", plan.id) } };
    let mut all = Vec::new();
    for (ns, filter) in
        [(quarantine_ns(), texts), (quarantine_ns(), of_rollout(&plan.id)), (undo_ns(), of_rollout(&plan.id))]
    {
        if !survey.find(&ns, &filter, true, 1).await?.is_empty() && !all.contains(&ns.to_string()) {
            all.push(ns.to_string());
        }
    }
    Ok(all)
}

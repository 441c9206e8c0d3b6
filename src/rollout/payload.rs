//! What a hook is told: what happened, where and on which figures. Never a document's value, nor text that may quote one.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::event::Event;
use crate::journal::{By, Record};
use crate::plan::{Occasion, Plan};

/// The payload's format.
const SCHEMA: u32 = 1;
/// Items of a list that are told.
const ITEMS_MAX: usize = 20;
/// Lists within lists, tables within tables.
const DEPTH_MAX: usize = 6;
/// Evidence is figures. These are its only texts that are told: all of them are words of the plan or of tidegate.
const TEXTS: [&str; 8] = ["gate", "verdict", "relation", "unit", "metric", "side", "action", "wanted"];

pub(super) fn payload(
    plan: &Plan,
    stage: Option<usize>,
    record: &Record,
    event: &Event,
    on: Occasion,
    event_id: &str,
) -> Value {
    let stage = stage.and_then(|i| Some((i, plan.stages.get(i)?)));
    json!({
        "schema": SCHEMA,
        "event_id": event_id,
        "event": on.name(),
        "text": text(event, record),
        "at": time(record.at_ms),
        "by": record.by.to_string(),
        "rollout": record.rollout,
        "plan": {
            "id": plan.id,
            "title": plan.title,
            "version": plan.version,
            "owner": plan.owner,
            "hash": plan.hash,
            "environment": plan.cluster.environment,
        },
        "stage": stage.map(|(i, s)| json!({
            "index": i, "id": s.id, "shadow": s.shadow, "reads": s.reads, "writes": s.writes, "runbook": s.runbook,
        })),
        "epoch": record.epoch,
        "record": { "seq": record.seq, "kind": record.kind, "hash": record.hash },
        "evidence": evidence(event),
    })
}

/// One sentence. Reasons that may quote a key or a server's message stay in the journal, and the sentence says where.
fn text(event: &Event, record: &Record) -> String {
    let n = record.seq;
    match event {
        Event::NeedsOperator { .. } => format!("an operator is needed: record {n} of the journal says why"),
        // A stray write pauses without figures, and names its key.
        Event::Paused { evidence: Value::Null, .. } if record.by == By::Trigger => {
            format!("PAUSED: a write on a side that does not own its key; record {n} of the journal names it")
        }
        other => crate::scrub::short(&other.text(), 400),
    }
}

fn evidence(event: &Event) -> Value {
    match event {
        Event::StagePassed { evidence, .. }
        | Event::Paused { evidence, .. }
        | Event::Completed { evidence }
        | Event::RollbackBegan { evidence, .. }
        | Event::RolledBack { evidence } => figures(evidence, DEPTH_MAX).unwrap_or(Value::Null),
        _ => Value::Null,
    }
}

/// The numbers, truths and known words of a value; `None` for anything else.
fn figures(v: &Value, depth: usize) -> Option<Value> {
    let deeper = depth.checked_sub(1);
    match v {
        Value::Number(_) | Value::Bool(_) | Value::Null => Some(v.clone()),
        Value::String(_) => None,
        Value::Array(list) => {
            let kept: Vec<Value> = list.iter().take(ITEMS_MAX).filter_map(|v| figures(v, deeper?)).collect();
            (list.is_empty() || !kept.is_empty()).then_some(kept.into())
        }
        Value::Object(map) => {
            let mut kept = Map::new();
            for (k, v) in map {
                // The classes of a histogram are no summary.
                let told = match v {
                    Value::String(s) if TEXTS.contains(&k.as_str()) => Some(crate::scrub::short(s, 200).into()),
                    v if k != "classes_us" => deeper.and_then(|d| figures(v, d)),
                    _ => None,
                };
                told.into_iter().for_each(|t| drop(kept.insert(k.clone(), t)));
            }
            Some(kept.into())
        }
    }
}

fn time(ms: i64) -> String {
    // Only times that RFC 3339 can write are in the journal.
    Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

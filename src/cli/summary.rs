//! What is said of records and of the end of a rollout.

use serde_json::{Map, Value};

use super::out;
use crate::journal::{Record, show};
use crate::rollout::Event;

/// A record as one line for people, in the words of its event.
pub(super) fn human(record: &Record) -> String {
    match Event::from_parts(&record.kind, &record.body) {
        Ok(event) => {
            let body = Map::from_iter([("text".to_owned(), Value::String(event.text()))]);
            show(&Record { body, ..record.clone() })
        }
        Err(_) => show(record),
    }
}

/// The summary for people, below the records.
pub(super) fn closing(head: &str, json: &Value) {
    out::line("");
    out::line(&format!("{head}: {}", json["outcome"].as_str().unwrap_or("?").replace('_', " ")));
    for s in json["stages"].as_array().into_iter().flatten() {
        let id = s["id"].as_str().unwrap_or("?");
        out::line(&format!("  {id:<16} passed after {:.1}s", s["seconds"].as_f64().unwrap_or(0.0)));
    }
    let n = |v: &Value| v.as_u64().map_or_else(|| "unknown".to_owned(), out::thousands);
    let (w, d) = (&json["writes"], &json["documents"]);
    out::line(&format!(
        "  writes: {} acknowledged, {} lost, {} stale reads from the owner, {} stray",
        n(&w["acknowledged"]),
        n(&w["lost"]),
        n(&w["stale"]),
        n(&w["stray"]),
    ));
    out::line(&format!(
        "  documents: {} matched, {} missing, {} extra, {} differing",
        n(&d["matched"]),
        n(&d["missing"]),
        n(&d["extra"]),
        n(&d["differing"]),
    ));
}

/// The stages passed, as the summary lists them.
#[cfg(feature = "mongo")]
pub(super) fn stages(records: &[Record]) -> Vec<Value> {
    let mut entered = 0;
    let mut passed = Vec::new();
    for r in records {
        match Event::from_parts(&r.kind, &r.body) {
            Ok(Event::StageEntered { at_ms, .. }) => entered = at_ms,
            Ok(Event::StagePassed { id, .. }) => {
                let by = if matches!(r.by, crate::journal::By::Operator(_)) { "operator" } else { "engine" };
                passed.push(serde_json::json!({
                    "id": id, "passed": true, "seconds": (r.at_ms - entered) as f64 / 1e3, "by": by,
                }));
            }
            _ => {}
        }
    }
    passed
}

/// What the last comparison of both sides found, by whichever runner made it.
#[cfg(feature = "mongo")]
pub(super) fn compared(records: &[Record]) -> Option<Value> {
    records.iter().rev().find_map(|r| match Event::from_parts(&r.kind, &r.body) {
        Ok(Event::TaskDone { evidence, .. }) if evidence.get("matched").is_some() => {
            let kept = ["matched", "missing", "extra", "differing", "checked_ratio"];
            Some(kept.iter().map(|k| ((*k).to_owned(), evidence[*k].clone())).collect::<Map<_, _>>().into())
        }
        _ => None,
    })
}

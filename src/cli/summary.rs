//! What is said of records and of the end of a rollout.

use serde_json::{Map, Value};

use super::{DONE, FAILED, NEEDS_OPERATOR, ROLLED_BACK, out};
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
    if let Some(strays) = strays(json) {
        out::line(&strays);
    }
    if let Some(stranded) = left_behind(json) {
        out::line(&stranded);
    }
}

#[cfg(feature = "mongo")]
pub(super) use crate::drill::stranded;

/// What is said of writes that were left behind on next; `None` when none were.
pub(super) fn left_behind(json: &Value) -> Option<String> {
    let s = json.get("stranded").filter(|s| !s.is_null())?;
    let seconds = s["ms_at_risk"].as_u64().unwrap_or(0).div_ceil(1_000);
    let Some(salvaged) = s["salvaged"].as_object() else {
        let count = match s["writes_estimate"].as_u64() {
            Some(n) => {
                format!("about {} (estimate: {})", out::thousands(n), s["estimate_basis"].as_str().unwrap_or("?"))
            }
            None => "how many is not known".to_owned(),
        };
        return Some(format!(
            "  STRANDED on next: its last {seconds}s of writes, {count}; salvage is outstanding, `tidegate resume` salvages once next answers"
        ));
    };
    let n = |name: &str| salvaged[name].as_u64().map_or_else(|| "?".to_owned(), out::thousands);
    let mut text = format!(
        "  salvaged from next: {} keys changed there, {} carried to legacy, {} equal, {} conflicts",
        n("changed"),
        n("carried"),
        n("equal"),
        n("conflicts")
    );
    if let Some(open) = s["conflicts_open"].as_u64().filter(|open| *open > 0) {
        let keys: Vec<&str> = s["conflict_keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        text.push_str(&format!(
            "\n  {} open conflicts, both versions in tidegate.quarantine: {}{}; `tidegate repair PLAN --resolve KEY=legacy|next` resolves one",
            out::thousands(open),
            keys.join(", "),
            if (keys.len() as u64) < open { " …" } else { "" }
        ));
    }
    Some(text)
}

/// What is said of writes on a side that did not own their keys; `None` when there were none.
pub(super) fn strays(json: &Value) -> Option<String> {
    let n = json["writes"]["stray"].as_u64().filter(|n| *n > 0)?;
    let n = out::thousands(n);
    Some(format!(
        "  {n} stray writes are kept in tidegate.quarantine; `tidegate repair PLAN` says which can be carried over"
    ))
}

/// The exit code that goes with a summary: a lost write is a failure however it ended.
pub(super) fn code(json: &Value) -> u8 {
    match json["outcome"].as_str() {
        _ if json["writes"]["lost"].as_i64().unwrap_or(0) > 0 => FAILED,
        Some("completed") => DONE,
        Some("rolled_back") => ROLLED_BACK,
        Some("needs_operator") => NEEDS_OPERATOR,
        _ => FAILED,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::End;

    #[test]
    fn a_completed_rollout_with_strays_ended_with_0() {
        let sum = |end: Option<End>, lost: u64, stray: u64| {
            let outcome = End::outcome(end.as_ref(), stray);
            serde_json::json!({ "outcome": outcome, "writes": { "lost": lost, "stray": stray } })
        };
        assert_eq!(code(&sum(Some(End::Completed), 0, 0)), DONE);
        assert_eq!(strays(&sum(Some(End::Completed), 0, 0)), None);
        let with_strays = sum(Some(End::Completed), 0, 2);
        assert_eq!((code(&with_strays), &with_strays["outcome"]), (NEEDS_OPERATOR, &"needs_operator".into()));
        assert!(strays(&with_strays).is_some_and(|s| s.contains("2 stray writes")));
        assert_eq!(code(&sum(Some(End::Completed), 1, 2)), FAILED);
        assert_eq!(code(&sum(Some(End::Stopped), 0, 0)), NEEDS_OPERATOR);
        assert_eq!(code(&sum(Some(End::Failed("why".into())), 0, 0)), FAILED);
    }
}

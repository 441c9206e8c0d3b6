//! The plan held against what is there: what its steps mean for readers, and how its queries would be answered.

use super::{Finding, View};
use crate::cluster::survey::{Explained, Stands, Unanswered};
use crate::plan::{Hook, Opening, Query, Step};
use crate::route::Side;
use crate::scrub::short;
use crate::transform::Class;

pub(super) fn lossy(v: &View<'_>) -> Vec<Finding> {
    let steps = v.f.collection().steps.iter().enumerate();
    let lossy: Vec<String> = steps
        .filter(|(_, s)| s.class() == Class::Lossy)
        .map(|(i, s)| format!("step {} {} is lossy: {}", i + 1, short(&s.to_string(), 160), short(&s.reason(), 160)))
        .collect();
    vec![match lossy.is_empty() {
        true => Finding::pass("the plan", "every step has a way back"),
        false => Finding::note(
            "the plan",
            format!("{}; originals are kept in tidegate.undo before they are first overwritten", lossy.join("; ")),
            "a document made anew on next has no original: what a step loses of it stays lost (docs/steps.md)",
        ),
    }]
}

/// What a step takes away from a reader of the old shape; `None` when it finds everything where it was.
fn breaks(step: &Step) -> Option<&'static str> {
    match step {
        // A reader of the old shape does not know the field and ignores it.
        Step::Set { .. } => None,
        Step::Rename { .. } | Step::Nest { .. } | Step::Flatten { .. } => Some("a field is elsewhere"),
        Step::Unset { .. } => Some("a field is gone"),
        Step::Convert { .. } => Some("a value has another type"),
        Step::Split { .. } | Step::Join { .. } => Some("a text is in other fields"),
        Step::Wrap { .. } => Some("a value is inside another one"),
        Step::Map { .. } => Some("a value means something else"),
        Step::Pipeline { .. } => Some("a pipeline may change anything"),
    }
}

pub(super) fn compatible(v: &View<'_>) -> Vec<Finding> {
    let breaking: Vec<String> =
        v.f.collection()
            .steps
            .iter()
            .enumerate()
            .filter_map(|(i, s)| Some(format!("step {} {s} ({})", i + 1, breaks(s)?)))
            .collect();
    vec![match (breaking.is_empty(), v.f.in_place()) {
        (true, _) => Finding::pass("the plan", "compatible: a reader of the old shape can read the new one"),
        (false, true) => Finding::note(
            "the plan",
            format!("breaking: a reader of the old shape cannot read the new one: {}", breaking.join("; ")),
            "deploy applications that read both shapes, told apart by `shape`, before the first stage",
        ),
        (false, false) => Finding::note(
            "the plan",
            format!("breaking: a reader of the old shape cannot read the new one: {}", breaking.join("; ")),
            "deploy applications that read each side in its own shape, by the route, before reads move",
        ),
    }]
}

pub(super) fn queries_on_legacy(v: &View<'_>) -> Vec<Finding> {
    queries(v, Side::Legacy)
}

pub(super) fn queries_on_next(v: &View<'_>) -> Vec<Finding> {
    queries(v, Side::Next)
}

fn queries(v: &View<'_>, side: Side) -> Vec<Finding> {
    if v.f.plan.declared.queries.is_empty() {
        return vec![Finding::pass("the plan", "it declares no `[[query]]`")];
    }
    let there = matches!(v.f.side(side).0.stands, Ok(Stands::Collection(_)));
    let judge = |(q, explained): (&Query, &[crate::cluster::survey::Answer<Explained>; 2])| {
        let place = format!("query `{}` on {}", q.name, side.name());
        match &explained[side as usize] {
            _ if side == Side::Next && !there => foreseen(v, q, &place),
            Ok(e) => explained_as(q, e, &place, side),
            Err(why) => Finding::skipped(&place, why),
        }
    };
    v.f.plan.declared.queries.iter().zip(&v.f.queries).map(judge).collect()
}

fn explained_as(q: &Query, e: &Explained, place: &str, side: Side) -> Finding {
    match (e.scans, q.uses_index) {
        (true, true) => Finding::warn(
            place,
            "it looks at every document, and the plan says that it uses an index",
            match side {
                Side::Legacy => {
                    "build the index on legacy, or take `uses_index` back: it is what next is compared with"
                }
                Side::Next => "add the index to `[[collection]] indexes`, before reads move",
            },
        ),
        (true, false) => Finding::pass(place, "it looks at every document"),
        (false, _) => Finding::pass(place, format!("it uses {}", e.indexes.join(", "))),
    }
}

/// Next is not there yet: what the plan's indexes would do for the query.
fn foreseen(v: &View<'_>, q: &Query, place: &str) -> Finding {
    let filter = &q.filters[1];
    let serves = |i: &&crate::cluster::IndexSpec| i.keys.keys().next().is_some_and(|k| filter.contains_key(k));
    let index = v.f.collection().indexes.iter().find(serves).map(|i| i.name.as_str());
    match index.or(filter.contains_key("_id").then_some("_id_")) {
        Some(index) => Finding::pass(place, format!("next is not there yet; {index} would serve it")),
        None if q.uses_index => Finding::warn(
            place,
            "next is not there yet, and no index of the plan begins with a field of this query",
            "add one to `[[collection]] indexes`",
        ),
        None => Finding::pass(place, "next is not there yet; it would look at every document, as the plan allows"),
    }
}

pub(super) fn windows(v: &View<'_>) -> Vec<Finding> {
    let calendar = &v.f.plan.calendar;
    if calendar.is_empty() {
        return Vec::new();
    }
    vec![match calendar.look(v.f.wall_ms) {
        Opening::Open { .. } => Finding::pass("the plan", "a stage may begin now"),
        Opening::Closed { why, opens_ms: Some(_) } => {
            Finding::note("the plan", why, "a rollout that is begun now waits until then")
        }
        Opening::Closed { why, opens_ms: None } => {
            Finding::fail("the plan", why, "no stage would ever begin: change `[[window]]` or `[[freeze]]`")
        }
    }]
}

pub(super) fn hooks(v: &View<'_>) -> Vec<Finding> {
    let judge = |(i, hook): (usize, &Hook)| {
        let place = format!("hook {}", hook.id);
        let on: Vec<&str> = hook.on.iter().map(|o| o.name()).collect();
        let does = match on.is_empty() {
            true => format!("`{}`, at every turn of the traffic", hook.call.text()),
            false => format!("`{}`, for {}", hook.call.text(), on.join(", ")),
        };
        match v.f.hooks.get(i) {
            None => Finding::skipped(&place, &Unanswered::NotAsked("nobody has looked for what it calls")),
            Some(None) => Finding::note(&place, format!("it calls {does}; this check calls nothing"), ""),
            Some(Some(why)) if hook.required => Finding::fail(
                &place,
                format!("it would call {does}, but {why}"),
                match hook.on.is_empty() {
                    true => {
                        "the traffic cannot be turned without this hook: provide what is missing where the rollout runs"
                    }
                    false => "a stage waits for this hook: provide what is missing where the rollout runs",
                },
            ),
            Some(Some(why)) => Finding::warn(
                &place,
                format!("it would call {does}, but {why}"),
                "provide it where the rollout runs; the rollout goes on without this hook",
            ),
        }
    };
    v.f.plan.called().enumerate().map(judge).collect()
}

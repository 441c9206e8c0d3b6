//! What a plan may say where tidegate only observes (`[route] mode = "observe"`): another tool moves documents and traffic, so that
//! whatever would move something here is refused, and so is a gate on what an onlooker never knows.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{At, Reader, Table};
use super::stages::Ground;
use super::types::{Mode, Reached, Stage};

/// Tables of a plan that say how something moves or goes back.
const TABLES: [&str; 3] = ["cutover", "rollback", "pilot"];
/// Keys of `[route]` that are about applications that follow a route.
const ROUTE: [&str; 2] = ["lease", "server_gate"];
/// Keys of a stage that move something.
const MOVES: [&str; 6] = ["do", "shadow", "reads", "writes", "pilot", "irreversible"];
/// Beginnings of the metrics that only applications that follow the route report.
pub(super) const NOT_REPORTED: [&str; 3] = ["errors.", "slo.", "shadow."];
/// Beginnings of the metrics that only a runner that writes has.
const NOT_WRITTEN: [&str; 4] = ["writes.", "reads.stale_age", "lag.reverse", "freeze.duration"];
/// Occasions that do not come about.
const NEVER: [&str; 2] = ["rollback", "rolled_back"];

/// The plan's mode, before anything that depends on it is read; a word that is none is complained about where it is read.
pub(super) fn mode(t: &Table<'_, '_>) -> Mode {
    let said = t.table.get("route").and_then(|r| r.get_ref().as_table()).and_then(|r| r.get("mode"));
    let word = said.and_then(|m| m.get_ref().as_str());
    Mode::ALL.into_iter().find(|m| word == Some(m.name())).unwrap_or(Mode::Route)
}

/// What the other tool must have reached; a word of plans that observe.
pub(super) fn read_reached(r: &mut Reader, t: &Table<'_, '_>, ground: &Ground<'_>) -> Vec<Reached> {
    let Some(said) = t.table.get("reached") else { return Vec::new() };
    if !ground.observes {
        let help = "say `[route] mode = \"observe\"` where another tool migrates; here `do` says what tidegate does";
        r.error(said.span(), "`reached` is for plans that only observe", "expected no `reached`", Some(help.into()));
        return Vec::new();
    }
    let mut all = Vec::new();
    for item in r.items(t, "reached", "an array of words") {
        let Some(text) = item.get_ref().as_str() else {
            let expected = format!("expected a word, found {}", item.get_ref().type_str());
            r.error(item.span(), "`reached` has the wrong type", expected, None);
            continue;
        };
        let word = At { value: text.to_owned(), span: item.span() };
        let known = [Reached::Indexes, Reached::Reconciled].map(|x| (x.name(), x));
        let Some(reached) = r.word(&word, "thing to have reached", &known) else { continue };
        let planned = ground.collections.iter().any(|c| !c.indexes.is_empty());
        if all.contains(&reached) {
            r.error(word.span, format!("`{text}` stands there twice"), "expected it once", None);
        } else if reached == Reached::Indexes && !planned && !ground.collections.is_empty() {
            let help =
                "name them: `[[collection]] indexes = [{ keys = { customer_name = 1 }, name = \"by_customer\" }]`";
            r.error(word.span, "the plan names no index", "expected indexes to look for", Some(help.into()));
        } else {
            all.push(reached);
        }
    }
    all
}

/// A stage moves nothing.
pub(super) fn refuse_moves(r: &mut Reader, t: &Table<'_, '_>) {
    for key in MOVES {
        if let Some(v) = t.table.get(key) {
            let help =
                "say what the other tool must have reached: `reached = [\"reconciled\"]`; gates and `soak` do the rest";
            let message = format!("`{key}` has nothing to do: tidegate only observes here");
            r.error(v.span(), message, format!("expected no `{key}`"), Some(help.into()));
        }
    }
}

/// Everything else that makes no sense for an onlooker.
pub(super) fn check(r: &mut Reader, t: &Table<'_, '_>, stages: &[Stage]) {
    let nothing = |r: &mut Reader, v: &Spanned<DeValue<'_>>, what: &str, help: &str| {
        let message = format!("{what} has nothing to do: tidegate only observes here");
        r.error(v.span(), message, format!("expected no {what}"), Some(help.into()));
    };
    for key in TABLES {
        if let Some(v) = t.table.get(key) {
            nothing(r, v, &format!("`[{key}]`"), "the tool that migrates moves traffic, and goes back");
        }
    }
    let inside = |table: &str, key: &str| {
        t.table.get(table).and_then(|v| v.get_ref().as_table()).and_then(|v| v.get(key)).map(|v| (v.span(), v))
    };
    for key in ROUTE {
        if let Some((_, v)) = inside("route", key) {
            nothing(r, v, &format!("`{key}`"), "applications follow no route here");
        }
    }
    for key in ["max_docs_per_second", "max_rate"] {
        if let Some((_, v)) = inside("throttle", key) {
            nothing(r, v, &format!("`{key}`"), "it slows a copy; comparing keeps to the other limits of `[throttle]`");
        }
    }
    for c in all(t.table, "collection") {
        let name = |key: &str| c.get(key).and_then(|v| v.get_ref().as_str());
        if let (Some(v), true) = (c.get("next"), name("legacy").is_some() && name("legacy") == name("next")) {
            let message =
                "documents that change where they are cannot be observed: there is no other side to compare with";
            r.error(v.span(), message, "expected another collection", None);
        }
        let looked_at = stages.iter().any(|s| s.reached.contains(&Reached::Indexes));
        if let Some(v) = c.get("indexes").filter(|_| !looked_at) {
            let help = "add `reached = [\"indexes\"]` to the stage that waits until the other tool has built them";
            r.error(v.span(), "no stage looks whether these indexes are there", "", Some(help.into()));
        }
    }
    for hook in all(t.table, "hook") {
        let on = hook.get("on").and_then(|v| v.get_ref().as_array());
        for v in on.into_iter().flat_map(|a| a.iter()).filter(|v| v.get_ref().as_str().is_some_and(is_never)) {
            nothing(r, v, "this occasion", "an observed rollout never goes back by itself: the other tool does");
        }
    }
    check_watchers(r, t);
}

fn is_never(occasion: &str) -> bool {
    NEVER.contains(&occasion)
}

/// Gates and triggers stand on what an onlooker knows, and no trigger goes back.
fn check_watchers(r: &mut Reader, t: &Table<'_, '_>) {
    for trigger in all(t.table, "trigger") {
        check_trigger(r, trigger);
    }
    let mut compared = false;
    for stage in all(t.table, "stage") {
        let reached = stage.get("reached").and_then(|v| v.get_ref().as_array());
        compared |= reached.is_some_and(|a| a.iter().any(|v| v.get_ref().as_str() == Some(Reached::Reconciled.name())));
        for gate in all(stage, "gate") {
            check_metric(r, gate);
            let metric =
                gate.get("metric").filter(|m| m.get_ref().as_str().is_some_and(|m| m.starts_with("reconcile.")));
            if let Some(v) = metric.filter(|_| !compared) {
                let help =
                    "add `reached = [\"reconciled\"]` to this stage or an earlier one: from there on it is known";
                r.error(v.span(), "nothing has been compared in this stage", "", Some(help.into()));
            }
        }
        for trigger in all(stage, "trigger") {
            check_trigger(r, trigger);
        }
    }
}

fn check_trigger(r: &mut Reader, trigger: &DeTable<'_>) {
    check_metric(r, trigger);
    if let Some(v) = trigger.get("action").filter(|v| v.get_ref().as_str() == Some("rollback")) {
        let help = "let it pause, and tell the other tool with a hook: `[[hook]] on = [\"trigger\"]`";
        r.error(v.span(), "tidegate only observes here and cannot go back", "expected `pause`", Some(help.into()));
    }
}

fn check_metric(r: &mut Reader, t: &DeTable<'_>) {
    let Some(v) = t.get("metric") else { return };
    let Some(name) = v.get_ref().as_str().filter(|m| NOT_REPORTED.iter().chain(&NOT_WRITTEN).any(|n| m.starts_with(n)))
    else {
        return;
    };
    let help = "docs/observe.md lists what is known without a route";
    let message = format!("`{name}` is never known where tidegate only observes");
    r.error(v.span(), message, "expected another metric", Some(help.into()));
}

/// The tables of an array; what is none is complained about elsewhere.
pub(super) fn all<'a, 'i>(t: &'a DeTable<'i>, key: &str) -> impl Iterator<Item = &'a DeTable<'i>> + use<'a, 'i> {
    let items = t.get(key).and_then(|v| v.get_ref().as_array());
    items.into_iter().flat_map(|a| a.iter()).filter_map(|v| v.get_ref().as_table())
}

//! Reads `[[stage]]`, gates and triggers, and checks that the stages lead from legacy to next without a gap or a step back.

use std::ops::Range;

use super::metrics_names::{METRICS, MetricName, metric};
use super::parse::check_id;
use super::reader::{At, Reader, Table, duration_text, suggest};
use super::types::{Action, Advance, Bound, Collection, Gate, RollbackMode, Stage, Trigger, Work};
use crate::route::Side;
use crate::runtime::Micros;

const SIDES: [(&str, Side); 2] = [("legacy", Side::Legacy), ("next", Side::Next)];
const WORK: [(&str, Work); 4] = [
    ("create", Work::Create),
    ("backfill", Work::Backfill),
    ("indexes", Work::Indexes),
    ("quarantine-legacy", Work::QuarantineLegacy),
];

/// What the checks between stages need to remember of the stages before.
#[derive(Default)]
struct Before {
    ids: Vec<String>,
    /// Work done in earlier stages.
    done: Vec<Work>,
    shadow: u8,
    reads: u8,
    writes: u8,
    contracted: bool,
    /// A percentage or a word could not be read: what follows from it is not complained about again.
    unsure: bool,
}

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, collections: &[Collection]) -> Vec<Stage> {
    let tables = r.tables(t, "stage", "[[stage]]");
    if tables.is_empty() && !t.table.contains_key("stage") {
        r.error(
            0..0,
            "the plan has no `[[stage]]`",
            "",
            Some("add a stage that copies: `do = [\"create\", \"backfill\"]`".into()),
        );
    }
    let mut before = Before::default();
    let mut stages = Vec::new();
    for t in &tables {
        if let Some(stage) = read_stage(r, t, &mut before, collections) {
            stages.push(stage);
        }
    }
    stages
}

fn read_stage(r: &mut Reader, t: &Table<'_, '_>, before: &mut Before, collections: &[Collection]) -> Option<Stage> {
    r.only(
        t,
        &["id", "do", "shadow", "reads", "writes", "soak", "advance", "runbook", "irreversible", "gate", "trigger"],
    );
    let id = r.required(t, "id", "\"canary\"");
    let id = id.and_then(|id| {
        let value = check_id(r, &id)?;
        if before.ids.contains(&value) {
            r.error(id.span, format!("two stages are named `{value}`"), "expected another id", None);
            return None;
        }
        before.ids.push(value.clone());
        Some(value)
    });
    if before.contracted {
        let message = "no stage can follow the one that quarantines legacy";
        r.error(t.span.clone(), message, "expected the end of the plan", None);
    }
    let (work, known) = read_work(r, t, before);
    before.unsure |= !known;
    let (mut shadow, reads, writes) = read_traffic(r, t, before, collections);
    if work.contains(&Work::QuarantineLegacy) {
        // Nothing is left to compare with; an inherited share ends here.
        if let Some(v) = t.table.get("shadow").filter(|_| shadow > 0) {
            r.error(v.span(), "there is no legacy left to compare reads with", "expected 0", None);
        }
        shadow = 0;
    }
    check_contract(r, t, before, &work, (reads, writes));
    let soak = r.duration(t, "soak").map_or(Micros::ZERO, |d| d.value);
    let advance = r.string(t, "advance");
    let advance =
        advance.and_then(|w| r.word(&w, "way to advance", &[("operator", Advance::Operator), ("auto", Advance::Auto)]));
    let runbook = r.string(t, "runbook").map(|s| crate::scrub::line(&s.value));
    let gates = r.tables(t, "gate", "[[stage.gate]]").iter().filter_map(|g| read_gate(r, g)).collect();
    for t in r.tables(t, "trigger", "[[stage.trigger]]") {
        let help = "write it plan-wide, as `[[trigger]]`";
        r.error(t.span, "triggers of a single stage are not available yet", "", Some(help.into()));
    }
    before.contracted |= work.contains(&Work::QuarantineLegacy);
    let irreversible = work.contains(&Work::QuarantineLegacy);
    before.done.extend(&work);
    (before.shadow, before.reads, before.writes) = (shadow, reads, writes);
    Some(Stage {
        id: id?,
        work,
        shadow,
        reads,
        writes,
        soak,
        advance: advance.unwrap_or(Advance::Operator),
        runbook,
        irreversible,
        gates,
    })
}

/// The work, and whether every word of it could be read.
fn read_work(r: &mut Reader, t: &Table<'_, '_>, before: &Before) -> (Vec<Work>, bool) {
    let mut work: Vec<Work> = Vec::new();
    let mut known = t.table.get("do").is_none_or(|v| v.get_ref().is_array());
    for item in r.items(t, "do", "an array of words") {
        let Some(text) = item.get_ref().as_str() else {
            let expected = format!("expected a word, found {}", item.get_ref().type_str());
            r.error(item.span(), "`do` has the wrong type", expected, None);
            known = false;
            continue;
        };
        let word = At { value: text.to_owned(), span: item.span() };
        let Some(w) = r.word(&word, "work", &WORK) else {
            known = false;
            continue;
        };
        let done = |x: Work, work: &[Work]| before.done.contains(&x) || work.contains(&x);
        if done(w, &work) {
            r.error(word.span, format!("`{text}` is done twice"), "expected once in the plan", None);
        } else if w == Work::Backfill && !done(Work::Create, &work) {
            r.error(word.span, "`backfill` comes before `create`", "expected `create` first", None);
        } else if w == Work::Indexes && !done(Work::Create, &work) {
            r.error(word.span, "`indexes` comes before `create`", "expected `create` first", None);
        } else if w == Work::Create && done(Work::Indexes, &work) {
            r.error(word.span, "`create` comes after `indexes`", "expected `create` first", None);
        }
        work.push(w);
    }
    (work, known)
}

/// Reads the percentages, inheriting what is not said, and checks that traffic only moves forward and onto finished ground.
fn read_traffic(r: &mut Reader, t: &Table<'_, '_>, before: &mut Before, collections: &[Collection]) -> (u8, u8, u8) {
    let mut percent = |key: &str| {
        r.integer(t, key, 0, 100).and_then(|n| Some(At { value: u8::try_from(n.value).ok()?, span: n.span }))
    };
    let (shadow, reads, writes) = (percent("shadow"), percent("reads"), percent("writes"));
    let of = |p: &Option<At<u8>>, inherited: u8| p.as_ref().map_or(inherited, |p| p.value);
    let span = |p: &Option<At<u8>>| -> Range<usize> { p.as_ref().map_or_else(|| t.span.clone(), |p| p.span.clone()) };
    let mut now = (of(&shadow, before.shadow), of(&reads, before.reads), of(&writes, before.writes));
    let unread = |key: &str, p: &Option<At<u8>>| p.is_none() && t.table.contains_key(key);
    before.unsure |= unread("shadow", &shadow) || unread("reads", &reads) || unread("writes", &writes);
    if before.unsure {
        return now;
    }
    for (name, p, now, was) in [("reads", &reads, now.1, before.reads), ("writes", &writes, now.2, before.writes)] {
        if now < was {
            let message = format!("`{name}` goes back from {was} to {now} %");
            let help = "stages only go forward; the way back is a rollback, at any time";
            r.error(span(p), message, format!("expected {was} to 100"), Some(help.into()));
        }
    }
    now = (now.0, now.1.max(before.reads), now.2.max(before.writes));
    if now.2 > now.1 {
        let message = format!("{} % of writes but only {} % of reads are on next", now.2, now.1);
        let help = "a key's reads move to next before its writes do";
        let at = if writes.is_some() { span(&writes) } else { span(&reads) };
        r.error(at, message, "expected writes ≤ reads", Some(help.into()));
    }
    let moved = [(&shadow, now.0), (&reads, now.1), (&writes, now.2)].into_iter().find(|(_, n)| *n > 0);
    let had = before.shadow > 0 || before.reads > 0 || before.writes > 0;
    let ready = before.done.contains(&Work::Create) && before.done.contains(&Work::Backfill);
    if let (Some((p, _)), false) = (moved, had)
        && !ready
    {
        let help = "put a stage with do = [\"create\", \"backfill\", \"indexes\"] before it";
        let message = "this stage uses next before an earlier stage has created and filled it";
        r.error(span(p), message, "expected an earlier stage that copies", Some(help.into()));
    }
    let indexes: Vec<_> = collections.iter().flat_map(|c| &c.indexes).collect();
    if now.1 > 0 && before.reads == 0 && ready && !indexes.is_empty() && !before.done.contains(&Work::Indexes) {
        let help = "add `indexes` to the `do` of an earlier stage";
        r.error(span(&reads), "reads move to next before its indexes are built", "", Some(help.into()));
    }
    if let Some(unique) = indexes.iter().find(|i| i.unique && i.keys.keys().ne(["_id"]))
        && !matches!(now.2, 0 | 100)
    {
        let message = format!("`{}` is unique: half-moved writes could break it unseen", unique.name);
        r.error(span(&writes), message, "expected 0 or 100", None);
    }
    now
}

/// Legacy is quarantined last, knowingly, and only when nothing uses it any more.
fn check_contract(r: &mut Reader, t: &Table<'_, '_>, before: &Before, work: &[Work], now: (u8, u8)) {
    let irreversible = r.boolean(t, "irreversible");
    let contract = work.contains(&Work::QuarantineLegacy);
    match &irreversible {
        Some(i) if i.value && !contract => {
            r.error(
                i.span.clone(),
                "this stage can be undone",
                "only a stage that does `quarantine-legacy` is irreversible",
                None,
            );
        }
        Some(i) if !i.value && contract => {
            r.error(i.span.clone(), "there is no way back from `quarantine-legacy`", "expected true", None);
        }
        None if contract && !t.table.contains_key("irreversible") => {
            let help = "say that you know: add `irreversible = true`";
            r.error(t.span.clone(), "there is no way back from `quarantine-legacy`", "", Some(help.into()));
        }
        _ => {}
    }
    if !contract {
        return;
    }
    let at = t.table.get("do").map_or_else(|| t.span.clone(), |v| v.span());
    if work.len() > 1 {
        r.error(at.clone(), "`quarantine-legacy` stands alone in its stage", "expected nothing beside it", None);
    }
    if before.unsure {
        return;
    }
    if (before.reads, before.writes) != (100, 100) || now != (100, 100) {
        let message = "legacy can be quarantined only after a stage with all reads and writes on next";
        let expected = format!("before it, reads are {} % and writes {} %", before.reads, before.writes);
        r.error(at, message, expected, None);
    }
}

/// The metric and side of a gate or trigger.
fn read_metric(r: &mut Reader, t: &Table<'_, '_>) -> Option<(&'static MetricName, Option<Side>)> {
    let name = r.required(t, "metric", "\"latency.read.p99\"")?;
    let Some(m) = metric(&name.value) else {
        let help = suggest(&name.value, METRICS.iter().map(|m| m.name));
        let help = help
            .or_else(|| Some("metrics are named like `latency.read.p99`, `errors.write.rate` or `lag.apply`".into()));
        r.error(name.span, format!("unknown metric `{}`", name.value), "", help);
        return None;
    };
    let side = r.string(t, "side");
    match (m.has_side, &side) {
        (true, None) if !t.table.contains_key("side") => {
            let message = format!("`{}` is measured on each side, and `side` is missing", m.name);
            r.error(name.span, message, "", Some("add `side = \"next\"` or `side = \"legacy\"`".into()));
            return None;
        }
        (false, Some(s)) => {
            r.error(s.span.clone(), format!("`{}` has no side", m.name), "expected no `side` here", None);
            return None;
        }
        _ => {}
    }
    let side = side.and_then(|s| r.word(&s, "side", &SIDES));
    (side.is_some() == m.has_side).then_some((m, side))
}

/// A limit in the metric's unit: durations as microseconds, ratios as 0 to 1.
fn read_limit(r: &mut Reader, t: &Table<'_, '_>, key: &str, m: &MetricName) -> Option<f64> {
    use super::metrics_names::UnitKind;
    let v = t.table.get(key)?;
    if m.unit.is_time() {
        if !v.get_ref().is_str() {
            let expected = format!("expected a duration like \"25ms\", found {}", v.get_ref().type_str());
            r.error(v.span(), format!("`{}` is a time", m.name), expected, None);
            return None;
        }
        return r.duration(t, key).map(|d| d.value.0 as f64);
    }
    if v.get_ref().is_str() {
        r.error(v.span(), format!("`{}` is not a time", m.name), "expected a number", None);
        return None;
    }
    let n = r.number(t, key)?;
    let range = match m.unit {
        UnitKind::Ratio => 0.0..=1.0,
        _ => 0.0..=1e15,
    };
    if !range.contains(&n.value) {
        let expected = if m.unit == UnitKind::Ratio { "expected 0 to 1 (1 is 100 %)" } else { "expected 0 or more" };
        r.error(n.span, format!("`{key}` is out of range"), expected, None);
        return None;
    }
    Some(n.value)
}

fn read_window(r: &mut Reader, t: &Table<'_, '_>) -> Option<Micros> {
    let Some(window) = r.duration(t, "window") else {
        if !t.table.contains_key("window") {
            r.missing(t, "window", "\"60s\"");
        }
        return None;
    };
    let (least, most) = (Micros::from_secs(1), Micros::from_secs(86_400));
    if window.value < least || window.value > most {
        let expected = format!("expected {} to {}", duration_text(least), duration_text(most));
        r.error(window.span, "`window` is out of range", expected, None);
        return None;
    }
    Some(window.value)
}

fn read_gate(r: &mut Reader, t: &Table<'_, '_>) -> Option<Gate> {
    r.only(t, &["metric", "side", "max", "min", "versus", "max_ratio", "window", "for", "min_samples"]);
    let metric = read_metric(r, t);
    let window = read_window(r, t);
    let hold_for = r.duration(t, "for").map_or(Micros::ZERO, |d| d.value);
    let (m, side) = metric?;
    let bound = read_bound(r, t, m, side);
    let samples = r.integer(t, "min_samples", 1, 1_000_000_000);
    let min_samples = match samples {
        Some(n) if (n.value as u64) < m.least_samples() => {
            let message = format!("{} samples say nothing about `{}`", n.value, m.name);
            let expected = format!("expected at least {}", m.least_samples());
            let help = "a percentile needs ten samples beyond it: n(1-q) >= 10";
            r.error(n.span, message, expected, Some(help.into()));
            return None;
        }
        Some(n) => n.value as u64,
        None => m.default_samples,
    };
    Some(Gate { metric: m.name.to_owned(), side, bound: bound?, window: window?, hold_for, min_samples })
}

fn read_bound(r: &mut Reader, t: &Table<'_, '_>, m: &MetricName, side: Option<Side>) -> Option<Bound> {
    let has = |k: &str| t.table.contains_key(k);
    let ratio = has("versus") || has("max_ratio");
    let given = usize::from(has("max")) + usize::from(has("min")) + usize::from(ratio);
    if given != 1 {
        let message = if given == 0 { "this gate has no limit" } else { "this gate has more than one limit" };
        let help = "exactly one of `max`, `min`, or `versus = \"legacy\"` with `max_ratio`";
        r.error(t.span.clone(), message, "", Some(help.into()));
        return None;
    }
    if has("max") {
        return read_limit(r, t, "max", m).map(Bound::Max);
    }
    if has("min") {
        return read_limit(r, t, "min", m).map(Bound::Min);
    }
    let versus = r.required(t, "versus", "\"legacy\"");
    if !has("max_ratio") {
        r.missing(t, "max_ratio", "1.5");
    }
    let max_ratio = r.number(t, "max_ratio");
    let versus = versus?;
    r.word(&versus, "side to compare with", &[("legacy", ())])?;
    if side != Some(Side::Next) {
        let expected = "expected a metric of `side = \"next\"`";
        r.error(versus.span, "only a metric of next can be compared with legacy", expected, None);
        return None;
    }
    let max_ratio = max_ratio?;
    if max_ratio.value <= 0.0 || max_ratio.value > 1_000.0 {
        r.error(max_ratio.span, "`max_ratio` is out of range", "expected more than 0, at most 1000", None);
        return None;
    }
    Some(Bound::MaxRatioToLegacy(max_ratio.value))
}

pub(super) fn read_trigger(r: &mut Reader, t: &Table<'_, '_>) -> Option<Trigger> {
    r.only(t, &["metric", "side", "above", "window", "for", "action", "mode"]);
    let action = read_action(r, t);
    let metric = read_metric(r, t);
    let window = read_window(r, t);
    let hold_for = r.duration(t, "for").map_or(Micros::ZERO, |d| d.value);
    if !t.table.contains_key("above") {
        r.missing(t, "above", "0.01");
    }
    let (m, side) = metric?;
    let above = read_limit(r, t, "above", m);
    Some(Trigger { metric: m.name.to_owned(), side, above: above?, window: window?, hold_for, action: action? })
}

fn read_action(r: &mut Reader, t: &Table<'_, '_>) -> Option<Action> {
    let action = r.string(t, "action");
    let mode = r.string(t, "mode");
    let rollback = match &action {
        Some(a) => r.word(a, "action", &[("pause", false), ("rollback", true)])?,
        None => false,
    };
    match mode {
        Some(m) if !rollback => {
            let help = "a pause has no mode; did you mean `action = \"rollback\"`?";
            r.error(m.span, "`mode` belongs to `action = \"rollback\"`", "expected no `mode`", Some(help.into()));
            None
        }
        Some(m) => {
            let modes = [("soft", RollbackMode::Soft), ("hard", RollbackMode::Hard)];
            r.word(&m, "mode", &modes).map(Action::Rollback)
        }
        None if rollback => Some(Action::Rollback(RollbackMode::Soft)),
        None => Some(Action::Pause),
    }
}

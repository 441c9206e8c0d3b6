//! Reads `[[stage]]` and checks that the stages lead from legacy to next without a gap or a step back.

use std::ops::Range;

use super::gate_parse;
use super::gates::Gate;
use super::observe;
use super::parse::check_id;
use super::reach::{self, Traffic};
use super::reader::{At, Reader, Table};
use super::types::{Advance, Collection, Expects, PilotLevel, Slo, Stage, Work};
use crate::runtime::Micros;

const WORK: [(&str, Work); 4] = [
    ("create", Work::Create),
    ("backfill", Work::Backfill),
    ("indexes", Work::Indexes),
    ("quarantine-legacy", Work::QuarantineLegacy),
];

/// What the stages stand on.
pub(super) struct Ground<'a> {
    pub(super) collections: &'a [Collection],
    pub(super) slo: Option<&'a Slo>,
    pub(super) expects: &'a Expects,
    /// The plan names a pilot cohort, rightly or not.
    pub(super) has_pilot: bool,
    /// Another tool migrates: a stage says what it must have reached.
    pub(super) observes: bool,
}

impl Ground<'_> {
    /// Both sides have one name, whether or not it is meant.
    fn one_collection(&self) -> bool {
        self.collections.iter().any(Collection::in_place)
    }

    /// True when the plan means it: without a shape one name for both sides is rather a slip, and complained about once.
    fn in_place(&self) -> bool {
        self.collections.iter().any(|c| c.in_place() && c.shape.is_some())
    }
}

/// What the checks between stages need to remember of the stages before.
#[derive(Default)]
struct Before {
    ids: Vec<String>,
    /// Work done in earlier stages.
    done: Vec<Work>,
    shadow: u8,
    reads: u8,
    writes: u8,
    pilot: PilotLevel,
    contracted: bool,
    /// A percentage or a word could not be read: what follows from it is not complained about again.
    unsure: bool,
}

pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, ground: &Ground<'_>) -> Vec<Stage> {
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
        if let Some(stage) = read_stage(r, t, &mut before, ground) {
            stages.push(stage);
        }
    }
    if let Some(pilot) =
        t.table.get("pilot").filter(|_| before.pilot == PilotLevel::Off && !before.unsure && !ground.observes)
    {
        let help = "say in a stage how far it goes: `pilot = \"reads\"` or `pilot = \"writes\"`";
        r.error(pilot.span(), "no stage moves the pilot cohort", "", Some(help.into()));
    }
    stages
}

fn read_stage(r: &mut Reader, t: &Table<'_, '_>, before: &mut Before, ground: &Ground<'_>) -> Option<Stage> {
    r.only(
        t,
        &[
            "id",
            "do",
            "reached",
            "shadow",
            "reads",
            "writes",
            "pilot",
            "soak",
            "advance",
            "runbook",
            "irreversible",
            "gate",
            "trigger",
        ],
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
    let reached = observe::read_reached(r, t, ground);
    if ground.observes {
        observe::refuse_moves(r, t);
    }
    let (work, known) = if ground.observes { (Vec::new(), true) } else { read_work(r, t, before, ground) };
    before.unsure |= !known;
    let (mut shadow, reads, writes) = read_traffic(r, t, before, ground);
    let (pilot, pilot_said) = read_pilot(r, t, before, ground);
    if work.contains(&Work::QuarantineLegacy) {
        // Nothing is left to compare with; an inherited share ends here.
        if let Some(v) = t.table.get("shadow").filter(|_| shadow > 0) {
            r.error(v.span(), "there is no legacy left to compare reads with", "expected 0", None);
        }
        shadow = 0;
    }
    if !ground.observes {
        check_contract(r, t, before, &work, (reads, writes));
    }
    let soak = r.duration(t, "soak").map_or(Micros::ZERO, |d| d.value);
    let advance = r.string(t, "advance");
    let advance =
        advance.and_then(|w| r.word(&w, "way to advance", &[("operator", Advance::Operator), ("auto", Advance::Auto)]));
    let runbook = r.string(t, "runbook").map(|s| crate::scrub::line(&s.value));
    let traffic = Traffic { shadow, reads, writes, pilot };
    let gates = read_gates(r, t, (!before.unsure && !ground.in_place() && !ground.observes).then_some(traffic), ground);
    let triggers = r.tables(t, "trigger", "[[stage.trigger]]");
    let triggers = triggers.iter().filter_map(|t| gate_parse::read_trigger(r, t, ground.slo)).collect();
    before.contracted |= work.contains(&Work::QuarantineLegacy);
    let irreversible = work.contains(&Work::QuarantineLegacy);
    before.done.extend(&work);
    (before.shadow, before.reads, before.writes, before.pilot) = (shadow, reads, writes, pilot);
    Some(Stage {
        id: id?,
        work,
        reached,
        shadow,
        reads,
        writes,
        pilot,
        pilot_said,
        soak,
        advance: advance.unwrap_or(Advance::Operator),
        runbook,
        irreversible,
        gates,
        triggers,
    })
}

/// The gates, and whether they can get their samples from what is known of the traffic.
fn read_gates(r: &mut Reader, t: &Table<'_, '_>, traffic: Option<Traffic>, ground: &Ground<'_>) -> Vec<Gate> {
    let mut gates = Vec::new();
    for t in r.tables(t, "gate", "[[stage.gate]]") {
        let Some(gate) = gate_parse::read_gate(r, &t, ground.slo) else { continue };
        if let Some(traffic) = traffic {
            let at = |key: &str| t.table.get(key).map_or(t.span.clone(), |v| v.span());
            reach::check(r, &gate, at("metric"), at("window"), traffic, ground.expects);
        }
        gates.push(gate);
    }
    gates
}

/// The work, and whether every word of it could be read.
fn read_work(r: &mut Reader, t: &Table<'_, '_>, before: &Before, ground: &Ground<'_>) -> (Vec<Work>, bool) {
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
        if ground.in_place() && matches!(w, Work::Create | Work::QuarantineLegacy) {
            let message = format!("`{text}` has nothing to do: the documents change where they are");
            r.error(word.span, message, "expected `backfill` or `indexes`", None);
            known = false;
            continue;
        }
        let done = |x: Work, work: &[Work]| before.done.contains(&x) || work.contains(&x);
        if done(w, &work) {
            r.error(word.span, format!("`{text}` is done twice"), "expected once in the plan", None);
        } else if w == Work::Backfill && !ground.one_collection() && !done(Work::Create, &work) {
            r.error(word.span, "`backfill` comes before `create`", "expected `create` first", None);
        } else if w == Work::Indexes && !ground.one_collection() && !done(Work::Create, &work) {
            r.error(word.span, "`indexes` comes before `create`", "expected `create` first", None);
        } else if w == Work::Create && done(Work::Indexes, &work) {
            r.error(word.span, "`create` comes after `indexes`", "expected `create` first", None);
        }
        work.push(w);
    }
    (work, known)
}

/// Reads the percentages, inheriting what is not said, and checks that traffic only moves forward and onto finished ground.
fn read_traffic(r: &mut Reader, t: &Table<'_, '_>, before: &mut Before, ground: &Ground<'_>) -> (u8, u8, u8) {
    if ground.observes {
        return (0, 0, 0);
    }
    let mut percent = |key: &str| {
        r.integer(t, key, 0, 100).and_then(|n| Some(At { value: u8::try_from(n.value).ok()?, span: n.span }))
    };
    let (shadow, reads, writes) = (percent("shadow"), percent("reads"), percent("writes"));
    let of = |p: &Option<At<u8>>, inherited: u8| p.as_ref().map_or(inherited, |p| p.value);
    let span = |p: &Option<At<u8>>| -> Range<usize> { p.as_ref().map_or_else(|| t.span.clone(), |p| p.span.clone()) };
    let mut now = (of(&shadow, before.shadow), of(&reads, before.reads), of(&writes, before.writes));
    let unread = |key: &str, p: &Option<At<u8>>| p.is_none() && t.table.contains_key(key);
    before.unsure |= unread("shadow", &shadow) || unread("reads", &reads) || unread("writes", &writes);
    if ground.in_place() {
        for (name, p) in [("shadow", &shadow), ("reads", &reads), ("writes", &writes)] {
            if let Some(p) = p.as_ref().filter(|p| p.value > 0) {
                let message = format!("`{name}` moves nothing: the documents change where they are");
                let help = "a plan in place has no shares; give `next` another name to move traffic step by step";
                r.error(p.span.clone(), message, "expected no share", Some(help.into()));
            }
        }
        return (0, 0, 0);
    }
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
    let indexes: Vec<_> = ground.collections.iter().flat_map(|c| &c.indexes).collect();
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

/// How far the pilot cohort is, and whether the stage says so itself.
fn read_pilot(r: &mut Reader, t: &Table<'_, '_>, before: &mut Before, ground: &Ground<'_>) -> (PilotLevel, bool) {
    if ground.observes {
        return (PilotLevel::Off, false);
    }
    let words = [PilotLevel::Off, PilotLevel::Reads, PilotLevel::Writes].map(|l| (l.name(), l));
    let said = r.string(t, "pilot").and_then(|w| r.word(&w, "reach of the pilot", &words).map(|v| (v, w.span)));
    let Some((level, span)) = said else {
        before.unsure |= t.table.contains_key("pilot");
        return (before.pilot, false);
    };
    if !ground.has_pilot {
        let help = "say who it is: `[pilot]` with `field = \"_id.region\"` and `in = [\"eu\"]`";
        r.error(span, "the plan names no pilot cohort", "", Some(help.into()));
    } else if ground.in_place() && level > PilotLevel::Off {
        let message = "`pilot` moves nothing: the documents change where they are";
        let help = "a plan in place has no shares; give `next` another name to move a cohort first";
        r.error(span, message, "expected no pilot", Some(help.into()));
    } else if level < before.pilot && !before.unsure {
        let message = format!("`pilot` goes back from `{}` to `{}`", before.pilot.name(), level.name());
        let help =
            "stages only go forward; the way back of the cohort alone is `tidegate rollback --cohort`, at any time";
        r.error(span, message, format!("expected `{}` or more", before.pilot.name()), Some(help.into()));
    } else if level > PilotLevel::Off && !before.unsure {
        check_pilot(r, span, level, before, ground);
    }
    (level.max(before.pilot), true)
}

/// The cohort moves onto finished ground only, as everybody else.
fn check_pilot(r: &mut Reader, span: Range<usize>, level: PilotLevel, before: &Before, ground: &Ground<'_>) {
    let indexes: Vec<_> = ground.collections.iter().flat_map(|c| &c.indexes).collect();
    if !before.done.contains(&Work::Create) || !before.done.contains(&Work::Backfill) {
        let help = "put a stage with do = [\"create\", \"backfill\", \"indexes\"] before it";
        let message = "the pilot cohort uses next before an earlier stage has created and filled it";
        r.error(span, message, "expected an earlier stage that copies", Some(help.into()));
    } else if !indexes.is_empty() && !before.done.contains(&Work::Indexes) {
        let help = "add `indexes` to the `do` of an earlier stage";
        r.error(span, "the pilot cohort moves to next before its indexes are built", "", Some(help.into()));
    } else if let Some(unique) = indexes.iter().find(|i| i.unique && i.keys.keys().ne(["_id"]))
        && level == PilotLevel::Writes
    {
        let message = format!("`{}` is unique: the writes of a cohort alone could break it unseen", unique.name);
        r.error(span, message, "expected `reads`", None);
    }
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

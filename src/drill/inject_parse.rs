//! Reads `[[inject]]`: what happens in a drill, and when. Every mistake has its place; a key that the action has no use for is one.

use super::inject::{Action, Condition, Inject, Measure, Member, READABLE, Start, Target};
use crate::cluster::embedded::Pressure;
use crate::metrics::names;
use crate::plan::reader::{At, Reader, Table, duration_text, list, suggest};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::Phase;

/// Nothing in a drill lasts longer.
const LONGEST: Micros = Micros::from_secs(86_400);
const ACTIONS: [&str; 7] = ["latency", "replication_lag", "stepdown", "errors", "oplog_loss", "partition", "pressure"];
const TARGETS: [(&str, Target); 3] =
    [("legacy", Target::Side(Side::Legacy)), ("next", Target::Side(Side::Next)), ("cluster", Target::Cluster)];
/// The phases that a condition can name: those a stage goes through.
const PHASES: [(&str, Phase); 6] = [
    ("working", Phase::Working),
    ("soaking", Phase::Soaking),
    ("awaiting_operator", Phase::AwaitingOperator),
    ("blocked", Phase::Blocked),
    ("paused", Phase::Paused),
    ("rolling_back", Phase::RollingBack),
];

/// All injects of a scenario whose replica set has `nodes` members.
pub(super) fn read(r: &mut Reader, t: &Table<'_, '_>, nodes: u8) -> Vec<Inject> {
    let mut all: Vec<Inject> = Vec::new();
    for t in r.tables(t, "inject", "[[inject]]") {
        if let Some(inject) = read_inject(r, &t, &all, nodes) {
            all.push(inject);
        }
    }
    all
}

fn read_inject(r: &mut Reader, t: &Table<'_, '_>, before: &[Inject], nodes: u8) -> Option<Inject> {
    let action = r.required(t, "action", "\"latency\"");
    let action = action.and_then(|a| r.word(&a, "action", &ACTIONS.map(|n| (n, n))));
    only(r, t, action);
    let id = r.required(t, "id", "\"evening\"").and_then(|id| read_id(r, id, before));
    let start = read_start(r, t, before);
    let lasts = span(r, t, "for");
    let ramp = span(r, t, "ramp");
    if let (Some(lasts), Some(ramp)) = (&lasts, &ramp)
        && ramp.value > lasts.value
    {
        let expected = format!("expected at most {}", duration_text(lasts.value));
        r.error(ramp.span.clone(), "`ramp` is longer than `for`: it would never be reached", expected, None);
    }
    let action = read_action(r, t, action?, nodes);
    Some(Inject {
        id: id?,
        start: start?,
        lasts: lasts.map(|l| l.value),
        ramp: ramp.map_or(Micros::ZERO, |r| r.value),
        action: action?,
    })
}

/// The keys that an inject with this action may have.
fn only(r: &mut Reader, t: &Table<'_, '_>, action: Option<&str>) {
    let mut keys = vec!["id", "action", "at", "after", "delay", "when"];
    keys.extend(match action {
        Some("latency") => &["for", "ramp", "target", "percent", "factor"][..],
        Some("replication_lag") => &["for", "ramp", "target", "lag"],
        Some("errors") => &["for", "ramp", "target", "reads", "writes", "unknown"],
        Some("partition") => &["for", "target"],
        Some("pressure") => &["for", "ramp", "tickets", "queued", "dirty"],
        Some(_) => &[],
        None => &["for", "ramp", "target", "percent", "factor", "lag", "reads", "writes", "unknown"],
    });
    let what = action.map_or_else(|| t.what.clone(), |a| format!("{} with action `{a}`", t.what));
    r.only(&Table { what, ..t.clone() }, &keys);
}

fn read_id(r: &mut Reader, id: At<String>, before: &[Inject]) -> Option<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if id.value.is_empty() || id.value.len() > 40 || !id.value.bytes().all(plain) {
        r.error(id.span, "this is not an id", "expected up to 40 of a-z, 0-9 and -", None);
        return None;
    }
    if before.iter().any(|b| b.id == id.value) {
        r.error(id.span, format!("two injects are named `{}`", id.value), "expected another id", None);
        return None;
    }
    Some(id.value)
}

/// A span of more than nothing.
fn span(r: &mut Reader, t: &Table<'_, '_>, key: &str) -> Option<At<Micros>> {
    let d = r.duration(t, key)?;
    if d.value == Micros::ZERO || d.value > LONGEST {
        let expected = format!("expected more than 0s, at most {}", duration_text(LONGEST));
        r.error(d.span, format!("`{key}` is out of range"), expected, None);
        return None;
    }
    Some(d)
}

fn read_start(r: &mut Reader, t: &Table<'_, '_>, before: &[Inject]) -> Option<Start> {
    let given: Vec<&str> = ["at", "after", "when"].into_iter().filter(|k| t.table.contains_key(*k)).collect();
    let [start] = given[..] else {
        let message = match given.is_empty() {
            true => "nothing says when this inject begins",
            false => "this inject begins more than once",
        };
        let help = "exactly one of `at = \"2m\"`, `after = \"another id\"` with `delay`, or `when = { stage = \"…\" }`";
        r.error(t.span.clone(), message, "", Some(help.into()));
        return None;
    };
    if let Some(v) = t.table.get("delay").filter(|_| start != "after") {
        let help = if start == "when" { "put it inside `when`" } else { "put it into `at`" };
        r.error(v.span(), "`delay` belongs to `after`", "", Some(help.into()));
        return None;
    }
    let zero = Micros::ZERO;
    match start {
        "at" => {
            let at = r.duration_in(t, "at", zero, LONGEST, zero);
            t.table.get("at")?.get_ref().as_str().map(|_| Start::At(at))
        }
        "after" => {
            let delay = r.duration_in(t, "delay", zero, LONGEST, zero);
            let other = r.string(t, "after")?;
            let Some(inject) = before.iter().position(|b| b.id == other.value) else {
                let help = suggest(&other.value, before.iter().map(|b| b.id.as_str()));
                let message = format!("no inject above this one is named `{}`", crate::scrub::short(&other.value, 40));
                r.error(other.span, message, "expected the id of one that stands before", help);
                return None;
            };
            Some(Start::After { inject, delay })
        }
        _ => {
            let t = r.table(t, "when", "`when`")?;
            r.only(&t, &["stage", "phase", "metric", "side", "above", "below", "delay"]);
            let delay = r.duration_in(&t, "delay", zero, LONGEST, zero);
            Some(Start::When { condition: read_condition(r, &t)?, delay })
        }
    }
}

fn read_condition(r: &mut Reader, t: &Table<'_, '_>) -> Option<Condition> {
    let has = |k: &str| t.table.contains_key(k);
    if !["stage", "phase", "metric"].into_iter().any(has) {
        let help = "at least one of `stage`, `phase` and `metric`";
        r.error(t.span.clone(), "this condition says nothing", "", Some(help.into()));
        return None;
    }
    let stage = r.string(t, "stage").map(|s| s.value);
    let phase = r.string(t, "phase").and_then(|p| r.word(&p, "phase", &PHASES));
    let measure = match has("metric") {
        true => Some(read_measure(r, t)?),
        false => {
            for v in ["side", "above", "below"].iter().filter_map(|k| t.table.get(*k)) {
                r.error(v.span(), "this belongs to a metric", "expected a `metric` beside it", None);
            }
            None
        }
    };
    Some(Condition { stage, phase, measure })
}

fn read_measure(r: &mut Reader, t: &Table<'_, '_>) -> Option<Measure> {
    let name = r.string(t, "metric")?;
    let Some(metric) = READABLE.into_iter().find(|m| *m == name.value) else {
        let help = suggest(&name.value, READABLE.into_iter());
        let message = format!("no condition can be on `{}`", crate::scrub::short(&name.value, 40));
        r.error(name.span, message, "expected a metric that the screen shows", help);
        return None;
    };
    let sided = ["latency.", "errors.", "throughput."].iter().any(|p| metric.starts_with(p));
    let side = match r.string(t, "side") {
        Some(s) if sided => Some(r.word(&s, "side", &[("legacy", Side::Legacy), ("next", Side::Next)])?),
        Some(s) => {
            r.error(s.span, format!("`{metric}` has no side"), "expected no `side` here", None);
            return None;
        }
        None if sided => {
            if !t.table.contains_key("side") {
                r.missing(t, "side", "\"next\"");
            }
            return None;
        }
        None => None,
    };
    let above = t.table.contains_key("above");
    if above == t.table.contains_key("below") {
        r.error(name.span, "this metric has no single limit", "expected one of `above` and `below`", None);
        return None;
    }
    let limit = read_limit(r, t, if above { "above" } else { "below" }, metric)?;
    Some(Measure { metric, side, above, limit })
}

/// A limit in the metric's unit: times as microseconds, shares 0 to 1.
fn read_limit(r: &mut Reader, t: &Table<'_, '_>, key: &str, metric: &str) -> Option<f64> {
    match names::unit(metric).0 {
        "ms" | "s" => r.duration(t, key).map(|d| d.value.0 as f64),
        unit => {
            let n = r.number(t, key)?;
            let most = if unit == "%" { 1.0 } else { 1e15 };
            if !(0.0..=most).contains(&n.value) {
                let expected = if unit == "%" { "expected a share, 0 to 1" } else { "expected 0 or more" };
                r.error(n.span, format!("`{key}` is out of range"), expected, None);
                return None;
            }
            Some(n.value)
        }
    }
}

fn read_action(r: &mut Reader, t: &Table<'_, '_>, action: &str, nodes: u8) -> Option<Action> {
    if matches!(action, "replication_lag" | "partition" | "stepdown") && nodes < 2 {
        let message = format!("`{action}` needs a replica set of more than one member");
        let at = t.table.get("action").map_or_else(|| t.span.clone(), |v| v.span());
        r.error(at, message, "expected `nodes = 3` in [world]", None);
        return None;
    }
    match action {
        "latency" => read_latency(r, t),
        "replication_lag" => {
            let all = word(r, t, "target", &[("secondaries", true), ("secondary", false)], Some(true))?;
            if !t.table.contains_key("lag") {
                r.missing(t, "lag", "\"5s\"");
            }
            Some(Action::ReplicationLag { all, lag: span(r, t, "lag")?.value })
        }
        "errors" => read_errors(r, t),
        "pressure" => read_pressure(r, t),
        "partition" => {
            let members = [("primary", Member::Primary), ("secondary", Member::Secondary)];
            Some(Action::Partition { member: word(r, t, "target", &members, None)? })
        }
        "stepdown" => Some(Action::StepDown),
        _ => Some(Action::OplogLoss),
    }
}

/// A word of a few, or what holds without it.
fn word<T: Copy>(r: &mut Reader, t: &Table<'_, '_>, key: &str, known: &[(&str, T)], default: Option<T>) -> Option<T> {
    if !t.table.contains_key(key) {
        if default.is_none() {
            let help = format!("add `{key}`: {}", list(known.iter().map(|(n, _)| *n)));
            r.error(t.span.clone(), format!("`{key}` is missing in {}", t.what), "", Some(help));
        }
        return default;
    }
    let w = r.string(t, key)?;
    r.word(&w, key, known)
}

fn read_latency(r: &mut Reader, t: &Table<'_, '_>) -> Option<Action> {
    let target = word(r, t, "target", &TARGETS, None);
    let percent = match (t.table.get("percent"), t.table.get("factor")) {
        (Some(_), None) => r.integer(t, "percent", 1, 100_000).map(|n| n.value.unsigned_abs()),
        (None, Some(v)) => r.number(t, "factor").and_then(|n| {
            if (0.01..=1_000.0).contains(&n.value) {
                return Some((n.value * 100.0).round() as u64);
            }
            r.error(v.span(), "`factor` is out of range", "expected 0.01 to 1000", None);
            None
        }),
        (both, _) => {
            let message = if both.is_some() { "latency is given twice" } else { "nothing says how slow it becomes" };
            let help = "one of `percent = 400` and `factor = 4.0`";
            r.error(t.span.clone(), message, "", Some(help.into()));
            None
        }
    };
    Some(Action::Latency { target: target?, percent: percent? })
}

fn read_errors(r: &mut Reader, t: &Table<'_, '_>) -> Option<Action> {
    let target = word(r, t, "target", &TARGETS, Some(Target::Cluster));
    let keys = ["reads", "writes", "unknown"];
    if !keys.iter().any(|k| t.table.contains_key(*k)) {
        let help = "at least one of `reads`, `writes` and `unknown`, as a share: `writes = 0.02`";
        r.error(t.span.clone(), "nothing says what fails", "", Some(help.into()));
        return None;
    }
    let [reads, writes, unknown] = keys.map(|key| match r.number(t, key) {
        Some(n) if (0.0..=1.0).contains(&n.value) => Some((n.value * 1e6).round() as u32),
        Some(n) => {
            r.error(n.span, format!("`{key}` is out of range"), "expected a share, 0 to 1", None);
            None
        }
        None => (!t.table.contains_key(key)).then_some(0),
    });
    Some(Action::Errors { target: target?, reads: reads?, writes: writes?, unknown: unknown? })
}

fn read_pressure(r: &mut Reader, t: &Table<'_, '_>) -> Option<Action> {
    if !["tickets", "queued", "dirty"].iter().any(|k| t.table.contains_key(*k)) {
        let help = "at least one of `tickets = 120` (taken by others), `queued = 200` and `dirty = 0.18` (a share)";
        r.error(t.span.clone(), "nothing says what presses", "", Some(help.into()));
        return None;
    }
    let mut count = |key: &str, most: i64| match t.table.contains_key(key) {
        true => r.integer(t, key, 0, most).and_then(|n| u32::try_from(n.value).ok()),
        false => Some(0),
    };
    let (tickets, queued) = (count("tickets", 128)?, count("queued", 1_000_000)?);
    let dirty_percent = match r.number(t, "dirty") {
        Some(n) if (0.0..=1.0).contains(&n.value) => (n.value * 100.0).round() as u32,
        Some(n) => {
            r.error(n.span, "`dirty` is out of range", "expected a share, 0 to 1", None);
            return None;
        }
        None if t.table.contains_key("dirty") => return None,
        None => 0,
    };
    Some(Action::Pressure(Pressure { tickets, queued, dirty_percent, conflicts: 0 }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Scenario;
    use super::*;

    const HEAD: &str = "schema = 1\n[brief]\ntitle = \"t\"\ntext = \"x\"\n[world]\nplan = \"plan.toml\"\n";

    fn injects(text: &str) -> Vec<Inject> {
        Scenario::parse(&format!("{HEAD}{text}"), "s.toml").unwrap_or_else(|e| panic!("{e}")).world.injects
    }

    /// Line (from the first after the head), column and message of every mistake.
    fn mistakes(text: &str) -> Vec<(usize, usize, String)> {
        let e = Scenario::parse(&format!("{HEAD}{text}"), "s.toml").unwrap_err();
        e.list().iter().map(|d| (d.line - HEAD.lines().count(), d.column, d.message.clone())).collect()
    }

    /// One inject from `key = value` pairs.
    fn one(body: &str) -> Vec<(usize, usize, String)> {
        mistakes(&format!("[[inject]]\n{body}"))
    }

    #[test]
    fn every_action_and_every_start_is_read() {
        let all = injects(
            "[[inject]]\nid = \"a\"\nat = \"2m\"\nfor = \"1m\"\nramp = \"30s\"\naction = \"latency\"\ntarget = \"next\"\n\
             factor = 4.5\n\
             [[inject]]\nid = \"b\"\nafter = \"a\"\ndelay = \"10s\"\naction = \"stepdown\"\n\
             [[inject]]\nid = \"c\"\nwhen = { stage = \"full\", phase = \"soaking\", delay = \"5s\" }\naction = \"oplog_loss\"\n\
             [[inject]]\nid = \"d\"\nwhen = { metric = \"latency.read.p99\", side = \"next\", above = \"50ms\" }\n\
             action = \"replication_lag\"\nlag = \"9s\"\n\
             [[inject]]\nid = \"e\"\nat = \"0s\"\naction = \"errors\"\nwrites = 0.02\nunknown = 0.001\n\
             [[inject]]\nid = \"f\"\nat = \"1s\"\nfor = \"5s\"\naction = \"partition\"\ntarget = \"secondary\"\n\
             [[inject]]\nid = \"g\"\nat = \"1s\"\naction = \"latency\"\ntarget = \"cluster\"\npercent = 50\n\
             [[inject]]\nid = \"h\"\nat = \"1s\"\naction = \"pressure\"\ntickets = 120\ndirty = 0.18\n",
        );
        let (s, next) = (Micros::from_secs, Target::Side(Side::Next));
        let latency = Inject {
            id: "a".into(),
            start: Start::At(s(120)),
            lasts: Some(s(60)),
            ramp: s(30),
            action: Action::Latency { target: next, percent: 450 },
        };
        assert_eq!(all[0], latency);
        assert_eq!(all[1].start, Start::After { inject: 0, delay: s(10) });
        let soaking = Condition { stage: Some("full".into()), phase: Some(Phase::Soaking), measure: None };
        assert_eq!(all[2].start, Start::When { condition: soaking, delay: s(5) });
        let slow = Measure { metric: "latency.read.p99", side: Some(Side::Next), above: true, limit: 50_000.0 };
        let slow = Condition { measure: Some(slow), ..Condition::default() };
        assert_eq!(all[3].start, Start::When { condition: slow, delay: Micros::ZERO });
        let actions: Vec<&Action> = all[1..].iter().map(|i| &i.action).collect();
        assert_eq!(
            actions,
            [
                &Action::StepDown,
                &Action::OplogLoss,
                &Action::ReplicationLag { all: true, lag: s(9) },
                &Action::Errors { target: Target::Cluster, reads: 0, writes: 20_000, unknown: 1_000 },
                &Action::Partition { member: Member::Secondary },
                &Action::Latency { target: Target::Cluster, percent: 50 },
                &Action::Pressure(Pressure { tickets: 120, dirty_percent: 18, ..Pressure::default() }),
            ]
        );
    }

    #[test]
    fn mistakes_have_places() {
        let of = |body: &str| {
            let found = one(body);
            assert_eq!(found.len(), 1, "{body}: {found:?}");
            let (line, column, message) = found.into_iter().next().unwrap();
            (line, column, message)
        };
        for (body, line, column, message) in [
            ("id = \"a\"\nat = \"1s\"\naction = \"latancy\"", 4, 10, "unknown action `latancy`"),
            ("id = \"a\"\nat = \"1s\"\naction = \"stepdown\"\nramp = \"1s\"", 5, 1, "unknown key `ramp` in [[inject]]"),
            (
                "id = \"a\"\nat = \"1s\"\nvisible = 1\naction = \"stepdown\"",
                4,
                1,
                "unknown key `visible` in [[inject]]",
            ),
            ("id = \"a\"\naction = \"stepdown\"", 1, 1, "nothing says when"),
            ("id = \"a\"\nat = \"1s\"\nafter = \"b\"\naction = \"stepdown\"", 1, 1, "begins more than once"),
            ("id = \"a\"\nafter = \"a\"\naction = \"stepdown\"", 3, 9, "no inject above this one is named `a`"),
            ("id = \"a\"\nat = \"soon\"\naction = \"stepdown\"", 3, 6, "`soon` is not a duration"),
            ("id = \"a\"\nat = \"1s\"\ndelay = \"1s\"\naction = \"stepdown\"", 4, 9, "`delay` belongs to `after`"),
            ("id = \"A b\"\nat = \"1s\"\naction = \"stepdown\"", 2, 6, "this is not an id"),
            ("id = \"a\"\nwhen = {}\naction = \"stepdown\"", 3, 8, "this condition says nothing"),
            (
                "id = \"a\"\nwhen = { stag = \"x\", phase = \"soaking\" }\naction = \"stepdown\"",
                3,
                10,
                "unknown key `stag`",
            ),
            ("id = \"a\"\nwhen = { phase = \"soking\" }\naction = \"stepdown\"", 3, 18, "unknown phase `soking`"),
            (
                "id = \"a\"\nwhen = { metric = \"latency.read.p98\", above = \"1s\" }\naction = \"stepdown\"",
                3,
                19,
                "no condition can be on `latency.read.p98`",
            ),
            (
                "id = \"a\"\nwhen = { metric = \"lag.apply\", above = 5 }\naction = \"stepdown\"",
                3,
                40,
                "`above` has the wrong type",
            ),
            ("id = \"a\"\nwhen = { metric = \"lag.apply\" }\naction = \"stepdown\"", 3, 19, "no single limit"),
            ("id = \"a\"\nat = \"1s\"\naction = \"latency\"\nfactor = 2", 1, 1, "`target` is missing"),
            ("id = \"a\"\nat = \"1s\"\naction = \"latency\"\ntarget = \"next\"", 1, 1, "how slow"),
            ("id = \"a\"\nat = \"1s\"\naction = \"errors\"\nwrites = 2", 5, 10, "`writes` is out of range"),
            ("id = \"a\"\nat = \"1s\"\naction = \"pressure\"", 1, 1, "nothing says what presses"),
            ("id = \"a\"\nat = \"1s\"\naction = \"pressure\"\ndirty = 18", 5, 9, "`dirty` is out of range"),
            (
                "id = \"a\"\nat = \"1s\"\naction = \"errors\"\nwrites = 0.1\nfor = \"1s\"\nramp = \"2s\"",
                7,
                8,
                "`ramp` is longer than `for`",
            ),
        ] {
            let (l, c, m) = of(body);
            assert_eq!((l, c), (line, column), "{body}: {m}");
            assert!(m.contains(message), "{body}: {m}");
        }
    }

    #[test]
    fn a_single_member_has_no_one_to_step_down_for() {
        let text = format!("{HEAD}nodes = 1\n[[inject]]\nid = \"a\"\nat = \"1s\"\naction = \"stepdown\"\n");
        let e = Scenario::parse(&text, "s.toml").unwrap_err();
        assert!(e.list()[0].message.contains("more than one member"), "{e}");
    }
}

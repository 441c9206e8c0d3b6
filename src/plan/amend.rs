//! What a plan may become while its rollout runs: gates, triggers, throttle, soak, change windows, freezes, and what both sides are asked:
//! none of it changes a document. Everything else is what was agreed to.
//!
//! Hooks above all: they are programs that run on the runner's machine and addresses that its secrets are sent to, and an amendment
//! comes through the database. A journal replayed with other hooks would also call them for what is long past.

use std::fmt::{Debug, Display};

use super::{
    Action, Bound, Calendar, Collection, Declared, Freeze, Gate, Hook, Plan, RollbackMode, Stage, Switch, Throttle,
    Trigger, Window,
};
use crate::runtime::Micros;

/// How `new` amends `old`, in sentences, when the first `passed` stages are over.
///
/// # Errors
/// What differs and may not.
pub fn amendment(old: &Plan, new: &Plan, passed: usize) -> Result<Vec<String>, Vec<String>> {
    let refused = refused(old, new, passed);
    if refused.is_empty() { Ok(changes(old, new)) } else { Err(refused) }
}

/// The plan without what may change. The version is a label: an author counts it up.
fn kept(plan: &Plan) -> Plan {
    let stage = |s: &Stage| Stage { soak: Micros::ZERO, gates: Vec::new(), triggers: Vec::new(), ..s.clone() };
    Plan {
        hash: String::new(),
        version: 0,
        throttle: Throttle::default(),
        triggers: Vec::new(),
        stages: plan.stages.iter().map(stage).collect(),
        calendar: Calendar::default(),
        switch: plan.switch.as_ref().map(kept_switch),
        collections: plan.collections.iter().map(|c| Collection { types: Vec::new(), ..c.clone() }).collect(),
        declared: Declared::default(),
        ..plan.clone()
    }
}

/// How long a call may take may change. Never what is called: whoever may write the control database does not choose that.
fn kept_switch(s: &Switch) -> Switch {
    let kept = |h: &Hook| Hook { timeout: Micros::ZERO, ..h.clone() };
    Switch { switch: s.switch.as_ref().map(kept), confirm: kept(&s.confirm), flag_file: s.flag_file.clone() }
}

fn refused(old: &Plan, new: &Plan, passed: usize) -> Vec<String> {
    let mut out = Vec::new();
    let (a, b) = (kept(old), kept(new));
    let mut named = |what: &str, same: bool| {
        if !same {
            out.push(what.to_owned());
        }
    };
    named("its id", a.id == b.id);
    named("its title", a.title == b.title);
    named("its owner", a.owner == b.owner);
    named("[cluster]", a.cluster == b.cluster);
    named("route.max_staleness", a.max_staleness == b.max_staleness);
    named("route.lease", a.lease == b.lease);
    named("route.mode", a.mode == b.mode);
    named(
        "[hooks]: what the runner's machine calls is not changed while it runs, but for `timeout`",
        a.switch == b.switch,
    );
    named("route.server_gate", a.server_gate == b.server_gate);
    named("cutover.freeze_max", a.freeze_max == b.freeze_max);
    named("[rollback]", a.strand == b.strand && a.baseline_ratio == b.baseline_ratio);
    named("[slo]", a.slo == b.slo);
    named("[expects]", a.expects == b.expects);
    named("[pilot]", a.pilot == b.pilot);
    named("[privacy]", a.masked == b.masked);
    // A task more or less would be another rollout.
    named("whether both sides are asked anything at all", old.asks() == new.asks());
    named("[[hook]]: what the runner's machine calls is not changed while it runs", a.hooks == b.hooks);
    named("the collection: its sides, steps, indexes or shape", a.collections == b.collections);
    let ids = |p: &Plan| p.stages.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    if ids(&a) == ids(&b) {
        for (one, other) in a.stages.iter().zip(&b.stages) {
            named(&format!("what stage {} does", one.id), one == other);
        }
    } else {
        named("the stages", false);
    }
    // Whatever has no name here may not change either.
    if out.is_empty() && a != b {
        out.push("something beside gates, triggers, throttle, soak, windows, freezes and questions".into());
    }
    let over = old.stages.iter().zip(&new.stages).take(passed);
    out.extend(over.filter(|(one, other)| one != other).map(|(s, _)| format!("stage {}, which has passed", s.id)));
    out
}

/// What both sides are asked, by name.
fn asked(out: &mut Vec<String>, old: &Plan, new: &Plan) {
    let types = |p: &Plan| p.collections.iter().flat_map(|c| c.types.clone()).collect::<Vec<_>>();
    let (a, b) = (&old.declared, &new.declared);
    lists(out, "type", &types(old), &types(new), |(path, of)| format!("{path} {}", of.join(" or ")));
    lists(out, "query", &a.queries, &b.queries, |q| q.name.clone());
    lists(out, "total", &a.totals, &b.totals, |t| t.name.clone());
    lists(out, "reference", &a.references, &b.references, |r| r.name.clone());
}

fn changes(old: &Plan, new: &Plan) -> Vec<String> {
    let mut out = Vec::new();
    differ(&mut out, "version", &old.version, &new.version);
    throttle(&mut out, &old.throttle, &new.throttle);
    lists(&mut out, "plan-wide trigger", &old.triggers, &new.triggers, trigger);
    lists(&mut out, "change window", &old.calendar.windows, &new.calendar.windows, Window::to_string);
    lists(&mut out, "change freeze", &old.calendar.freezes, &new.calendar.freezes, Freeze::to_string);
    asked(&mut out, old, new);
    let called = |p: &Plan| p.switch.iter().flat_map(Switch::hooks).cloned().collect::<Vec<_>>();
    for (one, other) in called(old).iter().zip(&called(new)) {
        if one.timeout != other.timeout {
            out.push(format!("[hooks] {}: timeout {} -> {}", one.id, one.timeout, other.timeout));
        }
    }
    for (one, other) in old.stages.iter().zip(&new.stages) {
        if one.soak != other.soak {
            out.push(format!("stage {}: soak {} -> {}", one.id, one.soak, other.soak));
        }
        lists(&mut out, &format!("stage {}: gate", one.id), &one.gates, &other.gates, gate);
        lists(&mut out, &format!("stage {}: trigger", one.id), &one.triggers, &other.triggers, trigger);
    }
    out
}

fn differ<T: Debug + PartialEq>(out: &mut Vec<String>, what: &str, old: &T, new: &T) {
    if old != new {
        out.push(format!("{what} {old:?} -> {new:?}"));
    }
}

fn throttle(out: &mut Vec<String>, old: &Throttle, new: &Throttle) {
    fn words<T: Display>(limit: Option<T>) -> String {
        limit.map_or_else(|| "none".to_owned(), |l| l.to_string())
    }
    // Without `..`, so that one that is added does not go untold.
    let limits = |t: &Throttle| {
        let Throttle {
            max_lag,
            max_docs_per_second,
            min_tickets,
            max_queue,
            max_dirty_ratio,
            max_latency_ratio,
            min_oplog_window,
        } = t;
        [
            ("max_lag", words(*max_lag)),
            ("max_docs_per_second", words(*max_docs_per_second)),
            ("min_tickets", words(*min_tickets)),
            ("max_queue", words(*max_queue)),
            ("max_dirty_ratio", words(*max_dirty_ratio)),
            ("max_latency_ratio", words(*max_latency_ratio)),
            ("min_oplog_window", words(*min_oplog_window)),
        ]
    };
    for ((name, before), (_, after)) in limits(old).into_iter().zip(limits(new)) {
        if before != after {
            out.push(format!("throttle.{name} {before} -> {after}"));
        }
    }
}

/// What is in one list and not in the other.
fn lists<T: PartialEq>(out: &mut Vec<String>, what: &str, old: &[T], new: &[T], words: fn(&T) -> String) {
    out.extend(old.iter().filter(|x| !new.contains(x)).map(|x| format!("{what} removed: {}", words(x))));
    out.extend(new.iter().filter(|x| !old.contains(x)).map(|x| format!("{what} added: {}", words(x))));
}

/// A limit in the unit of its metric.
fn value(metric: &str, v: f64) -> String {
    let is_time = metric.starts_with("latency.") || metric.starts_with("lag.");
    let is_time = is_time || matches!(metric, "freeze.duration" | "reads.stale_age" | "oplog.window");
    if is_time && v >= 0.0 { Micros(v as u64).to_string() } else { v.to_string() }
}

fn on(metric: &str, side: Option<crate::route::Side>) -> String {
    side.map_or_else(|| metric.to_owned(), |s| format!("{metric} of {}", s.name()))
}

fn gate(g: &Gate) -> String {
    let bound = match g.bound {
        Bound::Max(v) => format!("at most {}", value(&g.metric, v)),
        Bound::Min(v) => format!("at least {}", value(&g.metric, v)),
        Bound::MaxRatioToLegacy(r) => format!("at most {r} times legacy's"),
        Bound::MaxRatioToBaseline(r) => format!("at most {r} times the baseline"),
        Bound::LikeLegacy { false_alarm, max_ratio } => {
            format!("like legacy's (false alarm {false_alarm}, ratio {max_ratio})")
        }
    };
    let long = g.long_window.map_or_else(String::new, |w| format!(" and {w}"));
    format!("{} {bound} over {}{long} for {}, {} samples", on(&g.metric, g.side), g.window, g.hold_for, g.min_samples)
}

fn trigger(t: &Trigger) -> String {
    let action = match t.action {
        Action::Pause => "pause",
        Action::Rollback(RollbackMode::Soft) => "rollback, soft",
        Action::Rollback(RollbackMode::Hard) => "rollback, hard",
    };
    let long = t.long_window.map_or_else(String::new, |w| format!(" and {w}"));
    format!(
        "{} above {} over {}{long} for {}, {} samples, clear below {} for {}: {action}",
        on(&t.metric, t.side),
        value(&t.metric, t.above),
        t.window,
        t.hold_for,
        t.min_samples,
        value(&t.metric, t.clear.below),
        t.clear.hold_for,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
schema = 1
plan = { id = "p", title = "P", version = 1 }
cluster = { environment = "drill" }
route = { mode = "route" }
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "v", value = 2 }]
[throttle]
max_rate = 100
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "10s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10m"
[[stage.gate]]
metric = "lag.apply"
max = "3s"
window = "5s"
for = "1s"
"#;

    fn plan(changes: &[(&str, &str)]) -> Plan {
        let text = changes.iter().fold(PLAN.to_owned(), |t, (from, to)| {
            assert!(t.contains(from), "{from}");
            t.replace(from, to)
        });
        Plan::parse(&text, "p.toml").unwrap_or_else(|e| panic!("{}", e.render(false)))
    }

    #[test]
    fn gates_triggers_throttle_and_soak_may_change_and_are_told_in_words() {
        let old = plan(&[]);
        let new = plan(&[
            ("version = 1", "version = 2"),
            ("max_rate = 100", "max_rate = 200"),
            ("soak = \"10m\"", "soak = \"5m\""),
            ("max = \"3s\"", "max = \"4s\""),
        ]);
        let told = amendment(&old, &new, 1).unwrap();
        assert_eq!(
            told[..3],
            ["version 1 -> 2", "throttle.max_docs_per_second 100 -> 200", "stage half: soak 10m00s -> 5m00s"]
        );
        assert!(told[3].starts_with("stage half: gate removed: lag.apply at most 3.0s over 5.0s for 1.0s"), "{told:?}");
        assert!(told[4].starts_with("stage half: gate added: lag.apply at most 4.0s"), "{told:?}");
        assert_eq!(amendment(&old, &old, 1), Ok(Vec::new()));
    }

    const WINDOW: &str = "\n[[window]]\ndays = [\"mon\"]\nfrom = \"09:00\"\nto = \"17:00\"\ntz = \"Europe/Berlin\"\n";
    const FREEZE: &str =
        "\n[[freeze]]\nfrom = \"2026-12-18\"\nto = \"2026-12-31\"\ntz = \"UTC\"\nreason = \"closing\"\n";
    const HOOK: &str = "\n[[hook]]\nid = \"page\"\non = [\"pause\"]\ncommand = [\"./page.sh\"]\n";

    /// The plan with more at its end.
    fn longer(more: &str) -> Plan {
        Plan::parse(&format!("{PLAN}{more}"), "p.toml").unwrap_or_else(|e| panic!("{}", e.render(false)))
    }

    #[test]
    fn windows_and_freezes_may_come_and_go_whatever_has_passed() {
        let told = amendment(&longer(WINDOW), &longer(FREEZE), 2).unwrap();
        let [window, freeze] = [
            "change window removed: mon from 09:00 to 17:00, Europe/Berlin",
            "change freeze added: from 2026-12-18 00:00 until 2027-01-01 00:00, UTC: closing",
        ];
        assert_eq!(told, [window, freeze]);
    }

    #[test]
    fn a_question_may_be_mended_but_neither_begin_nor_end() {
        let asks = |next: &str| format!("[[query]]\nname = \"q\"\nlegacy = '{{}}'\nnext = '{next}'");
        let told = amendment(&longer(&asks("{}")), &longer(&asks("{ \"a\": 1 }")), 2).unwrap();
        assert_eq!(told, ["query removed: q", "query added: q"]);
        for (old, new) in [(String::new(), asks("{}")), (asks("{}"), String::new())] {
            let refused = amendment(&longer(&old), &longer(&new), 0).unwrap_err();
            assert_eq!(refused, ["whether both sides are asked anything at all"]);
        }
    }

    #[test]
    fn hooks_neither_come_nor_go_nor_call_anything_else() {
        let other = HOOK.replace("./page.sh", "./mine.sh");
        for (old, new) in [("", HOOK), (HOOK, ""), (HOOK, &other)] {
            let refused = amendment(&longer(old), &longer(new), 0).unwrap_err();
            assert_eq!(refused, ["[[hook]]: what the runner's machine calls is not changed while it runs"]);
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let old = plan(&[]);
        for (from, to, named) in [
            ("set = \"v\", value = 2", "set = \"v\", value = 3", "the collection: its sides, steps, indexes or shape"),
            ("orders_v2", "orders_v3", "the collection: its sides, steps, indexes or shape"),
            ("writes = 50", "writes = 40", "what stage half does"),
            ("id = \"half\"", "id = \"most\"", "the stages"),
            ("mode = \"route\"", "mode = \"route\", max_staleness = \"9s\"", "route.max_staleness"),
            ("soak = \"10s\"", "soak = \"1s\"", "stage copy, which has passed"),
        ] {
            assert_eq!(amendment(&old, &plan(&[(from, to)]), 1), Err(vec![named.to_owned()]));
        }
    }

    #[test]
    fn of_a_switch_only_its_time_outs_may_change() {
        let told = |confirm: &'static str| {
            plan(&[
                ("route = { mode = \"route\" }", "route = { mode = \"copy\" }"),
                ("reads = 50\nwrites = 50", "reads = 100\nwrites = 100"),
                ("[throttle]", &format!("[hooks]\nswitch = {{ command = [\"./switch.sh\"] }}\n{confirm}\n[throttle]")),
            ])
        };
        let old = told("confirm = { url = \"https://a.example/${T}\" }");
        let slower = told("confirm = { url = \"https://a.example/${T}\", timeout = \"20s\" }");
        let changes = vec!["[hooks] confirm: timeout 10.0s -> 20.0s".to_owned()];
        assert_eq!(amendment(&old, &slower, 1), Ok(changes));
        let why = "[hooks]: what the runner's machine calls is not changed while it runs, but for `timeout`";
        for other in ["confirm = { command = [\"./confirm.sh\"] }", "confirm = { url = \"https://b.example/${T}\" }"] {
            assert_eq!(amendment(&old, &told(other), 1), Err(vec![why.to_owned()]));
        }
    }
}

//! `tidegate check`: the plan by itself (`--offline`), or held against its clusters.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{DONE, Json, Outcome, USAGE, out, read_file};
use crate::engine::preflight;
use crate::plan::{Advance, Collection, Diagnostics, Mode, Plan, Switch};
use crate::route::Side;
use crate::runtime::Micros;
use crate::transform::{Class, Transform};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Look at the file only, at no cluster
    #[arg(long)]
    offline: bool,
    /// Documents of legacy that are drawn and carried there and back
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample: u32,
    /// Print the role that a user needs for this plan, as commands for mongosh; looks at no cluster
    #[arg(long, conflicts_with = "offline")]
    role: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &CheckArgs) -> Outcome {
    let text = read_file(&args.plan)?;
    let plan = match Plan::parse(&text, &args.plan.display().to_string()) {
        Ok(plan) => plan,
        Err(d) => {
            if args.json.json {
                out::json(&mistakes(&d));
            } else {
                out::say(&d.render(out::colour_on_stderr()));
            }
            return Ok(USAGE);
        }
    };
    match (args.role, args.offline) {
        (true, _) => roles(&plan, args.json.json),
        (false, true) if args.json.json => out::json(&as_json(&plan)),
        (false, true) => table(&plan),
        (false, false) => return online(plan, args),
    }
    Ok(DONE)
}

#[cfg(feature = "mongo")]
fn online(plan: Plan, args: &CheckArgs) -> Outcome {
    super::preflight::run(plan, args.sample, args.json.json)
}

#[cfg(not(feature = "mongo"))]
fn online(_: Plan, args: &CheckArgs) -> Outcome {
    let _ = args.sample;
    Err(super::Failure::usage("this build has no driver and looks at no cluster: use `check PLAN --offline`"))
}

/// The role for each cluster.
fn roles(plan: &Plan, json: bool) {
    let sides: &[Side] = if plan.cluster.next_uri.is_some() { &Side::BOTH } else { &[Side::Legacy] };
    for &side in sides {
        let role = bson::Bson::Document(preflight::role(plan, side)).into_relaxed_extjson();
        if json {
            out::json(&json!({ "kind": "role", "cluster": side.name(), "db": "admin", "command": role }));
        } else {
            out::line(&format!("// on {}'s cluster", side.name()));
            out::line(&format!("db.getSiblingDB(\"admin\").runCommand({})", preflight::pretty_role(&role)));
        }
    }
}

fn advance(a: Advance) -> &'static str {
    match a {
        Advance::Auto => "auto",
        Advance::Operator => "operator",
    }
}

fn as_json(plan: &Plan) -> Value {
    let stages: Vec<Value> = plan
        .stages
        .iter()
        .map(|s| {
            let reached: Vec<&str> = s.reached.iter().map(|r| r.name()).collect();
            json!({
                "id": s.id, "reached": reached, "shadow": s.shadow, "reads": s.reads, "writes": s.writes,
                "soak_seconds": s.soak.as_secs_f64(), "advance": advance(s.advance), "gates": s.gates.len(),
                "irreversible": s.irreversible,
            })
        })
        .collect();
    let hooks: Vec<Value> = plan
        .called()
        .map(|h| {
            let on: Vec<&str> = h.on.iter().map(|o| o.name()).collect();
            json!({ "id": h.id, "calls": h.call.text(), "on": on, "required": h.required })
        })
        .collect();
    let collections: Vec<Value> = plan
        .collections
        .iter()
        .map(|c| {
            json!({
                "legacy": c.legacy.to_string(), "next": c.next.to_string(), "steps": c.steps.len(),
                "class": Transform::new(&c.steps).class().to_string(), "transform": classes(c),
            })
        })
        .collect();
    json!({
        "kind": "check", "ok": true,
        "plan": { "id": plan.id, "title": plan.title, "version": plan.version, "hash": plan.hash, "mode": plan.mode.name() },
        "collections": collections, "triggers": plan.triggers.len(), "stages": stages, "hooks": hooks,
    })
}

/// Each step with how well it comes back.
fn classes(c: &Collection) -> Vec<Value> {
    let step = |(i, s): (usize, &crate::plan::Step)| json!({ "step": i + 1, "does": s.to_string(), "class": s.class().to_string(), "reason": s.reason() });
    c.steps.iter().enumerate().map(step).collect()
}

fn steps(c: &Collection) {
    for (i, s) in c.steps.iter().enumerate() {
        let store = if s.class() == Class::Lossy { "; its originals are kept in tidegate.undo" } else { "" };
        let line = format!("step {} {s}: {}: {}{store}", i + 1, s.class(), s.reason());
        out::line(&crate::scrub::short(&line, 300));
    }
}

fn mistakes(d: &Diagnostics) -> Value {
    let list: Vec<Value> = d
        .list()
        .iter()
        .map(|m| {
            json!({
                "line": m.line, "column": m.column, "message": m.message, "expected": m.expected, "help": m.help,
            })
        })
        .collect();
    json!({ "kind": "check", "ok": false, "file": d.name(), "mistakes": list })
}

fn table(plan: &Plan) {
    out::line(&format!("{} version {}: {}", plan.id, plan.version, plan.title));
    for c in &plan.collections {
        out::line(&format!("{} -> {}, {} steps", c.legacy, c.next, c.steps.len()));
        steps(c);
    }
    out::line("");
    match plan.mode {
        Mode::Observe => out::line("observe mode: another tool migrates, nothing is written"),
        Mode::Copy => out::line("copy mode: a switch of your own moves everything at once, and holds writes meanwhile"),
        Mode::Flags => out::line("flags mode: reads go by a flag file, writes all at once"),
        Mode::Route => {}
    }
    out::line("stage             reads  writes  shadow  soak     gates  advance");
    for s in &plan.stages {
        let soak = if s.soak == Micros::ZERO { "-".to_owned() } else { s.soak.to_string() };
        let reached: Vec<&str> = s.reached.iter().map(|r| r.name()).collect();
        let last = match (s.irreversible, reached.is_empty()) {
            (true, _) => "  NO WAY BACK".to_owned(),
            (false, false) => format!("  once reached: {}", reached.join(", ")),
            (false, true) => String::new(),
        };
        out::line(&format!(
            "{:<16} {:>5}% {:>6}% {:>6}%  {:<8} {:>5}  {}{last}",
            s.id,
            s.reads,
            s.writes,
            s.shadow,
            soak,
            s.gates.len(),
            advance(s.advance),
        ));
    }
    if plan.called().next().is_some() || !plan.calendar.is_empty() {
        out::line("");
    }
    plan.calendar.windows.iter().for_each(|w| out::line(&format!("changes are made {w}")));
    plan.calendar.freezes.iter().for_each(|f| out::line(&format!("no change is made {f}")));
    for h in plan.switch.iter().flat_map(Switch::hooks) {
        out::line(&format!("{} calls `{}` at every turn of the traffic", h.id, h.call.text()));
    }
    if let Some(path) = plan.switch.as_ref().and_then(|s| s.flag_file.as_ref()) {
        out::line(&format!("applications read {}", crate::scrub::line(path)));
    }
    for h in &plan.hooks {
        let on: Vec<&str> = h.on.iter().map(|o| o.name()).collect();
        let required = if h.required { "; a stage waits for it" } else { "" };
        out::line(&format!("hook {} calls `{}` for {}{required}", h.id, h.call.text(), on.join(", ")));
    }
    out::line("");
    out::line(&format!("no mistakes; plan hash {}", plan.hash));
}

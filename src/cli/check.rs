//! `tidegate check --offline`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{DONE, Json, Outcome, USAGE, out, read_file};
use crate::plan::{Advance, Collection, Diagnostics, Plan};
use crate::runtime::Micros;
use crate::transform::{Class, Transform};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Look at the file only, at no cluster (required: there is no other check yet)
    #[arg(long, required = true)]
    offline: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &CheckArgs) -> Outcome {
    let text = read_file(&args.plan)?;
    match Plan::parse(&text, &args.plan.display().to_string()) {
        Ok(plan) if args.json.json => out::json(&as_json(&plan)),
        Ok(plan) => table(&plan),
        Err(d) => {
            if args.json.json {
                out::json(&mistakes(&d));
            } else {
                out::say(&d.render(out::colour_on_stderr()));
            }
            return Ok(USAGE);
        }
    }
    Ok(DONE)
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
            json!({
                "id": s.id, "shadow": s.shadow, "reads": s.reads, "writes": s.writes,
                "soak_seconds": s.soak.as_secs_f64(), "advance": advance(s.advance), "gates": s.gates.len(),
                "irreversible": s.irreversible,
            })
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
        "plan": { "id": plan.id, "title": plan.title, "version": plan.version, "hash": plan.hash },
        "collections": collections, "triggers": plan.triggers.len(), "stages": stages,
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
    out::line("stage             reads  writes  shadow  soak     gates  advance");
    for s in &plan.stages {
        let soak = if s.soak == Micros::ZERO { "-".to_owned() } else { s.soak.to_string() };
        let last = if s.irreversible { "  NO WAY BACK" } else { "" };
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
    out::line("");
    out::line(&format!("no mistakes; plan hash {}", plan.hash));
}

//! `tidegate amend`: other gates, triggers, throttle, soak, windows, freezes and questions for a rollout that is under way.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::live::{World, holder};
use super::onlooker::{Fate, Onlooker};
use super::{DONE, FAILED, Failure, Json, NEEDS_OPERATOR, Outcome, out, read_file, read_moving_plan};
use crate::engine::watch::Wish;
use crate::runtime::Micros;
use crate::snapshot::Reply;

/// A task that is under way comes to its safe point first.
const WITHIN: Micros = Micros::from_secs(120);

#[derive(Args, Debug)]
pub(super) struct AmendArgs {
    /// The plan as it is to be from now on
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Why; kept in the journal
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// Who amends it, for the journal [default: user@host:pid]
    #[arg(id = "as", long = "as", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &AmendArgs) -> Outcome {
    let plan = read_moving_plan(&args.plan, "amend")?;
    let text = read_file(&args.plan)?;
    let (id, hash) = (plan.id.clone(), plan.hash.clone());
    let world = World::connect_records(plan)?;
    let onlooker = Onlooker::start(&world, holder(args.name.as_deref())).map_err(Failure::new)?;
    let running = onlooker.seen().filter(|s| s.absent().is_none()).and_then(|s| s.view);
    let Some(view) = running.filter(|v| v.ended.is_none()) else {
        let why = onlooker.absent().unwrap_or_else(|| "its rollout is over".into());
        let how = "only the runner of a rollout can amend it: `tidegate resume` with the plan it runs with, then amend";
        return Err(Failure::new(format!("plan `{id}` is not amended: {why}; {how}")));
    };
    onlooker.ask(1, Wish::Amend { plan: text, reason: args.reason.clone() }, &view.snapshot);
    let fate = onlooker.fate(&world, WITHIN);
    let (state, why, code) = match fate {
        Some(Fate::Reply(Reply::Applied)) => ("applied", None, DONE),
        Some(Fate::Reply(Reply::Accepted)) => {
            ("accepted", Some("it takes effect at the next safe point".to_owned()), DONE)
        }
        Some(Fate::Reply(Reply::Refused(why))) => ("refused", Some(why), FAILED),
        Some(Fate::Unknown(why)) => ("unknown", Some(why), NEEDS_OPERATOR),
        None => ("unknown", Some("no answer; it may still take effect".to_owned()), NEEDS_OPERATOR),
    };
    let changes = if code == DONE { changes(&world, &hash) } else { Vec::new() };
    if args.json.json {
        out::json(&json!({ "kind": "amend", "state": state, "why": why, "plan_hash": hash, "changes": changes }));
    } else {
        let why = why.map_or_else(String::new, |w| format!(": {w}"));
        out::line(&format!("{id}: amendment {state}{why}"));
        changes.iter().for_each(|c| out::line(&format!("  {c}")));
    }
    world.shut_down();
    Ok(code)
}

/// What the journal says has changed.
fn changes(world: &World, hash: &str) -> Vec<String> {
    let records = world.block_on(world.looking().journal.load()).unwrap_or_default();
    let amended = records.iter().rev().find(|r| r.kind == "amended" && r.body.get("is").is_some_and(|h| h == hash));
    let list = amended.and_then(|r| r.body.get("changes")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(|c| crate::scrub::short(c, 300)).collect()
}

//! `tidegate status`: how a rollout stands, from the database alone.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::live::World;
use super::{DONE, Failure, Json, Outcome, out, read_moving_plan, summary, watch};
use crate::engine::watch::time;
use crate::engine::{self, StatusReport};
use crate::plan::Plan;
use crate::route::BUCKETS;
use crate::runtime::Micros;
use crate::snapshot::Verdict;

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// The last records of the journal to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    records: usize,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &StatusArgs) -> Outcome {
    let world = World::connect_records(read_moving_plan(&args.plan, "status")?)?;
    let report = world.block_on(engine::status(&world.looking())).map_err(Failure::new)?;
    if args.json.json {
        out::json(&machine(&report, &world.plan, args.records));
    } else {
        for line in person(&report, &world.plan, args.records) {
            out::line(&line);
        }
    }
    world.shut_down();
    Ok(DONE)
}

fn percent(below: u16) -> f64 {
    f64::from(below) * 100.0 / f64::from(BUCKETS)
}

/// Phase and reason: what the runner says while one runs, what the journal says otherwise.
fn doing(r: &StatusReport) -> (String, String) {
    match r.live() {
        Some(s) => (watch::phase(s), s.why.clone()),
        // From the journal, which whoever writes the control database can write.
        None => (r.doing.phase.clone(), crate::scrub::short(&r.doing.why, 500)),
    }
}

fn stage<'p>(r: &StatusReport, plan: &'p Plan) -> Option<&'p str> {
    let entered = !r.state.stage_times.is_empty();
    plan.stages.get(r.state.stage).filter(|_| entered).map(|s| s.id.as_str())
}

/// The plan it was begun with, or amended to, where that is not the one given.
fn other_plan<'r>(r: &'r StatusReport, plan: &Plan) -> Option<&'r str> {
    Some(r.state.plan_hash.as_str()).filter(|h| r.begun && *h != plan.hash)
}

fn machine(r: &StatusReport, plan: &Plan, records: usize) -> Value {
    let (phase, why) = doing(r);
    let live = r.live();
    let lease = r.seen.lease.as_ref().map(|l| {
        json!({
            "holder": l.holder, "epoch": l.epoch, "since": time(l.since_ms),
            "until": (l.expires_ms > 0).then(|| time(l.expires_ms)), "held": r.seen.holder().is_some(),
        })
    });
    let back = &r.way_back;
    let from = r.records.len().saturating_sub(records);
    json!({
        "kind": "status",
        "plan": plan.id,
        "plan_hash": plan.hash,
        "runs_with": r.begun.then_some(&r.state.plan_hash),
        "begun": r.begun,
        "finished": r.state.closed,
        "lease": lease,
        "absent": r.seen.absent(),
        "picture_age_ms": r.seen.age_ms(),
        "phase": phase.replace(' ', "_"),
        "why": why,
        "stage": stage(r, plan),
        "route_epoch": r.route.as_ref().map(|x| x.epoch),
        "reads_percent": r.route.as_ref().map(|x| percent(x.reads_next_below)),
        "writes_percent": r.route.as_ref().map(|x| percent(x.writes_next_below)),
        "shadow_percent": r.route.as_ref().map(|x| x.shadow),
        // Without a runner nobody measures.
        "gates": live.map(|s| json!(s.gates)),
        "way_back": {
            "open": back.is_ok(), "why": back.as_ref().err(), "until_stage": until(plan),
            "writes_at_risk": live.and_then(|s| s.way_back.writes_at_risk),
            "text": live.map(|s| s.way_back.text.clone()),
        },
        "strays": r.state.strays_open(),
        "conflicts": r.state.conflicts_open(),
        "records": r.records[from..].iter().map(|x| serde_json::from_str(&x.line()).unwrap_or(Value::Null)).collect::<Vec<_>>(),
    })
}

fn until(plan: &Plan) -> Option<&str> {
    plan.stages.iter().find(|s| s.irreversible).map(|s| s.id.as_str())
}

fn lease_words(r: &StatusReport) -> String {
    let Some(l) = &r.seen.lease else { return "never held: the plan was never run on this cluster".into() };
    let since = format!("{} since {} (epoch {})", l.holder, time(l.since_ms), l.epoch);
    match (r.seen.holder().is_some(), l.expires_ms) {
        (true, until) => format!("{since}, until {}", time(until)),
        (false, 0) => format!("nobody's; given back by {}, epoch {}", l.holder, l.epoch),
        (false, until) => format!("nobody's; {since} let it run out at {}", time(until)),
    }
}

fn person(r: &StatusReport, plan: &Plan, records: usize) -> Vec<String> {
    let (phase, why) = doing(r);
    let mut lines = vec![format!("{}  {}", plan.id, plan.title)];
    let mut say = |head: &str, text: String| lines.push(format!("  {head:<9} {text}"));
    say("lease", lease_words(r));
    match r.seen.absent().filter(|_| r.begun && !r.state.closed) {
        Some(why) => say("runner", why),
        None if r.live().is_some() => {
            let age = r.seen.age_ms().map_or_else(|| "?".into(), |ms| Micros::from_ms(ms.unsigned_abs()).to_string());
            say("runner", format!("heard of {age} ago"));
        }
        None => {}
    }
    if let Some(hash) = other_plan(r, plan) {
        let short = |h: &str| h.chars().take(12).collect::<String>();
        say("plan", format!("THIS FILE IS {}; the rollout runs with {}", short(&plan.hash), short(hash)));
    }
    say("phase", format!("{phase}: {why}"));
    let number = r.state.stage + 1;
    say("stage", stage(r, plan).map_or("none yet".into(), |id| format!("{id} ({number} of {})", plan.stages.len())));
    say(
        "on next",
        match &r.route {
            Some(x) => format!(
                "reads {:.1}%, writes {:.1}%, shadow {}% (route {})",
                percent(x.reads_next_below),
                percent(x.writes_next_below),
                x.shadow,
                x.epoch
            ),
            None => "nothing: there is no route yet".into(),
        },
    );
    match r.live() {
        Some(s) => {
            let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
            say("gates", format!("{passing} of {} pass", s.gates.len()));
            for g in s.gates.iter().filter(|g| g.verdict != Verdict::Pass) {
                say("", engine::gate_reason(g));
            }
        }
        None => say("gates", "nobody measures: no runner is heard of".into()),
    }
    let until = until(plan).map_or_else(String::new, |id| format!(" until stage {id}"));
    say(
        "way back",
        match (&r.way_back, r.live()) {
            (Err(why), _) => format!("none: {why}"),
            (Ok(()), Some(s)) => format!("open{until}; {}", s.way_back.text),
            (Ok(()), None) if !r.begun => "nothing has moved".into(),
            (Ok(()), None) => format!("open{until}; `tidegate rollback PLAN`"),
        },
    );
    let from = r.records.len().saturating_sub(records);
    if from < r.records.len() {
        say("journal", format!("{} records, the last of them:", r.records.len()));
    }
    lines.extend(r.records[from..].iter().map(|x| format!("  {}", summary::human(x))));
    lines
}

//! `tidegate watch`: a second terminal with the same dashboard, through the control database and without the lease.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::keys::{self, KeyCommand};
use super::live::{World, holder};
use super::onlooker::{Fate, Onlooker, WatchSource};
use super::signals::Signals;
use super::{
    DONE, FAILED, Failure, Json, NEEDS_OPERATOR, Outcome, ThemeArg, dashboard, look, out, read_moving_plan, summary,
};
use crate::engine::watch::{Seen, View, Wish, time};
use crate::route::BUCKETS;
use crate::runtime::Micros;
use crate::snapshot::{Reply, Snapshot, Verdict};
use crate::tui::app::current_stage;
use crate::tui::run::Options;

/// How long `--ask` waits for the runner.
const ASK_WITHIN: Micros = Micros::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// No dashboard: print a line for every picture that the runner publishes
    #[arg(long)]
    headless: bool,
    /// Ask the runner for this and end with its answer: `pause`, `continue`, `advance`, `stop`, `rollback`, `rollback hard`, …
    #[arg(long, value_name = "COMMAND", value_parser = keys::command)]
    ask: Option<KeyCommand>,
    /// Who asks, for the journal [default: user@host:pid]
    #[arg(id = "as", long = "as", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    theme: ThemeArg,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &WatchArgs) -> Outcome {
    let plan = read_moving_plan(&args.plan, "watch")?;
    let headless = args.headless || args.json.json || !out::has_terminal();
    let ui = if headless || args.ask.is_some() { None } else { Some(look::ui(&args.theme)?) };
    let world = World::connect_records(plan)?;
    let onlooker = Onlooker::start(&world, holder(args.name.as_deref())).map_err(Failure::new)?;
    if onlooker.seen().is_none_or(|s| s.lease.is_none()) {
        let id = &world.plan.id;
        return Err(Failure::new(format!(
            "rollout `{id}` has never been run on this cluster: `tidegate run` begins it"
        )));
    }
    let code = match (args.ask, ui) {
        (Some(command), _) => asking(args, &world, &onlooker, command)?,
        (None, Some(mut ui)) => {
            ui.watching = true;
            let signals = Signals::listen()?;
            let mut source = WatchSource::new(onlooker, &world);
            let options = Options { stop: signals.any.clone(), exit_when_finished: false };
            dashboard::show(&mut source, &mut ui, &options).map_err(Failure::new)?;
            DONE
        }
        (None, None) => printing(args, &world, &onlooker)?,
    };
    world.shut_down();
    Ok(code)
}

/// Asks for one thing and waits for what becomes of it.
fn asking(args: &WatchArgs, world: &World, onlooker: &Onlooker, command: KeyCommand) -> Outcome {
    let Some(view) = onlooker.seen().and_then(|s| s.view) else {
        return Err(Failure::new(onlooker.absent().unwrap_or_else(|| "nothing is published yet".into())));
    };
    if command == KeyCommand::LeaveBehind {
        let how = "`tidegate rollback PLAN --hard --strand --reason TEXT`, or `R` and `l` in the dashboard";
        return Err(Failure::usage(format!("leaving writes behind wants a reason and a typed word: {how}")));
    }
    let Some(asked) = command.of(current_stage(&view.snapshot)) else {
        return Err(Failure::new("no stage is under way"));
    };
    onlooker.ask(1, Wish::Command(asked), &view.snapshot);
    let (state, why, code) = match onlooker.fate(world, ASK_WITHIN) {
        Some(Fate::Reply(Reply::Refused(why))) => ("refused", Some(why), FAILED),
        Some(Fate::Reply(Reply::Accepted)) => ("accepted", None, DONE),
        Some(Fate::Reply(Reply::Applied)) => ("applied", None, DONE),
        Some(Fate::Unknown(why)) => ("unknown", Some(why), NEEDS_OPERATOR),
        None => ("unknown", Some(format!("no answer for {ASK_WITHIN}; it may still take effect")), NEEDS_OPERATOR),
    };
    if args.json.json {
        out::json(&json!({ "kind": "command", "command": command.name(), "state": state, "why": why }));
    } else {
        let why = why.map_or_else(String::new, |w| format!(": {w}"));
        out::line(&format!("{}: {state}{why}", command.name()));
    }
    Ok(code)
}

/// Prints every picture until the rollout is over or somebody ends it.
fn printing(args: &WatchArgs, world: &World, onlooker: &Onlooker) -> Outcome {
    let signals = Signals::listen()?;
    let (mut last, mut said) = (None, None);
    while !signals.is_end() && !signals.is_hangup() && !out::is_gone() {
        let seen = onlooker.seen();
        let absent = onlooker.absent();
        if let Some((seen, view)) = seen.as_ref().and_then(|s| Some((s, s.view.as_ref()?))) {
            let here = Some((view.epoch, view.n));
            if here != last {
                last = here;
                let line = if args.json.json { printed(seen, view).to_string() } else { in_words(seen, view) };
                out::line(&line);
            }
            if matches!(view.ended.as_deref(), Some("completed" | "rolled_back")) && absent.is_none() {
                return Ok(code(view));
            }
        }
        if shape(absent.as_ref()) != shape(said.as_ref()) {
            match (&absent, args.json.json) {
                (Some(why), true) => out::json(&json!({ "kind": "absent", "why": why })),
                (Some(why), false) => out::line(&format!("NO RUNNER: {why}")),
                (None, _) => {}
            }
            said = absent;
        }
        world.pause(100);
    }
    Ok(DONE)
}

/// What is said once, not for every second that it lasts.
fn shape(text: Option<&String>) -> Option<String> {
    text.map(|t| t.chars().filter(|c| !c.is_ascii_digit()).collect())
}

/// A picture as a line of JSON.
fn printed(seen: &Seen, view: &View) -> Value {
    let lease = seen.lease.as_ref().map(|l| {
        let until = (l.expires_ms > 0).then(|| time(l.expires_ms));
        json!({ "holder": l.holder, "epoch": l.epoch, "since": time(l.since_ms), "until": until })
    });
    json!({
        "kind": "snapshot", "epoch": view.epoch, "n": view.n, "at": time(view.at_ms), "age_ms": seen.age_ms(),
        "ended": view.ended, "absent": seen.absent(), "lease": lease, "snapshot": *view.snapshot,
    })
}

/// A picture as a line of text.
fn in_words(seen: &Seen, view: &View) -> String {
    let s: &Snapshot = &view.snapshot;
    let percent = |below: u16| f64::from(below) * 100.0 / f64::from(BUCKETS);
    let stage = current_stage(s).and_then(|i| s.stages.get(i)).map_or("–", |s| s.id.as_str());
    let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
    let age = seen.age_ms().map_or_else(|| "?".into(), |ms| Micros::from_ms(ms.unsigned_abs()).to_string());
    format!(
        "{}  {}  {stage}  reads {:.1}%  writes {:.1}%  gates {passing}/{}  {}: {}  ({age} old)",
        time(view.at_ms),
        s.plan.id,
        percent(s.route.reads_next_below),
        percent(s.route.writes_next_below),
        s.gates.len(),
        phase(s),
        s.why,
    )
}

/// The phase as JSON has it, in words.
pub(super) fn phase(s: &Snapshot) -> String {
    serde_json::to_value(s.phase).ok().and_then(|v| Some(v.as_str()?.replace('_', " "))).unwrap_or_default()
}

/// The exit code that goes with how it ended.
fn code(view: &View) -> u8 {
    let t = &view.snapshot.traffic;
    let outcome = if t.stray > 0 { Some("needs_operator") } else { view.ended.as_deref() };
    summary::code(&json!({ "outcome": outcome, "writes": { "lost": t.lost } }))
}

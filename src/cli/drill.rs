//! `tidegate drill`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::pace::{PacedDrill, Scripted};
use super::signals::Signals;
use super::{
    AdvanceArg, DONE, Failure, Json, NEEDS_OPERATOR, Outcome, ThemeArg, dashboard, keys, look, out, scenarios, summary,
};
use crate::drill::{Drill, DrillError, Scenario, Settings};
use crate::engine::OnRecord;
use crate::journal::{FileStore, JournalError, JournalStore, MemStore, Record};
use crate::plan::{Advance, Plan};
use crate::runtime::{Fut, Micros, Rt};
use crate::tui::run::{Exit, Options};

#[derive(Args, Debug)]
pub(super) struct DrillArgs {
    /// A scenario's name (see `tidegate scenarios`), or a directory with a scenario.toml
    #[arg(value_name = "SCENARIO", default_value = "first-watch")]
    scenario: String,
    /// Another plan than the scenario's
    #[arg(long, value_name = "PLAN")]
    plan: Option<PathBuf>,
    /// Another seed than the scenario's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How stages advance, whatever the plan says; headless without --keys they advance by themselves
    #[arg(long, value_enum)]
    advance: Option<AdvanceArg>,
    /// Seconds of virtual time a second; headless it runs as fast as it goes
    #[arg(long, value_name = "X", default_value = "1", value_parser = speed)]
    speed: f64,
    /// No dashboard: print the journal's records and a summary
    #[arg(long)]
    headless: bool,
    /// What an operator does, one `<virtual time> <command>` a line: advance, pause, continue, stop,
    /// rollback, rollback hard, rollback strand, rollback cohort, cohort forward
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Keep the journal in this file
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    theme: ThemeArg,
    #[command(flatten)]
    json: Json,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.1..=1_000.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0.1 to 1000".to_owned()),
    }
}

pub(super) fn run(args: &DrillArgs) -> Outcome {
    let (scenario, plan) = scenarios::find(&args.scenario, args.plan.as_deref())?;
    let presses = args.keys.as_ref().map(|path| keys::read(path)).transpose()?;
    let headless = args.headless || args.json.json || !out::has_terminal();
    let advance = match args.advance {
        Some(a) => Some(Advance::from(a)),
        None if presses.is_some() => Some(Advance::Operator),
        None if headless => Some(Advance::Auto),
        None => None,
    };
    let ui = if headless { None } else { Some(look::ui(&args.theme)?) };
    let on_record: OnRecord = match (headless, args.json.json) {
        (true, true) => Arc::new(|r: &Record| out::line(&r.line())),
        (true, false) => Arc::new(|r: &Record| out::line(&summary::human(r))),
        (false, _) => Arc::new(|_: &Record| {}),
    };
    let seed = args.seed.unwrap_or(scenario.world.seed);
    let drill = begin(&scenario, &plan, args, seed, advance, on_record)?;
    let scripted = Scripted::new(drill, presses.unwrap_or_default(), scenario.max_length);
    match ui {
        Some(ui) => on_screen(args, PacedDrill::new(scripted, args.speed), ui, seed),
        None => flat_out(args, scripted),
    }
}

fn begin(
    scenario: &Scenario,
    plan: &Plan,
    args: &DrillArgs,
    seed: u64,
    advance: Option<Advance>,
    on_record: OnRecord,
) -> Result<Drill, Failure> {
    let file = args.journal.clone();
    let journal = move |rt: Rt| -> Arc<dyn JournalStore> {
        match &file {
            None => Arc::new(MemStore::new()),
            Some(path) => match FileStore::create(path, rt) {
                Ok(store) => Arc::new(store),
                Err(e) => Arc::new(Unusable(e)),
            },
        }
    };
    let settings = Settings { seed, advance, journal: Arc::new(journal), on_record };
    Drill::begin(&scenario.world, plan, &settings).map_err(|e| match e {
        e @ (DrillError::Shape(_) | DrillError::Stage(_)) => Failure::usage(e),
        e => Failure::new(e),
    })
}

/// A journal that could not be opened: whoever uses it is told why.
struct Unusable(JournalError);

impl JournalStore for Unusable {
    fn append<'a>(&'a self, _: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async { Err(self.0.clone()) })
    }

    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        Box::pin(async { Err(self.0.clone()) })
    }
}

fn flat_out(args: &DrillArgs, mut scripted: Scripted) -> Outcome {
    while !scripted.is_over() {
        scripted.run_to(scripted.drill().now() + Micros::from_secs(1));
        for refused in scripted.take_refused() {
            out::say(&match &args.keys {
                Some(path) => format!("{}: {refused}", super::shown(path)),
                None => refused,
            });
        }
        if out::is_gone() {
            return Ok(DONE);
        }
    }
    let drill = scripted.drill();
    let took = drill.now();
    let sum = drill.finish().map_err(Failure::new)?;
    if args.json.json {
        out::json(&sum.json);
    } else {
        let name = crate::scrub::short(&args.scenario, 60);
        summary::closing(&format!("{name} after {took} of virtual time"), &sum.json);
        for example in &sum.verified.examples {
            out::line(&format!("  {}", crate::scrub::short(example, 200)));
        }
    }
    Ok(summary::code(&sum.json))
}

fn on_screen(args: &DrillArgs, mut paced: PacedDrill, mut ui: crate::tui::UiState, seed: u64) -> Outcome {
    let signals = Signals::listen()?;
    let options = Options { stop: signals.any.clone(), exit_when_finished: false };
    let exit = dashboard::show(&mut paced, &mut ui, &options)
        .map_err(|e| Failure::new(format!("the terminal cannot be used: {e}; try --headless")))?;
    let drill = paced.drill();
    let s = drill.snapshot();
    let head = format!("{} (seed {seed}) after {}", crate::scrub::short(&args.scenario, 60), drill.now());
    if drill.ended().is_none() {
        let at = s.stages.iter().find(|st| st.status == crate::snapshot::StageStatus::Current);
        let place = at.map_or_else(String::new, |st| format!(" in stage {}", st.id));
        out::line(&format!(
            "{head}: left{place}; {} writes acknowledged, {} lost",
            out::thousands(s.traffic.acknowledged),
            s.traffic.lost.map_or_else(|| "unknown".to_owned(), out::thousands),
        ));
        return Ok(if exit == Exit::Quit { DONE } else { NEEDS_OPERATOR });
    }
    let sum = drill.finish().map_err(Failure::new)?;
    let w = &sum.json["writes"];
    out::line(&format!(
        "{head}: {}; {} writes acknowledged, {} lost",
        sum.json["outcome"].as_str().unwrap_or("?").replace('_', " "),
        out::thousands(w["acknowledged"].as_u64().unwrap_or(0)),
        w["lost"],
    ));
    if let Some(strays) = summary::strays(&sum.json) {
        out::line(&strays);
    }
    Ok(summary::code(&sum.json))
}

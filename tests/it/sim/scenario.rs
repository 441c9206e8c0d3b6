//! A small case as a scenario file (docs/scenarios.md): for a drill, and for people who want to see what happened.

use std::fmt::Write;

use tidegate::runtime::Micros;

use super::case::Case;
use super::faults::{Kind, Mishap};
use super::shrink::Small;
use super::world::plan_text;

/// The plan beside the scenario.
pub fn plan(case: &Case) -> String {
    plan_text(case)
}

/// The scenario. Mishaps that no inject exists for stand in comments, where they happened.
pub fn text(small: &Small) -> String {
    let case = &small.case;
    let load = case.load();
    let kept: Vec<String> = small.kept.iter().map(ToString::to_string).collect();
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").unwrap();
    line(format!(
        "# Seed {} of the simulator, made small: {} of {} mishaps are left.",
        case.seed,
        kept.len(),
        small.drawn
    ));
    for l in tidegate::scrub::line(&small.failure).split("; last records") {
        line(format!("# {l}"));
    }
    line(format!(
        "# Exactly again: TIDEGATE_SIM_FIRST={} TIDEGATE_SIM_SEEDS=1 TIDEGATE_SIM_KEEP={}",
        case.seed,
        kept.join(",")
    ));
    line(format!(
        "# The application: {} inserts and {} deletes of a hundred writes.",
        load.churn_percent.0, load.churn_percent.1
    ));
    line("schema = 1\ndifficulty = \"hard\"\nmax_length = \"10m\"\nends_when = \"ended\"".into());
    line(format!("[brief]\ntitle = \"Seed {}\"\ntext = \"A run of the simulator.\"", case.seed));
    line(format!(
        "[world]\nplan = \"plan.toml\"\nseed = {}\nnodes = {}\ndocuments = {}\noperations = {}\nreads = {}\nprocesses = {}",
        case.seed,
        case.nodes(),
        load.documents,
        load.ops_per_s,
        f64::from(load.read_percent) / 100.0,
        load.processes
    ));
    for (i, (at, mishap)) in case.mishaps.iter().enumerate() {
        let ends = until_changed(case, i, *mishap);
        match inject(*mishap) {
            Some(action) => {
                let lasts =
                    lasts(*mishap).or(ends).map_or(String::new(), |t| format!("for = \"{}ms\"\n", t.as_ms().max(1)));
                let lasts = if matches!(mishap, Mishap::StepDown | Mishap::OplogLoss) { String::new() } else { lasts };
                line(format!("[[inject]]\nid = \"m{i}\"\nat = \"{}ms\"\n{lasts}{action}", at.as_ms()));
            }
            None => line(format!("# at {}ms, for which there is no inject: {mishap:?}", at.as_ms())),
        }
    }
    for (at, command) in &case.ways_back {
        line(format!("# at {}ms the operator: {command:?}", at.as_ms()));
    }
    out
}

/// The action of an inject, where one does what the mishap does.
fn inject(m: Mishap) -> Option<String> {
    let share = |ppm: u32| f64::from(ppm) / 1e6;
    Some(match m {
        Mishap::StepDown => "action = \"stepdown\"".into(),
        Mishap::OplogLoss => "action = \"oplog_loss\"".into(),
        Mishap::Slow { percent } => format!("action = \"latency\"\ntarget = \"cluster\"\npercent = {percent}"),
        Mishap::Lag { by } if by.as_ms() > 0 => {
            format!("action = \"replication_lag\"\ntarget = \"secondaries\"\nlag = \"{}ms\"", by.as_ms())
        }
        Mishap::Unknown { ppm, .. } => {
            format!(
                "action = \"errors\"\ntarget = \"cluster\"\nreads = 0.005\nwrites = 0.005\nunknown = {}",
                share(ppm)
            )
        }
        Mishap::Errors { ppm } => {
            let s = share(ppm);
            format!("action = \"errors\"\ntarget = \"cluster\"\nreads = {s}\nwrites = {s}\nunknown = 0.005")
        }
        Mishap::CutMember { primary, .. } => {
            format!("action = \"partition\"\ntarget = \"{}\"", if primary { "primary" } else { "secondary" })
        }
        _ => return None,
    })
}

fn lasts(m: Mishap) -> Option<Micros> {
    match m {
        Mishap::CutMember { span, .. } => Some(span),
        _ => None,
    }
}

fn state(m: Mishap) -> Option<Kind> {
    match m {
        Mishap::Slow { .. } => Some(Kind::Slow),
        Mishap::Lag { .. } => Some(Kind::Lag),
        // Both set all the rates.
        Mishap::Unknown { .. } | Mishap::Errors { .. } => Some(Kind::Errors),
        _ => None,
    }
}

/// What sets a state lasts until another one sets it, until all is calm or until nothing goes wrong any more.
fn until_changed(case: &Case, i: usize, m: Mishap) -> Option<Micros> {
    let kind = state(m)?;
    let at = case.mishaps[i].0;
    let later = case.mishaps[i + 1..].iter().find(|(_, o)| *o == Mishap::Calm || state(*o) == Some(kind));
    Some(later.map_or(case.rough, |(t, _)| *t).since(at))
}

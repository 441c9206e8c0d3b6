//! `tidegate trace`: everything that is known of one document, from outside: it writes nothing but the journalled reveal, which the
//! runner writes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::live::{World, holder};
use super::onlooker::{Fate, Onlooker};
use super::{DONE, FAILED, Failure, Json, NEEDS_OPERATOR, Outcome, out, read_plan};
use crate::cluster::Key;
use crate::engine;
use crate::engine::watch::Wish;
use crate::runtime::Micros;
use crate::snapshot::{Reply, TraceAsk, TraceView};
use crate::tui::journey;

/// Columns of the text.
const COLUMNS: usize = 120;
/// How long a runner has to journal a reveal.
const REVEALED_WITHIN: Micros = Micros::from_secs(15);

const CODES: &str = "\
KEY is the document's _id as the journal shows it: 17, '\"A-17\"', 'ObjectId(65f0…)', '{\"region\":\"eu\",\"n\":1}'; what is none of
these is a text. Exit codes: 0 both sides agree, or there is nothing to compare; 1 they differ; 4 a person has to decide about it.";

#[derive(Args, Debug)]
#[command(after_help = CODES)]
pub(super) struct TraceArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// The document's _id, as the journal shows it
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    key: String,
    /// Show the values that `[privacy] mask` names too; the runner journals it first
    #[arg(long)]
    reveal: bool,
    /// Who looks, for the journal [default: user@host:pid]
    #[arg(id = "as", long = "as", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &TraceArgs) -> Outcome {
    let plan = read_plan(&args.plan)?;
    Key::read(&args.key).map_err(Failure::usage)?;
    let world = World::connect_begun(plan)?;
    let mut view = look(&world, args.key.clone(), false)?;
    if args.reveal && view.masked {
        journalled(args, &world, &view.key)?;
        view = look(&world, args.key.clone(), true)?;
    }
    if args.json.json {
        out::json(&machine(&world.plan.id, &view));
    } else {
        journey::lines(&view, COLUMNS).iter().for_each(|(line, _)| out::line(line));
        if view.masked {
            out::say("--reveal shows the masked values, and has the runner journal it");
        }
    }
    world.shut_down();
    Ok(code(&view))
}

fn look(world: &World, key: String, reveal: bool) -> Result<TraceView, Failure> {
    // An onlooker's records are in a file that its process holds.
    let deps = if world.plan.observes() { world.deps() } else { world.looking() };
    world.block_on(engine::trace(&deps, &TraceAsk { id: 1, key, reveal })).map_err(Failure::new)
}

fn code(view: &TraceView) -> u8 {
    match (&view.person, view.verdict.is_right()) {
        (Some(_), _) => NEEDS_OPERATOR,
        (None, true) => DONE,
        (None, false) => FAILED,
    }
}

fn machine(plan: &str, view: &TraceView) -> Value {
    let mut all = json!({ "kind": "trace", "plan": plan });
    // A plain struct of texts, numbers and lists always serialises to an object.
    if let (Some(all), Ok(Value::Object(fields))) = (all.as_object_mut(), serde_json::to_value(view)) {
        all.extend(fields);
    }
    all
}

/// Has the runner journal that masked values are shown. Where it cannot be journalled, they are not shown; a rollout that has never
/// begun has no journal, and nothing of tidegate's to protect.
fn journalled(args: &TraceArgs, world: &World, key: &str) -> Result<(), Failure> {
    let id = &world.plan.id;
    let refused = |why: &str| {
        Failure::new(format!("masked values of `{id}` are not shown: {why}; without --reveal everything else is"))
    };
    if world.plan.observes() {
        return Err(refused("a rollout that only observes takes no requests, so the reveal cannot be journalled"));
    }
    let onlooker = Onlooker::start(world, holder(args.name.as_deref())).map_err(Failure::new)?;
    let seen = onlooker.seen();
    if seen.as_ref().is_some_and(|s| s.lease.is_none() && s.view.is_none()) {
        out::say(&format!("`{id}` has never been run here: there is no journal, and the reveal is recorded nowhere"));
        return Ok(());
    }
    let running = seen.filter(|s| s.absent().is_none()).and_then(|s| s.view).filter(|v| v.ended.is_none());
    let Some(view) = running else {
        let why = onlooker.absent().unwrap_or_else(|| "its rollout is over".into());
        return Err(refused(&format!("a reveal is journalled by the runner, and none is there ({why})")));
    };
    onlooker.ask(1, Wish::Reveal { key: key.to_owned() }, &view.snapshot);
    match onlooker.fate(world, REVEALED_WITHIN) {
        Some(Fate::Reply(Reply::Applied)) => Ok(()),
        Some(Fate::Reply(Reply::Refused(why)) | Fate::Unknown(why)) => Err(refused(&why)),
        Some(Fate::Reply(Reply::Accepted)) | None => Err(refused("the runner has not answered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::TraceVerdict;

    #[test]
    fn the_exit_code_says_whether_somebody_must_act() {
        let of = |verdict, person: Option<&str>| {
            code(&TraceView { verdict, person: person.map(str::to_owned), ..TraceView::default() })
        };
        for right in [TraceVerdict::Agrees, TraceVerdict::Absent, TraceVerdict::NotCopied, TraceVerdict::Alone] {
            assert_eq!((of(right, None), of(right, Some("a stray"))), (DONE, NEEDS_OPERATOR));
        }
        for wrong in [TraceVerdict::Differs, TraceVerdict::Moving, TraceVerdict::Unknown] {
            assert_eq!((of(wrong, None), of(wrong, Some("a stray"))), (FAILED, NEEDS_OPERATOR));
        }
    }
}

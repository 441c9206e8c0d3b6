//! `tidegate cleanup`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::live::World;
use super::{DONE, Failure, Json, Outcome, out, read_moving_plan, shown};
use crate::engine::{self, Fate, Left};
use crate::journal::read_file;

#[derive(Args, Debug)]
pub(super) struct CleanupArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Do it; without this it is only listed
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only list it, which is what happens without --yes too
    #[arg(long)]
    dry_run: bool,
    /// Remove this too, documents and all: the name exactly as it is listed, in quotes where it has spaces; may be given again
    #[arg(long, value_name = "NAME")]
    drop: Vec<String>,
    /// The local copy of the journal [default: <plan id>.journal.jsonl]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &CleanupArgs) -> Outcome {
    let world = World::connect(read_moving_plan(&args.plan, "cleanup")?)?;
    let deps = world.looking();
    let left = world.block_on(engine::cleanup_list(&deps)).map_err(Failure::new)?;
    engine::cleanup_names(&left, &args.drop).map_err(Failure::usage)?;
    let file = args.journal.clone().unwrap_or_else(|| PathBuf::from(format!("{}.journal.jsonl", world.plan.id)));
    let file = local(&file, &world.plan.id);
    if left.is_empty() && file.is_none() {
        say(args, None, "nothing is left of this rollout");
    }
    if !args.yes {
        for l in &left {
            let fate = if l.fate != Fate::Stays && args.drop.contains(&l.name) { "drop" } else { l.fate.name() };
            say(args, Some(l), fate);
        }
        if let Some((from, to)) = &file {
            say(args, None, &format!("move     {} to {}", shown(from), shown(to)));
        }
        if !args.json.json && !left.is_empty() {
            out::say(
                "nothing was changed; --yes does it; --drop NAME also removes what is listed `by name`, or an isolated collection listed `move`",
            );
        }
        world.shut_down();
        return Ok(DONE);
    }
    let mut told = |done: &str, l: &Left| say(args, Some(l), done);
    world.block_on(engine::cleanup(&deps, &left, &args.drop, &mut told)).map_err(Failure::new)?;
    if let Some((from, to)) = file {
        move_away(&from, &to)?;
        say(args, None, &format!("moved    {} to {}", shown(&from), shown(&to)));
    }
    world.shut_down();
    Ok(DONE)
}

fn say(args: &CleanupArgs, l: Option<&Left>, what: &str) {
    let line = match (args.json.json, l) {
        (true, Some(l)) => {
            return out::json(&json!({
                "kind": "left", "name": l.name, "on": l.on.name(), "what": l.what, "documents": l.documents,
                "fate": l.fate.name(), "done": args.yes.then_some(what),
            }));
        }
        (true, None) => return out::json(&json!({ "kind": "note", "text": what })),
        (false, Some(l)) => {
            let about = format!("{}, {} documents: {}", l.name, out::thousands(l.documents), l.what);
            format!("{what:<8} {about} ({})", l.on.name())
        }
        (false, None) => what.to_owned(),
    };
    out::line(&crate::scrub::short(&line, 400));
}

/// The local copy of a finished journal of this rollout, and the name under which it is kept.
fn local(file: &Path, plan: &str) -> Option<(PathBuf, PathBuf)> {
    let (records, _) = read_file(file, None).ok()?;
    let last = records.last().filter(|r| r.kind == crate::journal::CLOSED && r.rollout == plan)?;
    let run: String = last.hash.chars().take(12).collect();
    let name = file.file_name()?.to_string_lossy().into_owned();
    let kept = match name.strip_suffix(".jsonl") {
        Some(stem) => format!("{stem}.{run}.jsonl"),
        None => format!("{name}.{run}"),
    };
    Some((file.to_owned(), file.with_file_name(kept)))
}

/// The journal, then its head beside it.
fn move_away(from: &Path, to: &Path) -> Result<(), Failure> {
    let head = |p: &Path| {
        let mut name = p.as_os_str().to_owned();
        name.push(".head");
        PathBuf::from(name)
    };
    let failed = |e: std::io::Error| Failure::new(format!("{} cannot be moved: {e}", shown(from)));
    if to.exists() {
        return Err(Failure::new(format!("{} cannot be moved: {} exists", shown(from), shown(to))));
    }
    std::fs::rename(from, to).map_err(failed)?;
    std::fs::rename(head(from), head(to)).map_err(failed)
}

//! `tidegate repair`: mends what a comparison or a stray has shown; and resolves conflicts, which a rollback without next may leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::{Value, json};

use super::live::{World, holder};
use super::run::{Common, begin, deps, journal_file};
use super::signals::Signals;
use super::{DONE, FAILED, Failure, NEEDS_OPERATOR, Outcome, out, read_file, read_moving_plan};
use crate::engine::{
    self, Config, End, Engine, REPAIR_MAX, Repair, RepairEnd, RepairFate, RepairItem, RepairPart, RepairReport,
};
use crate::plan::reader::nearest;
use crate::plan::{RepairAction, RepairKind, RepairTemplate};
use crate::route::Side;
use crate::snapshot::Command;

/// Items shown to people; `--json` has all of them.
const SHOWN: usize = 100;

const TEMPLATES: &str = "\
Templates (--template NAME):
  carry-stray      put what a stray wrote onto the owner's document, if that is as it was then
  resync           write the copy of every key that differs afresh from its owner's document
  restore-missing  write the copies that are missing
  remove-extra     take away copies whose owner has no document; each is kept in quarantine first
  rebuild-index    build the plan's indexes on next that are absent, and again those with other options
  release          with --key and --reason: a stray is resolved as it is, or what a repair kept is put back

Without --yes nothing is changed. Exit codes: 0 mended and compared, 1 differences are left, 4 a person is needed.";

#[derive(Args, Debug)]
#[command(after_help = TEMPLATES)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    common: Common,
    /// What to do, by its name; without it, what there is to do is listed
    #[arg(long, value_name = "NAME", conflicts_with_all = ["file", "resolve"])]
    template: Option<String>,
    /// A template of one's own (docs/repair.md)
    #[arg(long, value_name = "FILE", conflicts_with = "resolve")]
    file: Option<PathBuf>,
    /// Only this key, as the journal shows it; for `release` also the `_id` of a record in tidegate.quarantine; may be repeated
    #[arg(long, value_name = "KEY", conflicts_with = "resolve", allow_hyphen_values = true)]
    key: Vec<String>,
    /// Do it; without this nothing is changed
    #[arg(long, conflicts_with = "resolve")]
    yes: bool,
    /// How many documents an action may touch; with more it does nothing
    #[arg(long, value_name = "N", default_value_t = REPAIR_MAX, value_parser = clap::value_parser!(u64).range(1..))]
    max_documents: u64,
    /// Name the templates
    #[arg(long, conflicts_with_all = ["template", "file", "key", "yes", "resolve", "take_over"])]
    list: bool,
    /// Which side's version is right of a key that was written on both sides while next did not answer; may be repeated
    #[arg(long, value_name = "KEY=legacy|next", value_parser = resolution, allow_hyphen_values = true)]
    resolve: Vec<(String, Side)>,
    /// Take the lease from a holder whose lease has not run out
    #[arg(long, requires = "reason")]
    take_over: bool,
    /// Why; kept in the journal, and needed for `release` and --take-over
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// `KEY=legacy|next`; the key as the journal and the screen show it.
fn resolution(text: &str) -> Result<(String, Side), String> {
    let side = |name: &str| Side::BOTH.into_iter().find(|s| s.name() == name);
    let (key, name) = text.rsplit_once('=').ok_or("expected KEY=legacy or KEY=next")?;
    match (key, side(name)) {
        ("", _) => Err("the key is missing before `=`".into()),
        (_, None) => Err(format!(
            "`{}` is not a side; {}",
            crate::scrub::short(name, 40),
            nearest(name, ["legacy", "next"].into_iter())
        )),
        (key, Some(side)) => Ok((key.to_owned(), side)),
    }
}

pub(super) fn run(args: RepairArgs) -> Outcome {
    if args.list {
        list(args.common.json.json);
        return Ok(DONE);
    }
    let take_over = args.reason.clone().filter(|_| args.take_over);
    if !args.resolve.is_empty() {
        // What is still open afterwards is for the next call.
        let common = args.common.until_needed();
        let config = Config { resolve: args.resolve, resume: true, take_over, ..Config::default() };
        return begin(&common, config, None);
    }
    let repair = asked(&args)?;
    match args.yes {
        true => mend(&args, repair, take_over),
        false => look(&args, &repair),
    }
}

fn list(as_json: bool) {
    for kind in RepairKind::ALL {
        if as_json {
            out::json(&json!({ "kind": "template", "id": kind.name(), "title": kind.about() }));
        } else {
            out::line(&format!("{:<16} {}", kind.name(), kind.about()));
        }
    }
}

/// What the command line asks for.
fn asked(args: &RepairArgs) -> Result<Repair, Failure> {
    let template = match (&args.template, &args.file) {
        (Some(name), _) => {
            let kind = RepairKind::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
                let names = RepairKind::ALL.map(RepairKind::name);
                Failure::usage(format!(
                    "`{}` is not a template; {}",
                    crate::scrub::short(name, 60),
                    nearest(name, names.into_iter())
                ))
            })?;
            RepairTemplate::builtin(kind)
        }
        (None, Some(file)) => RepairTemplate::parse(&read_file(file)?, &file.display().to_string())
            .map_err(|d| Failure::usage(d.render(out::colour_on_stderr())))?,
        (None, None) if args.yes => {
            return Err(Failure::usage(
                "--yes needs --template NAME or --file FILE; without --yes everything that can be mended is listed",
            ));
        }
        // What a look shows by itself.
        (None, None) => {
            let kinds = [RepairKind::CarryStray, RepairKind::Resync, RepairKind::RebuildIndex];
            RepairTemplate {
                id: "everything".into(),
                title: String::new(),
                actions: kinds.map(RepairAction::new).into(),
            }
        }
    };
    let releases = template.actions.iter().any(|a| a.kind == RepairKind::Release);
    let unnamed = template.actions.iter().any(|a| a.kind == RepairKind::Release && a.keys.is_empty());
    if unnamed && args.key.is_empty() {
        return Err(Failure::usage("`release` needs --key: a key, or the `_id` of a record in tidegate.quarantine"));
    }
    if releases && args.yes && args.reason.as_ref().is_none_or(|r| r.trim().is_empty()) {
        return Err(Failure::usage("`release` needs --reason TEXT: the journal says why somebody decided so"));
    }
    Ok(Repair {
        template,
        keys: args.key.clone(),
        reason: args.reason.as_ref().map(|r| crate::scrub::short(r, 300)),
        max_documents: args.max_documents,
    })
}

/// A dry run: no lease, no write.
fn look(args: &RepairArgs, repair: &Repair) -> Outcome {
    let world = World::connect(read_moving_plan(&args.common.plan, "repair")?)?;
    let deps = world.looking();
    let report = world.block_on(engine::repair_look(&deps, repair)).map_err(Failure::new)?;
    show(args, &world.plan.id, &report);
    world.shut_down();
    Ok(code(&report))
}

fn mend(args: &RepairArgs, repair: Repair, take_over: Option<String>) -> Outcome {
    let world = World::connect_begun(read_moving_plan(&args.common.plan, "repair")?)?;
    let file = journal_file(&args.common, &world.plan);
    // The report says what the journal's records say.
    let deps = deps(&world, &file, Arc::new(AtomicBool::new(false)), args.common.json.json)?;
    let config = Config {
        holder: holder(args.common.name.as_deref()),
        resume: true,
        take_over,
        repair: Some(Arc::new(repair)),
        ..Config::default()
    };
    let signals = Signals::listen()?;
    let engine = world.block_on(engine::start(deps, config)).map_err(Failure::new)?;
    let mut stopping = false;
    while engine.ended().is_none() {
        if !stopping && (signals.is_end() || signals.is_hangup()) {
            // A full queue takes it the next time round.
            stopping = engine.send(Command::Stop).is_some();
            out::say("stopping at a safe point; a second Ctrl-C ends at once");
        }
        world.pause(20);
    }
    let answer = ended(args, &world, &engine);
    world.shut_down();
    answer
}

fn ended(args: &RepairArgs, world: &World, engine: &Engine) -> Outcome {
    if let Some(report) = engine.repaired() {
        show(args, &world.plan.id, &report);
        if !args.common.json.json {
            out::say("the rollout rests where it was; `tidegate resume` goes on");
        }
        return Ok(code(&report));
    }
    match engine.ended() {
        Some(End::Failed(why)) => Err(Failure::new(format!("failed: {why}"))),
        Some(End::Fenced(why)) => Err(Failure::new(format!("stopped, another runner has it: {why}"))),
        _ => {
            out::say(&format!("nothing was repaired: {}", engine.snapshot().why));
            Ok(NEEDS_OPERATOR)
        }
    }
}

fn code(report: &RepairReport) -> u8 {
    match report.end() {
        RepairEnd::Mended => DONE,
        RepairEnd::Differences => FAILED,
        RepairEnd::Person => NEEDS_OPERATOR,
    }
}

fn word(report: &RepairReport) -> &'static str {
    match report.end() {
        RepairEnd::Mended => "mended",
        RepairEnd::Differences => "differences",
        RepairEnd::Person => "needs_operator",
    }
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "?".into(), |t| t.to_string())
}

fn show(args: &RepairArgs, plan: &str, report: &RepairReport) {
    if args.common.json.json {
        return show_json(report);
    }
    for part in &report.parts {
        show_part(report, part);
    }
    if let Some(why) = &report.stopped {
        out::line(&format!("stopped: {}", crate::scrub::short(why, 300)));
    }
    let n = |fate| out::thousands(report.count(fate));
    let person = n(RepairFate::Person);
    if report.dry {
        out::line(&format!("{plan}: {} to mend, {person} for a person", n(RepairFate::Would)));
        let hint = match (&args.template, &args.file) {
            (None, None) => "nothing was changed; `--template NAME --yes` mends",
            _ => "nothing was changed; --yes does it",
        };
        out::say(hint);
    } else {
        let (done, nothing) = (n(RepairFate::Done), n(RepairFate::Nothing));
        out::line(&format!("{plan}: {done} mended, {nothing} needed nothing, {person} for a person"));
    }
}

fn show_part(report: &RepairReport, part: &RepairPart) {
    let hidden = part.items.len().saturating_sub(SHOWN);
    let head = match (&part.refused, part.items.is_empty()) {
        (Some(why), _) => format!("{}: {why}", part.action),
        (None, true) => format!("{}: nothing to do", part.action),
        (None, false) => format!("{}:", part.action),
    };
    out::line(&head);
    for RepairItem { key, side, what, fate } in part.items.iter().take(SHOWN) {
        let on = side.map_or_else(String::new, |s| format!(" ({})", s.name()));
        out::line(&crate::scrub::short(&format!("  {:<13} {key}{on}: {what}", fate.name()), 400));
    }
    if hidden > 0 {
        out::line(&format!("  and {} more; --json has all of them", out::thousands(hidden as u64)));
    }
    for note in &part.notes {
        out::line(&format!("  {}", crate::scrub::short(note, 300)));
    }
    match part.verified {
        Some((matched, 0, through)) => {
            let matched = out::thousands(matched);
            out::line(&format!("  verified through {}: {matched} keys are equal on both sides", time(through)));
        }
        Some((matched, differing, through)) => out::line(&format!(
            "  verified through {}: {} keys are equal, {} DIFFER",
            time(through),
            out::thousands(matched),
            out::thousands(differing),
        )),
        None if !report.dry && part.count(RepairFate::Done) > 0 => out::line("  looked at again: it is there"),
        None => {}
    }
}

fn show_json(report: &RepairReport) {
    for part in &report.parts {
        for i in &part.items {
            out::json(&json!({
                "kind": "repair_item", "action": part.action, "key": i.key, "side": i.side.map(Side::name), "what": i.what,
                "fate": i.fate.name().replace(' ', "_"),
            }));
        }
    }
    let actions: Vec<Value> = report
        .parts
        .iter()
        .map(|p| {
            json!({
                "action": p.action, "would": p.count(RepairFate::Would), "done": p.count(RepairFate::Done),
                "skipped": p.count(RepairFate::Nothing), "for_a_person": p.count(RepairFate::Person),
                "refused": p.refused, "notes": p.notes,
                "verified": p.verified.map(|(matched, differing, through)| json!({
                    "matched": matched, "differing": differing, "through": time(through),
                })),
            })
        })
        .collect();
    out::json(&json!({
        "kind": "repair", "template": report.template, "dry_run": report.dry, "outcome": word(report), "actions": actions,
        "stopped": report.stopped,
    }));
}

//! `tidegate run` and `tidegate resume`: a rollout on a real cluster, on screen or headless.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use serde_json::{Value, json};
use tokio::sync::oneshot::Receiver;

use super::hand_over::hand_over;
use super::live::{AGAIN, World, holder};
use super::pace::answered;
use super::signals::Signals;
use super::{AdvanceArg, FAILED, Failure, Json, Outcome, ThemeArg, dashboard, look, out, read_plan, summary};
use crate::engine::{self, Config, Deps, End, Engine};
use crate::hooks::Hooks;
use crate::journal::{ClusterStore, FileStore, JournalStore, Record, TeeStore};
use crate::plan::reader::nearest;
use crate::plan::{Advance, Plan};
use crate::route::{BUCKETS, Bucket};
use crate::runtime::Group;
use crate::snapshot::{Command, Phase, Reply, Snapshot, TraceAsk};
use crate::tui::run::{Exit, Options, Source};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// How stages advance, whatever the plan says; kept for the whole rollout
    #[arg(long, value_enum)]
    advance: Option<AdvanceArg>,
}

#[derive(Args, Debug)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    common: Common,
    /// Take the pilot cohort forward again, after it has gone back alone
    #[arg(long)]
    cohort: bool,
    #[command(flatten)]
    held: TakeOver,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("because").args(["take_over", "strand"]).multiple(true)))]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    common: Common,
    /// Everything back at once, instead of stage by stage
    #[arg(long)]
    hard: bool,
    /// Come to rest in this stage [default: before the first one]
    #[arg(long, value_name = "STAGE", conflicts_with = "strand")]
    to: Option<String>,
    /// Only these buckets, as `512..` or `50%..`: what lies below stays on next
    #[arg(long, value_name = "FROM..", conflicts_with_all = ["to", "strand", "cohort"], value_parser = range)]
    range: Option<Bucket>,
    /// Only the pilot cohort, which then stays on legacy; everybody else stays where they are
    #[arg(long, conflicts_with_all = ["to", "strand"])]
    cohort: bool,
    /// With --hard and --reason: should next not answer, go back without the writes that legacy does not have; they are AT RISK until
    /// they are salvaged
    #[arg(long, requires_all = ["hard", "reason"])]
    strand: bool,
    /// Take the lease from a holder whose lease has not run out
    #[arg(long, requires = "reason")]
    take_over: bool,
    /// Why; needed with --take-over and --strand, kept in the journal
    #[arg(long, value_name = "TEXT", requires = "because")]
    reason: Option<String>,
    /// Change nothing: print the way back as commands for mongosh
    #[arg(long, conflicts_with_all = ["hard", "to", "range", "strand", "cohort", "take_over", "reason", "headless", "exit_when_needed"])]
    explain: bool,
}

/// `512..`, `512..1024` or `50%..`. A route has one boundary, so that what goes back is everything from a bucket on.
fn range(text: &str) -> Result<Bucket, String> {
    let wanted = "expected the first bucket and two dots, as in `512..`, or percent, as in `50%..`";
    let (from, to) = text.split_once("..").ok_or(wanted)?;
    if !matches!(to, "" | "1024" | "100%") {
        return Err(format!(
            "only everything from a bucket on can go back, because a route has one boundary: `{}..`",
            crate::scrub::short(from, 10)
        ));
    }
    let bucket = match from.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| *p <= 100).map(crate::route::below_for_percent),
        None => from.parse().ok(),
    };
    bucket.filter(|b| (1..BUCKETS).contains(b)).ok_or_else(|| format!("{wanted}; from bucket 1 to {}", BUCKETS - 1))
}

/// What to do about another holder.
#[derive(Args, Debug)]
struct TakeOver {
    /// Take the lease from a holder whose lease has not run out
    #[arg(long, requires = "reason")]
    take_over: bool,
    /// Why it is taken over; kept in the journal
    #[arg(long, value_name = "TEXT", requires = "take_over")]
    reason: Option<String>,
}

impl TakeOver {
    /// Takes up what was begun before.
    fn config(self) -> Config {
        Config { resume: true, take_over: self.reason, ..Config::default() }
    }
}

#[derive(Args, Debug)]
pub(super) struct Common {
    /// The plan
    #[arg(value_name = "PLAN")]
    pub(super) plan: PathBuf,
    /// No dashboard: print the journal's records and a summary
    #[arg(long)]
    headless: bool,
    /// Headless: stop at a safe point with exit code 4 when only an operator can go on
    #[arg(long)]
    exit_when_needed: bool,
    /// What becomes of the rollout when the terminal is gone: it goes on, or stops at a safe point
    #[arg(long, value_enum, default_value = "continue")]
    on_hangup: OnHangup,
    /// The local copy of the journal [default: <plan id>.journal.jsonl]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Who runs it, for the lease and the journal [default: user@host:pid]
    #[arg(id = "as", long = "as", value_name = "NAME")]
    pub(super) name: Option<String>,
    #[command(flatten)]
    theme: ThemeArg,
    #[command(flatten)]
    pub(super) json: Json,
}

impl Common {
    /// Stops at a safe point when only an operator can go on.
    pub(super) fn until_needed(self) -> Common {
        Common { exit_when_needed: true, ..self }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum OnHangup {
    Continue,
    Stop,
}

pub(super) fn run(args: RunArgs) -> Outcome {
    begin(&args.common, Config { advance: args.advance.map(Advance::from), ..Config::default() }, None)
}

pub(super) fn resume(args: ResumeArgs) -> Outcome {
    let ask = args.cohort.then_some(Ask::CohortForward);
    begin(&args.common, args.held.config(), ask)
}

pub(super) fn rollback(args: RollbackArgs) -> Outcome {
    if args.explain {
        return super::explain::run(&args.common.plan, args.common.json);
    }
    super::read_moving_plan(&args.common.plan, "rollback")?;
    let reason = args.reason.filter(|_| args.take_over || args.strand);
    let config = Config {
        take_over: reason.clone().filter(|_| args.take_over),
        strand_reason: reason.filter(|_| args.strand),
        resume: true,
        ..Config::default()
    };
    let ask = match (args.cohort, args.range) {
        (true, _) => Ask::CohortBack { hard: args.hard },
        (false, Some(from)) => Ask::RangeBack { hard: args.hard, from },
        (false, None) => Ask::Back { hard: args.hard, to: args.to, strand: args.strand },
    };
    begin(&args.common, config, Some(ask))
}

/// What is asked of the rollout as soon as it is taken up.
pub(super) enum Ask {
    /// How far back, and how.
    Back {
        hard: bool,
        to: Option<String>,
        strand: bool,
    },
    RangeBack {
        hard: bool,
        from: Bucket,
    },
    CohortBack {
        hard: bool,
    },
    CohortForward,
}

pub(super) fn begin(args: &Common, config: Config, ask: Option<Ask>) -> Outcome {
    let plan = read_plan(&args.plan)?;
    let asked = ask.map(|a| commands(&plan, &a)).transpose()?.unwrap_or_default();
    let headless = args.headless || args.json.json || !out::has_terminal();
    let ui = if headless { None } else { Some(look::ui(&args.theme)?) };
    let file = journal_file(args, &plan);
    let world = if config.resume { World::connect_begun(plan)? } else { World::connect(plan)? };
    let printing = Arc::new(AtomicBool::new(headless));
    let deps = deps(&world, &file, printing.clone(), args.json.json)?;
    // Other terminals see it through the database, where an onlooker writes nothing.
    let shared = !world.plan.observes();
    let config = Config { holder: holder(args.name.as_deref()), shared, hooks: Hooks::live(), ..config };
    let signals = Signals::listen()?;
    // Taken up again, with an amended plan, it is asked of nobody.
    let again = Config { take_over: None, resume: true, ..config.clone() };
    let engine = world.block_on(engine::start(deps, config)).map_err(Failure::new)?;
    let mut rollout = Rollout { args, world, engine, again, runs: 0, signals, printing, file };
    if let Some((command, refusal)) = asked.into_iter().find_map(|c| Some((c, rollout.refused(c)?))) {
        let what = if command == Command::CohortForward { "the cohort does not move" } else { "no rollback" };
        out::say(&format!("{what}: {refusal}"));
        rollout.signals.end.store(true, Ordering::SeqCst);
        rollout.headless()?;
        return Ok(FAILED);
    }
    if let Some(mut ui) = ui
        && let Some(code) = rollout.on_screen(&mut ui)?
    {
        rollout.world.shut_down();
        return Ok(code);
    }
    rollout.headless()
}

fn commands(plan: &Plan, ask: &Ask) -> Result<Vec<Command>, Failure> {
    let index = |id: &String| {
        plan.stages.iter().position(|s| s.id == *id).ok_or_else(|| {
            let names = plan.stages.iter().map(|s| s.id.as_str());
            Failure::usage(format!(
                "`{}` is not a stage of the plan; {}",
                crate::scrub::short(id, 60),
                nearest(id, names)
            ))
        })
    };
    Ok(match ask {
        Ask::Back { hard, to, strand } => {
            let back = Command::Rollback { hard: *hard, to: to.as_ref().map(index).transpose()? };
            if *strand { vec![back, Command::LeaveBehind] } else { vec![back] }
        }
        Ask::RangeBack { hard, from } => vec![Command::RollbackRange { hard: *hard, from: *from }],
        Ask::CohortBack { hard } => vec![Command::RollbackCohort { hard: *hard }],
        Ask::CohortForward => vec![Command::CohortForward],
    })
}

/// Where the local copy of the journal is; of a rollout that is only observed the only one, beside its plan.
pub(super) fn journal_file(args: &Common, plan: &Plan) -> PathBuf {
    let name = format!("{}.journal.jsonl", plan.id);
    args.journal.clone().unwrap_or_else(|| if plan.observes() { args.plan.with_file_name(name) } else { name.into() })
}

pub(super) fn deps(
    world: &World,
    file: &std::path::Path,
    printing: Arc<AtomicBool>,
    as_json: bool,
) -> Result<Deps, Failure> {
    let copy = FileStore::open_or_create(file, world.rt.clone()).map_err(Failure::new)?;
    let journal: Arc<dyn JournalStore> = if world.plan.observes() {
        copy.hold().map_err(Failure::new)?;
        Arc::new(copy)
    } else {
        let truth = ClusterStore::new(world.clusters[0].clone(), world.rt.clone(), &world.plan.id);
        Arc::new(TeeStore::new(Arc::new(truth), Arc::new(copy)))
    };
    let on_record = move |r: &Record| {
        if printing.load(Ordering::SeqCst) {
            out::line(&if as_json { r.line() } else { summary::human(r) });
        }
    };
    Ok(Deps { journal, on_record: Arc::new(on_record), ..world.deps() })
}

struct Rollout<'a> {
    args: &'a Common,
    world: World,
    engine: Engine,
    signals: Signals,
    printing: Arc<AtomicBool>,
    file: PathBuf,
    again: Config,
    /// How often it was taken up again.
    runs: u32,
}

impl Rollout<'_> {
    /// True while the rollout goes on here. One whose plan was amended is taken up again with that plan.
    fn goes_on(&mut self) -> Result<bool, Failure> {
        match self.engine.ended() {
            None => return Ok(true),
            Some(End::Amended) => {}
            Some(_) => return Ok(false),
        }
        let Some(plan) = self.engine.amended() else { return Ok(false) };
        self.world.plan = plan;
        self.runs += 1;
        // The one before ends its own tasks, and only those.
        let group = Group(AGAIN.0 + self.runs);
        let deps = deps(&self.world, &self.file, self.printing.clone(), self.args.json.json)?;
        let started = engine::start(Deps { group, ..deps }, self.again.clone());
        self.engine = self.world.block_on(started).map_err(Failure::new)?;
        Ok(true)
    }

    /// Sends a command to an engine that has just begun. Answers why it is refused.
    fn refused(&self, command: Command) -> Option<String> {
        match self.world.block_on(self.engine.send(command)?) {
            Ok(Reply::Refused(why)) => Some(why),
            // An engine that has ended meanwhile says so itself.
            Ok(Reply::Accepted | Reply::Applied) | Err(_) => None,
        }
    }

    /// The dashboard. `None` when the rollout is to be followed headless from here.
    fn on_screen(&mut self, ui: &mut crate::tui::UiState) -> Result<Option<u8>, Failure> {
        let options = Options { stop: self.signals.any.clone(), exit_when_finished: false };
        let mut source = LiveSource { rollout: self, replies: Vec::new(), problems: Vec::new(), failed: None };
        let shown = dashboard::show(&mut source, ui, &options);
        if let Some(failure) = source.failed.take() {
            return Err(failure);
        }
        let exit = match shown {
            Ok(exit) => exit,
            // The rollout outlives its screen.
            Err(e) => {
                out::say(&format!("the terminal cannot be used: {e}; the rollout goes on without it"));
                Exit::TerminalGone
            }
        };
        if self.goes_on()? {
            match exit {
                Exit::Detached => {
                    out::say("the dashboard is closed; the rollout goes on here, Ctrl-C stops it at a safe point");
                }
                Exit::TerminalGone => self.signals.note_hangup(),
                Exit::Signal => {}
                // The dashboard waited for the safe point and gave up: this goes on waiting.
                Exit::Quit | Exit::Stopped | Exit::HandOver | Exit::Finished => {
                    self.signals.end.store(true, Ordering::SeqCst);
                }
            }
            self.printing.store(true, Ordering::SeqCst);
            return Ok(None);
        }
        if exit == Exit::HandOver && self.engine.ended() == Some(End::Stopped) {
            let epoch = self.engine.snapshot().epoch;
            return Ok(Some(hand_over(self.args, &self.world, &self.file, epoch)));
        }
        let sum = self.summary();
        let w = &sum["writes"];
        out::line(&format!(
            "{}: {}; {}; journal {}",
            self.world.plan.id,
            sum["outcome"].as_str().unwrap_or("?").replace('_', " "),
            match self.world.plan.observes() {
                true => "nothing was written".to_owned(),
                false if w["acknowledged"].is_null() => "what applications wrote is not reported here".to_owned(),
                false => format!(
                    "{} writes acknowledged, {} lost",
                    w["acknowledged"],
                    w["lost"].as_u64().map_or_else(|| "unknown".to_owned(), out::thousands)
                ),
            },
            super::shown(&self.file),
        ));
        for text in [summary::strays(&sum), summary::left_behind(&sum)].into_iter().flatten() {
            out::line(&text);
        }
        self.say_why();
        Ok(Some(summary::code(&sum)))
    }

    /// Follows the rollout to its end, printing what is journalled.
    fn headless(mut self) -> Outcome {
        // Which run was told to stop: one that gives way to an amended plan may not have heard it.
        let mut told = None;
        while self.goes_on()? {
            let stopping = told == Some(self.runs);
            let hung_up = self.signals.is_hangup() && self.args.on_hangup == OnHangup::Stop;
            if !stopping && (self.signals.is_end() || hung_up || self.is_needed()) {
                // A full queue takes it the next time round.
                let first = told.is_none();
                told = self.engine.send(Command::Stop).map(|_| self.runs);
                if first && told.is_some() && self.engine.ended().is_none() {
                    out::say("stopping at a safe point; a second Ctrl-C ends at once");
                }
            }
            self.world.pause(50);
        }
        let sum = self.summary();
        if self.args.json.json {
            out::json(&sum);
        } else {
            summary::closing(&self.world.plan.id, &sum);
        }
        self.say_why();
        self.world.shut_down();
        Ok(summary::code(&sum))
    }

    /// `--exit-when-needed`, and only an operator can go on.
    fn is_needed(&self) -> bool {
        let waits = |p| matches!(p, Phase::NeedsOperator | Phase::AwaitingOperator | Phase::Paused);
        self.args.exit_when_needed && waits(self.engine.snapshot().phase)
    }

    /// Why it did not complete, for a person.
    fn say_why(&self) {
        match self.engine.ended() {
            Some(End::Failed(why)) => out::say(&format!("failed: {why}")),
            Some(End::Fenced(why)) => out::say(&format!("stopped, another runner has it: {why}")),
            Some(End::Stopped) if self.holds_writes() => {
                out::say("stopped while YOUR SWITCH HOLDS WRITES; `tidegate resume` gives them back");
            }
            Some(End::Stopped) => out::say("stopped at a safe point; `tidegate resume` goes on"),
            Some(End::Completed | End::RolledBack | End::Amended) | None => {}
        }
    }

    /// The last word that applications were told, as far as the journal's copy has it, is to hold writes.
    fn holds_writes(&self) -> bool {
        let records = crate::journal::read_file(&self.file, None).map(|(records, _)| records).unwrap_or_default();
        records
            .iter()
            .rfind(|r| r.kind == "switch_called")
            .is_some_and(|r| r.body.get("writes") == Some(&"held".into()))
    }

    fn summary(&self) -> Value {
        let s = self.engine.snapshot();
        let r = s.reconcile.first().cloned().unwrap_or_default();
        // The journal's copy has every stage and every comparison, those before a resume too.
        let records = crate::journal::read_file(&self.file, None).map(|(records, _)| records).unwrap_or_default();
        let here = json!({
            "matched": r.matched, "missing": r.missing, "extra": r.extra, "differing": r.differing,
            "checked_ratio": r.checked,
        });
        let silent = self.world.plan.is_unreported(!s.applications.is_empty());
        let told = |n: u64| (!silent).then_some(n);
        let documents = if r.matched.is_some() { here } else { summary::compared(&records).unwrap_or(here) };
        json!({
            "kind": "summary",
            "outcome": End::outcome(self.engine.ended().as_ref(), s.traffic.stray),
            "documents": documents,
            "writes": {
                "acknowledged": told(s.traffic.acknowledged),
                "lost": s.traffic.lost,
                "stale": told(s.traffic.stale_owner),
                "stale_copy": told(s.traffic.stale_copy),
                "stray": (!self.world.plan.observes()).then_some(s.traffic.stray),
            },
            "stranded": summary::stranded(&s),
            "stages": summary::stages(&records),
        })
    }
}

/// A running engine as the dashboard's source.
struct LiveSource<'a, 'r> {
    rollout: &'a mut Rollout<'r>,
    replies: Vec<(u64, Receiver<Reply>)>,
    problems: Vec<String>,
    /// It could not be taken up again.
    failed: Option<Failure>,
}

impl Source for LiveSource<'_, '_> {
    fn frame(&mut self, _elapsed: Duration) -> Arc<Snapshot> {
        // Between two plans the screen stands still for a moment.
        if self.failed.is_none()
            && let Err(failure) = self.rollout.goes_on()
        {
            self.problems.push(failure.text.clone());
            self.failed = Some(failure);
        }
        self.rollout.engine.snapshot()
    }

    fn send(&mut self, id: u64, cmd: Command) {
        // Without a receiver the dashboard says after a while that the outcome is unknown.
        match self.rollout.engine.send(cmd) {
            Some(reply) => self.replies.push((id, reply)),
            None => self.problems.push("the rollout takes no commands now".to_owned()),
        }
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        answered(&mut self.replies)
    }

    fn trace(&mut self, ask: TraceAsk) -> Result<(), String> {
        match self.rollout.engine.trace(ask) {
            true => Ok(()),
            false => Err("the rollout has ended here; `tidegate trace PLAN KEY` looks from outside".to_owned()),
        }
    }

    fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn finished(&self) -> bool {
        self.rollout.engine.ended().is_some_and(|end| self.failed.is_some() || end != End::Amended)
    }
}

//! The command line: one file a subcommand. It parses, calls the rooms below and prints; decisions are made elsewhere.
//!
//! Exit codes: 0 completed (check and verify: clean), 1 failed (verify: differences), 2 bad usage or an invalid file, 3 rolled back
//! and verified, 4 an operator is needed. No connection string ever reaches an output.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan;
#[cfg(feature = "mongo")]
use crate::runtime::Micros;

#[cfg(feature = "mongo")]
mod amend;
mod check;
#[cfg(feature = "mongo")]
mod cleanup;
mod dashboard;
mod drill;
#[cfg(feature = "mongo")]
mod explain;
#[cfg(feature = "mongo")]
mod hand_over;
mod journal;
mod keys;
#[cfg(feature = "mongo")]
mod live;
mod logs;
mod look;
#[cfg(feature = "mongo")]
mod onlooker;
mod out;
mod pace;
#[cfg(feature = "mongo")]
mod preflight;
#[cfg(feature = "mongo")]
mod rehearse;
#[cfg(feature = "mongo")]
mod repair;
#[cfg(feature = "mongo")]
mod run;
mod scenarios;
mod signals;
#[cfg(feature = "mongo")]
mod status;
mod summary;
mod themes;
#[cfg(feature = "mongo")]
mod trace;
#[cfg(feature = "mongo")]
mod verify;
#[cfg(feature = "mongo")]
mod watch;
#[cfg(feature = "mongo")]
mod workload;

/// Completed; for check and verify: clean.
const DONE: u8 = 0;
/// It failed; for verify: differences.
const FAILED: u8 = 1;
/// Bad usage, or a file that is not valid.
const USAGE: u8 = 2;
/// Rolled back, compared and recovered.
const ROLLED_BACK: u8 = 3;
/// An operator is needed.
const NEEDS_OPERATOR: u8 = 4;

/// Carries live MongoDB migrations stage by stage, watched and steered from a terminal.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Practise a rollout on an embedded cluster; needs no server
    Drill(drill::DrillArgs),
    /// Carry out a plan's rollout
    #[cfg(feature = "mongo")]
    Run(run::RunArgs),
    /// Take up a rollout that was stopped or cut off, here or elsewhere
    #[cfg(feature = "mongo")]
    Resume(run::ResumeArgs),
    /// Watch a rollout that runs elsewhere, and steer it
    #[cfg(feature = "mongo")]
    Watch(watch::WatchArgs),
    /// Say how a rollout stands, from its records alone
    #[cfg(feature = "mongo")]
    Status(status::StatusArgs),
    /// Change gates, triggers, throttle, soak, windows, freezes or questions of a rollout that is under way
    #[cfg(feature = "mongo")]
    Amend(amend::AmendArgs),
    /// Bring a rollout back to legacy, from whatever it is doing
    #[cfg(feature = "mongo")]
    Rollback(run::RollbackArgs),
    /// Mend what a comparison or a stray has shown, and resolve what only a person can
    #[cfg(feature = "mongo")]
    Repair(repair::RepairArgs),
    /// Check a plan, and whether its clusters and documents are fit for it; changes nothing
    Check(check::CheckArgs),
    /// Carry out every stage on the embedded cluster, forward and back, with documents drawn from the real collection
    #[cfg(feature = "mongo")]
    Rehearse(rehearse::RehearseArgs),
    /// Compare both sides of a rollout, document by document
    #[cfg(feature = "mongo")]
    Verify(verify::VerifyArgs),
    /// Trace one document: both versions, its owner, its changes, its records, the steps that touch it
    #[cfg(feature = "mongo")]
    Trace(trace::TraceArgs),
    /// List what a finished rollout has left behind, and take it away
    #[cfg(feature = "mongo")]
    Cleanup(cleanup::CleanupArgs),
    /// Run the simulated application against a real cluster, through the route
    #[cfg(feature = "mongo")]
    Workload(workload::WorkloadArgs),
    /// Verify or show a journal file
    Journal(journal::JournalArgs),
    /// List the scenarios that come with tidegate
    Scenarios(Json),
    /// List the themes that come with tidegate
    Themes(Json),
}

/// `--json`, which every subcommand has.
#[derive(Args, Debug, Clone, Copy)]
struct Json {
    /// Print JSON for machines instead of text for people
    #[arg(long)]
    json: bool,
}

/// `--theme`, which everything with a dashboard has.
#[derive(Args, Debug, Clone)]
struct ThemeArg {
    /// A theme's name (see `tidegate themes`) or a theme file
    #[arg(long, value_name = "NAME|FILE")]
    theme: Option<String>,
}

/// `--advance`.
#[derive(ValueEnum, Debug, Clone, Copy)]
enum AdvanceArg {
    /// Stages advance by themselves once their gates hold
    Auto,
    /// An operator advances every stage
    Operator,
}

impl From<AdvanceArg> for plan::Advance {
    fn from(a: AdvanceArg) -> plan::Advance {
        match a {
            AdvanceArg::Auto => plan::Advance::Auto,
            AdvanceArg::Operator => plan::Advance::Operator,
        }
    }
}

/// Why a subcommand did not do what was asked: a text for people and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(text: impl ToString) -> Failure {
        Failure { code: FAILED, text: text.to_string() }
    }

    fn usage(text: impl ToString) -> Failure {
        Failure { code: USAGE, text: text.to_string() }
    }
}

type Outcome = Result<u8, Failure>;

/// Parses the command line, carries it out and answers with the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // clap answers --help, --version and bad usage itself, with 0 and 2.
    let cli = Cli::parse();
    let outcome = logs::begin().and_then(|()| dispatch(cli.command));
    let code = outcome.unwrap_or_else(|failure| {
        out::say(&failure.text);
        failure.code
    });
    out::flush();
    ExitCode::from(code)
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Drill(args) => drill::run(&args),
        #[cfg(feature = "mongo")]
        Command::Run(args) => run::run(args),
        #[cfg(feature = "mongo")]
        Command::Resume(args) => run::resume(args),
        #[cfg(feature = "mongo")]
        Command::Watch(args) => watch::run(&args),
        #[cfg(feature = "mongo")]
        Command::Status(args) => status::run(&args),
        #[cfg(feature = "mongo")]
        Command::Amend(args) => amend::run(&args),
        #[cfg(feature = "mongo")]
        Command::Rollback(args) => run::rollback(args),
        #[cfg(feature = "mongo")]
        Command::Repair(args) => repair::run(args),
        Command::Check(args) => check::run(&args),
        #[cfg(feature = "mongo")]
        Command::Rehearse(args) => rehearse::run(&args),
        #[cfg(feature = "mongo")]
        Command::Verify(args) => verify::run(&args),
        #[cfg(feature = "mongo")]
        Command::Trace(args) => trace::run(&args),
        #[cfg(feature = "mongo")]
        Command::Cleanup(args) => cleanup::run(&args),
        #[cfg(feature = "mongo")]
        Command::Workload(args) => workload::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Scenarios(json) => scenarios::run(json),
        Command::Themes(json) => themes::run(json),
    }
}

/// Reads a file that a person named.
fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("{} cannot be read: {e}", shown(path))))
}

/// A path made safe to show.
fn shown(path: &Path) -> String {
    crate::scrub::line(&path.display().to_string())
}

/// Reads and checks a plan; what is wrong with it is the failure's text.
fn read_plan(path: &Path) -> Result<plan::Plan, Failure> {
    let text = read_file(path)?;
    plan::Plan::parse(&text, &path.display().to_string()).map_err(|d| Failure::usage(d.render(out::colour_on_stderr())))
}

/// As [`read_plan`], for `what`, which is about routes, records or copies of tidegate's own: a rollout that is only observed has none.
fn read_moving_plan(path: &Path, what: &str) -> Result<plan::Plan, Failure> {
    let plan = read_plan(path)?;
    if plan.observes() {
        return Err(Failure::usage(format!(
            "`tidegate {what}` has nothing to do with `{}`: its plan only observes, another tool migrates, and nothing is written on its \
             clusters (`check`, `run`, `resume` and `verify` work, and `tidegate journal` shows its records)",
            plan.id
        )));
    }
    Ok(plan)
}

/// A duration on the command line, as plans write it.
#[cfg(feature = "mongo")]
fn duration(text: &str) -> Result<Micros, String> {
    plan::reader::parse_duration(text).ok_or_else(|| "expected a duration like `90s`, `10m` or `1h30m`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

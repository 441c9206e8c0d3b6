//! `tidegate journal verify|show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{DONE, Failure, Json, Outcome, out, shown, summary};
use crate::journal::read_file;

#[derive(Args, Debug)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Check that no record was changed, removed, reordered or cut off
    Verify(FileArgs),
    /// Print the records
    Show(FileArgs),
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The journal
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The hash of the last record, kept elsewhere
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &JournalArgs) -> Outcome {
    let (What::Verify(a) | What::Show(a)) = &args.what;
    let (records, report) =
        read_file(&a.file, a.head.as_deref()).map_err(|e| Failure::new(format!("{}: {e}", shown(&a.file))))?;
    for warning in &report.warnings {
        out::say(&format!("warning: {warning}"));
    }
    match args.what {
        What::Show(_) => {
            for r in &records {
                out::line(&if a.json.json { r.line() } else { summary::human(r) });
                if out::is_gone() {
                    break;
                }
            }
        }
        What::Verify(_) if a.json.json => out::json(&json!({
            "kind": "journal", "records": report.records, "head": { "seq": report.head_seq, "hash": report.head_hash },
            "closed": report.closed, "torn_tail": report.torn_tail, "warnings": report.warnings,
        })),
        What::Verify(_) => {
            let end = if report.closed { "closed" } else { "not closed: its rollout is not over" };
            out::line(&format!("{}: {} records, intact, {end}", shown(&a.file), report.records));
            out::line(&format!("head {} {}", report.head_seq, report.head_hash));
        }
    }
    Ok(DONE)
}

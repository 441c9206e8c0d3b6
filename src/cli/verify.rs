//! `tidegate verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::live::World;
use super::{DONE, FAILED, Failure, Json, Outcome, out, read_plan};
use crate::engine::{self, Answer};

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &VerifyArgs) -> Outcome {
    let world = World::connect(read_plan(&args.plan)?)?;
    let deps = world.deps();
    let found = world.block_on(engine::verify(&deps)).map_err(Failure::new)?;
    let through = jiff::Timestamp::from_millisecond(found.through_ms).map_or_else(|_| "?".into(), |t| t.to_string());
    let one = |a: &Answer| json!({ "kind": a.kind, "name": a.name, "alike": a.alike, "text": a.text });
    if args.json.json {
        let answers: Vec<_> = found.answers.iter().map(one).collect();
        out::json(&json!({
            "kind": "verify", "clean": found.is_clean(), "matched": found.matched, "missing": found.missing,
            "extra": found.extra, "differing": found.differing, "verified_through": through,
            "examples": found.examples, "answers": answers, "asked": found.asked[0], "in_flight": found.asked[1],
            "lacking": found.lacking,
        }));
    } else {
        let c = &world.plan.collections[0];
        let verdict = if found.is_clean() { "clean" } else { "DIFFERENCES" };
        out::line(&format!("{} and {}: {verdict}, verified through {through}", c.legacy, c.next));
        out::line(&format!(
            "{} matched, {} missing, {} extra, {} differing",
            out::thousands(found.matched),
            out::thousands(found.missing),
            out::thousands(found.extra),
            out::thousands(found.differing),
        ));
        for example in &found.examples {
            out::line(&format!("  {}", crate::scrub::short(example, 200)));
        }
        if !found.answers.is_empty() {
            let [asked, flight] = found.asked.map(out::thousands);
            let verdict = if found.in_flux { ", TOO MANY" } else { "" };
            out::line(&format!("asked both servers about {asked} documents, {flight} in flight{verdict}"));
        }
        if let Some(lacking) = &found.lacking {
            out::line(&format!("  LACKING: {lacking}"));
        }
        for a in &found.answers {
            out::line(&format!("  {}{}", if a.alike { "" } else { "DIFFERENT: " }, a.text));
        }
        if !found.documents_match() && !world.plan.observes() {
            out::say("`tidegate repair PLAN` says what can be mended, and how");
        }
    }
    let code = if found.is_clean() { DONE } else { FAILED };
    world.shut_down();
    Ok(code)
}

//! `tidegate verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::live::World;
use super::{DONE, FAILED, Failure, Json, Outcome, out, read_plan};
use crate::engine;

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
    if args.json.json {
        out::json(&json!({
            "kind": "verify", "clean": found.is_clean(), "matched": found.matched, "missing": found.missing,
            "extra": found.extra, "differing": found.differing, "verified_through": through,
            "examples": found.examples,
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
        if !found.is_clean() && !world.plan.observes() {
            out::say("`tidegate repair PLAN` says what can be mended, and how");
        }
    }
    let code = if found.is_clean() { DONE } else { FAILED };
    world.shut_down();
    Ok(code)
}

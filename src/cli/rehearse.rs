//! `tidegate rehearse`: draws documents of legacy and carries them through every stage on the embedded cluster, forward and back.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::live::draw;
use super::{DONE, FAILED, Failure, Json, NEEDS_OPERATOR, Outcome, out, read_moving_plan};
use crate::drill::{Pass, Proof, Rehearsal, Rehearse, Way, rehearse};
use crate::plan::Plan;

/// Refused documents that are named; `--json` names them all.
const SHOWN: usize = 5;

#[derive(Args, Debug)]
pub(super) struct RehearseArgs {
    /// The plan
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Documents of legacy that are drawn; they are read, and stay in this process
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample: u32,
    /// The seed of everything random: another one edits other documents at other moments
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Writes a second of virtual time, through the route, to documents drawn at random
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    edits: u32,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &RehearseArgs) -> Outcome {
    let plan = read_moving_plan(&args.plan, "rehearse")?;
    let sample = draw(&plan, args.sample)?;
    let json = args.json.json;
    if !json {
        head(&plan, sample.documents.len());
    }
    let how = Rehearse { seed: args.seed, edits_per_s: args.edits };
    let told = |p: &Pass| if json { out::json(&object(p)) } else { out::line(&line(p)) };
    let found = rehearse(&plan, &sample, how, told).map_err(Failure::new)?;
    if json {
        out::json(&summary(&plan, &found));
    } else {
        tail(&found);
    }
    Ok(match (found.failed(), found.is_clean()) {
        (0, true) => DONE,
        (0, false) => NEEDS_OPERATOR,
        _ => FAILED,
    })
}

fn head(plan: &Plan, drawn: usize) {
    out::line(&format!("{} version {}: {}", plan.id, plan.version, plan.title));
    if let Some(c) = plan.collections.first() {
        let drawn = out::thousands(drawn as u64);
        out::line(&format!("{drawn} documents of {}, on an embedded cluster", c.legacy));
    }
    let edited = if plan.in_place() { "; in place nothing is edited" } else { "" };
    out::line(&format!("not rehearsed: gates, triggers, change windows, hooks, validators, expiry, speed{edited}"));
    out::line("");
}

/// `ok    back from half, soft: …`.
fn line(p: &Pass) -> String {
    let what = match p.way {
        Way::Through => "to the end".to_owned(),
        way => format!("back from {}, {}", crate::scrub::short(&p.stage, 40), way.word()),
    };
    match &p.outcome {
        Ok(proof) => format!("ok    {what:<32} {}", said(p, proof)),
        Err(why) => format!("FAIL  {what:<32} {}", crate::scrub::short(why, 400)),
    }
}

fn said(p: &Pass, proof: &Proof) -> String {
    let mut parts = vec![format!("{} documents byte for byte", out::thousands(proof.exact))];
    if proof.reordered > 0 {
        parts.push(format!("{} up to the order of fields", out::thousands(proof.reordered)));
    }
    if proof.lossy > 0 {
        parts.push(format!("{} without what a lossy step loses", out::thousands(proof.lossy)));
    }
    let [legacy, next] = p.edits;
    format!("{}; {legacy} edits on legacy, {next} on next", parts.join(", "))
}

fn tail(found: &Rehearsal) {
    out::line("");
    for why in found.refused.iter().take(SHOWN) {
        out::line(&format!("refused: {why}"));
    }
    if found.refused.len() > SHOWN {
        out::line(&format!("refused: {} more (--json names them all)", found.refused.len() - SHOWN));
    }
    for (n, what) in [
        (found.masked_out, "no longer fit the steps once they are masked, and were left out"),
        (found.already, "have next's shape already, and were left out"),
        (found.unedited, "would not survive a field more, and were carried without edits"),
    ] {
        if n > 0 {
            out::line(&format!("{} documents {what}", out::thousands(n as u64)));
        }
    }
    out::line(&match (found.failed(), found.refused.len()) {
        (0, 0) => format!("{} rollouts, and everything came where it belongs", found.passes.len()),
        (0, n) => format!("{} rollouts went well without the {n} documents that the steps refuse", found.passes.len()),
        (n, _) => format!("{n} of {} rollouts FAILED", found.passes.len()),
    });
}

fn object(p: &Pass) -> Value {
    let mut object = json!({
        "kind": "rehearsed", "stage": p.stage, "way": p.way.word(), "ok": p.outcome.is_ok(),
        "virtual_s": p.took.as_secs_f64(), "edits": { "legacy": p.edits[0], "next": p.edits[1] },
    });
    match &p.outcome {
        Ok(f) => {
            object["documents"] =
                json!({ "all": f.documents(), "exact": f.exact, "reordered": f.reordered, "lossy": f.lossy });
        }
        Err(why) => object["why"] = json!(why),
    }
    object
}

fn summary(plan: &Plan, found: &Rehearsal) -> Value {
    json!({
        "kind": "summary", "ok": found.is_clean(), "plan": { "id": plan.id, "version": plan.version, "hash": plan.hash },
        "documents": found.documents, "refused": found.refused, "masked_out": found.masked_out, "already": found.already, "unedited": found.unedited,
        "rollouts": found.passes.len(), "failed": found.failed(),
    })
}

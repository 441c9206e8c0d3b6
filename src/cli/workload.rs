//! `tidegate workload`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::live::{APPLICATION, World};
use super::signals::Signals;
use super::{DONE, FAILED, Failure, Json, Outcome, out, read_moving_plan};
use crate::cluster::{AdminDone, AdminOp, CollKind, Db, Ns};
use crate::runtime::Micros;
use crate::workload::{Config, Ids, LoadError, Shapes, Workload, prepare};

#[derive(Args, Debug)]
pub(super) struct WorkloadArgs {
    /// The plan; the application knows the steps of `orders-v2`
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// Load so many orders first, into an empty collection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    documents: Option<u64>,
    /// Operations a second of all processes together
    #[arg(long, value_name = "N", default_value = "400", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    ops: u32,
    /// Processes; each follows the route by itself
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=100))]
    processes: u32,
    /// The share of reads
    #[arg(long, value_name = "N", default_value = "75", value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// What the orders' `_id`s are like: single values of several types, or documents with a region (us, eu, ap, sa) and a number
    #[arg(long, value_enum, default_value = "mixed")]
    ids: IdsArg,
    /// End after this time, for example 90s or 10m
    #[arg(long, value_name = "D", value_parser = super::duration)]
    duration: Option<Micros>,
    /// End once legacy is quarantined, or next isolated after a rollback
    #[arg(long)]
    until_finished: bool,
    #[command(flatten)]
    json: Json,
}

/// `--ids`.
#[derive(ValueEnum, Debug, Clone, Copy)]
enum IdsArg {
    Mixed,
    Region,
}

impl From<IdsArg> for Ids {
    fn from(a: IdsArg) -> Ids {
        match a {
            IdsArg::Mixed => Ids::Mixed,
            IdsArg::Region => Ids::Region,
        }
    }
}

/// How often it is looked whether the rollout is finished.
const LOOK_EVERY: Micros = Micros::from_secs(1);

pub(super) fn run(args: &WorkloadArgs) -> Outcome {
    let plan = read_moving_plan(&args.plan, "workload")?;
    let collection = plan.collections.first().ok_or_else(|| Failure::usage("the plan has no collection"))?;
    let shapes = Shapes::of(collection).map_err(Failure::usage)?;
    let (legacy, next) = (collection.legacy.clone(), collection.next.clone());
    let world = World::connect(plan)?;
    let signals = Signals::listen()?;
    let progress = |n: u64| {
        if n.is_multiple_of(10_000) {
            out::say(&format!("loaded {} orders into {legacy}", out::thousands(n)));
        }
    };
    let ids = Ids::from(args.ids);
    let documents = world
        .block_on(prepare(&world.rt, &world.clusters[0], &legacy, shapes, (args.documents, ids), progress))
        .map_err(|e| match e {
            LoadError::Empty { .. } => Failure::usage(format!("{e} with --documents")),
            e => Failure::new(e),
        })?;
    let config = Config {
        documents,
        ops_per_s: args.ops,
        read_percent: args.read_percent,
        processes: args.processes,
        ids,
        ..Config::default()
    };
    let app =
        Workload::start(&world.rt, APPLICATION, world.clusters.clone(), &world.plan, config).map_err(Failure::usage)?;
    out::say(&format!(
        "{} orders in {legacy}; {} processes follow the route of `{}`, writing as soon as there is one",
        out::thousands(documents),
        args.processes,
        world.plan.id,
    ));
    let began = world.rt.now();
    let mut looked = began;
    while !signals.is_end() && !signals.is_hangup() {
        let now = world.rt.now();
        if args.duration.is_some_and(|d| now.since(began) >= d) {
            break;
        }
        if args.until_finished && now.since(looked) >= LOOK_EVERY {
            looked = now;
            let sides = world.clusters.iter().zip([&legacy, &next]);
            let is_view = |(db, ns): (&Db, &Ns)| {
                let op = AdminOp::Kind { ns: ns.clone() };
                // A cluster that does not answer now is asked again.
                matches!(world.block_on(db.admin(&op)), Ok(AdminDone::Kind(CollKind::View)))
            };
            if sides.into_iter().any(is_view) {
                break;
            }
        }
        world.pause(50);
    }
    out::say("stopping, then comparing every order with what was acknowledged");
    world.block_on(app.stop());
    let found = world
        .block_on(app.verify_owned())
        .map_err(|e| Failure::new(format!("the last comparison could not be made: {e}")))?;
    let t = app.totals();
    let lost = t.lost.max(0).unsigned_abs() + found.lost;
    let examples: Vec<String> =
        found.examples.iter().chain(&app.oracle().violations()).take(10).map(|e| crate::scrub::short(e, 200)).collect();
    if args.json.json {
        out::json(&json!({
            "kind": "workload", "acknowledged": t.acknowledged, "lost": lost, "stale": t.stale_owner,
            "stale_copy": t.stale_copy, "shadow": { "compared": t.shadow_compared, "different": t.shadow_different },
            "checked": found.checked, "examples": examples,
            "stranded": found.stranded.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    } else {
        out::line(&format!(
            "{} writes acknowledged, {} lost, {} stale reads from the owner; {} orders compared",
            t.acknowledged,
            lost,
            t.stale_owner,
            out::thousands(found.checked),
        ));
        if !found.stranded.is_empty() {
            out::line(&format!(
                "{} orders have a last version that was left behind on next and is not on legacy:",
                out::thousands(found.stranded.len() as u64)
            ));
            for key in found.stranded.iter().take(20) {
                out::line(&format!("  {key}"));
            }
        }
        for example in &examples {
            out::line(&format!("  {example}"));
        }
    }
    world.shut_down();
    Ok(if lost == 0 { DONE } else { FAILED })
}

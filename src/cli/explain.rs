//! `tidegate rollback --explain`.

use std::path::Path;
use std::sync::Arc;

use super::live::World;
use super::{DONE, Failure, Json, Outcome, out, read_moving_plan};
use crate::engine::{self, Deps};
use crate::journal::ClusterStore;

pub(super) fn run(plan: &Path, as_json: Json) -> Outcome {
    let world = World::connect(read_moving_plan(plan, "rollback")?)?;
    let journal = ClusterStore::new(world.clusters[0].clone(), world.rt.clone(), &world.plan.id);
    let deps = Deps { journal: Arc::new(journal), ..world.deps() };
    let way = world.block_on(engine::explain(&deps)).map_err(Failure::new)?;
    if as_json.json {
        out::json(&way.to_json());
    } else {
        out::line(way.to_script().trim_end());
    }
    world.shut_down();
    Ok(DONE)
}

//! `tidegate scenarios`, and finding the one that a drill names.

use std::path::Path;

use serde_json::json;

use super::{DONE, Failure, Json, Outcome, out, read_file, read_moving_plan};
use crate::drill::{Scenario, builtin};
use crate::plan::Plan;

pub(super) fn run(json: Json) -> Outcome {
    for b in builtin() {
        // A test parses every scenario that comes with tidegate.
        let s = Scenario::parse(b.scenario, b.id).map_err(Failure::new)?;
        if json.json {
            out::json(&json!({
                "kind": "scenario", "id": b.id, "title": s.brief.title, "difficulty": s.difficulty.name(),
                "goal": s.brief.goal,
            }));
        } else {
            out::line(&format!("{:<16} {:<13} {}", b.id, s.difficulty.name(), s.brief.title));
            if !s.brief.goal.is_empty() {
                out::line(&format!("{:<30} {}", "", s.brief.goal));
            }
        }
    }
    Ok(DONE)
}

/// A scenario with its plan, by name or as a directory with `scenario.toml`.
pub(super) fn find(name: &str, plan: Option<&Path>) -> Result<(Scenario, Plan), Failure> {
    let colour = out::colour_on_stderr();
    if let Some(b) = builtin().iter().find(|b| b.id == name) {
        let scenario = Scenario::parse(b.scenario, "scenario.toml").map_err(|d| Failure::new(d.render(colour)))?;
        let plan = match plan {
            Some(path) => read_moving_plan(path, "drill")?,
            None => Plan::parse(b.plan, "plan.toml").map_err(|d| Failure::new(d.render(colour)))?,
        };
        return Ok((scenario, plan));
    }
    let dir = Path::new(name);
    if !dir.is_dir() {
        let known = crate::plan::reader::nearest(name, builtin().iter().map(|b| b.id));
        let name = crate::scrub::short(name, 80);
        return Err(Failure::usage(format!(
            "there is no scenario `{name}` and no directory of that name with a scenario.toml: {known}"
        )));
    }
    let path = dir.join("scenario.toml");
    let text = read_file(&path)?;
    let scenario = Scenario::parse(&text, &path.display().to_string()).map_err(|d| Failure::usage(d.render(colour)))?;
    let beside = dir.join(&scenario.world.plan);
    let plan = read_moving_plan(plan.unwrap_or(&beside), "drill")?;
    Ok((scenario, plan))
}

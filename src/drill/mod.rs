//! Drills: rollouts on the embedded cluster, driven by a scenario. No network socket.

mod exercise;
mod scenario;

pub use exercise::{APPLICATION, Drill, DrillError, RUNNER, Settings, Summary};
pub use scenario::{Brief, Builtin, Difficulty, EndsWhen, Scenario, World, builtin};

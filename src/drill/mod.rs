//! Drills: rollouts on the embedded cluster, driven by a scenario. No network socket.

mod scenario;

pub use scenario::{Brief, Builtin, Difficulty, EndsWhen, Scenario, World, builtin};

//! Drills: rollouts on the embedded cluster, driven by a scenario and what it lets happen. No network socket.

mod exercise;
mod inject;
mod inject_parse;
mod rehearsal;
mod scenario;

pub use exercise::{APPLICATION, Drill, DrillError, INJECTS, RUNNER, Settings, Summary, stranded};
pub use inject::{Action, Condition, Inject, Measure, Member, READABLE, Start, Target};
pub use rehearsal::{Pass, Proof, Rehearsal, RehearsalError, Rehearse, Sample, Way, rehearse};
pub use scenario::{Brief, Builtin, Difficulty, EndsWhen, Scenario, Scripts, World, builtin};

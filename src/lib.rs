//! tidegate carries live MongoDB migrations stage by stage, watched and steered from a terminal.
//!
//! docs/architecture.md is the map of the rooms below and of what each promises.

pub mod cli;
pub mod cluster;
pub mod drill;
pub mod engine;
pub mod gate;
pub mod hooks;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod rollout;
pub mod route;
pub mod runtime;
pub mod scrub;
pub mod snapshot;
pub mod transform;
pub mod tui;
pub mod workload;

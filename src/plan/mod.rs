//! The plan: what to migrate, how to verify it, and when it may go on.
//!
//! Types, parsing with positions, and every check that can be made without a cluster. A plan that passes is runnable; an unknown
//! key is an error.

mod amend;
mod calendar;
mod calendar_parse;
mod canonical;
mod collection;
mod declared;
mod diagnostics;
mod env;
mod gate_parse;
mod gates;
mod hook;
mod hook_parse;
mod metrics_names;
mod observe;
mod parse;
mod pilot;
mod pipeline;
mod privacy;
mod reach;
pub(crate) mod reader;
mod repair;
mod shape;
mod slo;
mod stages;
mod steps;
mod switch;
mod throttle;
mod types;

pub use amend::amendment;
pub use calendar::{Calendar, Freeze, Opening, Window};
pub use declared::{Computed, Declared, Query, Reference, Total};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use env::{EnvError, resolve_env};
pub use gates::{Action, Bound, Clear, Gate, RollbackMode, Trigger};
pub use hook::{Hook, HookCall, Occasion, Switch};
pub use metrics_names::{METRICS, MetricName, UnitKind, metric};
pub use pipeline::Pipeline;
pub(crate) use pipeline::{Call, Expr, PipelineStage};
pub use repair::{RepairAction, RepairKind, RepairTemplate};
pub use throttle::Throttle;
pub use types::*;

//! Whether a gate can get its samples: from the traffic of its stage and, when the plan says it, from how much there is of it.

use std::ops::Range;

use super::gates::{Bound, Gate};
use super::reader::{Reader, duration_text};
use super::types::{Expects, PilotLevel};
use crate::route::Side;

/// Where a stage sends its operations, percent.
#[derive(Clone, Copy)]
pub(super) struct Traffic {
    pub(super) shadow: u8,
    pub(super) reads: u8,
    pub(super) writes: u8,
    pub(super) pilot: PilotLevel,
}

impl Traffic {
    /// The share of the application's operations that is measured on a side, at most. A shadow read is measured on the other side too.
    fn share(self, read: bool, side: Side) -> f64 {
        let next = f64::from(if read { self.reads } else { self.writes }) / 100.0;
        // How much of it a cohort makes up is not known: it may be all that was not on next.
        let ahead = self.pilot >= if read { PilotLevel::Reads } else { PilotLevel::Writes };
        let own = match side {
            Side::Next if ahead => 1.0,
            Side::Next => next,
            Side::Legacy => 1.0 - next,
        };
        let shadow = if read { f64::from(self.shadow) / 100.0 } else { 0.0 };
        own + (1.0 - own) * shadow
    }
}

/// Refuses a gate whose `window` cannot hold the samples of its `metric`. Gauges are not looked at: tidegate itself sees to their
/// samples.
pub(super) fn check(
    r: &mut Reader,
    gate: &Gate,
    metric: Range<usize>,
    window: Range<usize>,
    traffic: Traffic,
    expects: &Expects,
) {
    let mut parts = gate.metric.split('.');
    let (Some("latency" | "errors" | "throughput" | "slo"), Some(kind)) = (parts.next(), parts.next()) else { return };
    let read = kind == "read";
    let sides: &[Side] = match (gate.bound, gate.side) {
        (Bound::MaxRatioToLegacy(_) | Bound::LikeLegacy { .. }, _) => &[Side::Next, Side::Legacy],
        (_, Some(Side::Next)) => &[Side::Next],
        (_, Some(Side::Legacy)) => &[Side::Legacy],
        // Both sides together.
        (_, None) => &[],
    };
    let shares: Vec<(String, f64)> = if sides.is_empty() {
        vec![(format!("all {kind}s"), 1.0)]
    } else {
        let share = |s: &Side| (format!("{kind}s on {}", s.name()), traffic.share(read, *s));
        sides.iter().map(share).collect()
    };
    let rate = if read { expects.reads } else { expects.writes };
    for (what, share) in shares {
        if share <= 0.0 {
            let message = format!("there are no {what} in this stage to measure");
            let help = if what.ends_with("legacy") {
                "use a fixed limit, or `versus = \"baseline\"`"
            } else if read {
                "send reads there: `reads` or `shadow`"
            } else {
                "send writes there: `writes`"
            };
            r.error(metric, message, "this gate never passes", Some(help.into()));
            return;
        }
        let Some(rate) = rate else { continue };
        let most = rate * share * gate.window.as_secs_f64();
        if most < gate.min_samples as f64 && !gate.metric.ends_with(".budget_left") {
            let message = format!("`window` holds at most {most:.0} {what}, and the gate needs {}", gate.min_samples);
            let expected = format!("{rate:.0} {kind}s a second, {:.0} % of them there", share * 100.0);
            let enough = gate.min_samples as f64 / (rate * share);
            let help = if enough <= 300.0 {
                let enough = crate::runtime::Micros::from_secs(enough.ceil() as u64);
                format!("a window of {} would do, or a larger share", duration_text(enough))
            } else {
                "no window is long enough: choose a lower percentile, or a larger share".into()
            };
            r.error(window, message, expected, Some(help));
            return;
        }
    }
}

//! The time of day that decisions are made by: read once, and from then on carried by the monotonic clock.
//!
//! A wall clock that is set, forwards or back, neither cuts a soak short nor draws it out.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::runtime::Rt;

/// Wall-clock milliseconds that move exactly as monotonic time does.
pub(super) struct Steady {
    rt: Rt,
    /// The time of day at the runtime's zero, milliseconds since the Unix epoch.
    base_ms: AtomicI64,
}

impl Steady {
    /// The wall clock as it is now.
    pub(super) fn new(rt: Rt) -> Steady {
        let base_ms = AtomicI64::new(rt.wall_ms() - rt.now().as_ms() as i64);
        Steady { rt, base_ms }
    }

    /// An earlier runner has written down `at_ms`: it is not before that, whatever this machine's clock says.
    pub(super) fn not_before(&self, at_ms: i64) {
        self.base_ms.fetch_max(at_ms - self.rt.now().as_ms() as i64, Ordering::SeqCst);
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.base_ms.load(Ordering::SeqCst) + self.rt.now().as_ms() as i64
    }
}

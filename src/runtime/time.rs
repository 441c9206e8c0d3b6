//! A span or a point of time in whole microseconds.

use std::fmt;
use std::ops::{Add, AddAssign, Mul, Sub};

/// Microseconds: a span, or a point measured from the runtime's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// No time at all.
    pub const ZERO: Micros = Micros(0);
    /// Longer than any run.
    pub const MAX: Micros = Micros(u64::MAX);

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Micros(ms * 1_000)
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Micros(s * 1_000_000)
    }

    /// Whole milliseconds, rounded down.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000
    }

    /// Seconds as a float, for display and rates only.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// `self - other`, or zero when `other` is later.
    #[must_use]
    pub const fn since(self, other: Micros) -> Micros {
        Micros(self.0.saturating_sub(other.0))
    }
}

impl Add for Micros {
    type Output = Micros;
    fn add(self, o: Micros) -> Micros {
        Micros(self.0.saturating_add(o.0))
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, o: Micros) {
        *self = *self + o;
    }
}

impl Sub for Micros {
    type Output = Micros;
    fn sub(self, o: Micros) -> Micros {
        self.since(o)
    }
}

impl Mul<u64> for Micros {
    type Output = Micros;
    fn mul(self, k: u64) -> Micros {
        Micros(self.0.saturating_mul(k))
    }
}

impl fmt::Display for Micros {
    /// A short human form: `850ms`, `12.4s`, `3m05s`, `2h07m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0;
        if us < 1_000 {
            write!(f, "{us}us")
        } else if us < 1_000_000 {
            write!(f, "{}ms", us / 1_000)
        } else if us < 60_000_000 {
            write!(f, "{}.{}s", us / 1_000_000, us / 100_000 % 10)
        } else if us < 3_600_000_000 {
            write!(f, "{}m{:02}s", us / 60_000_000, us / 1_000_000 % 60)
        } else {
            write!(f, "{}h{:02}m", us / 3_600_000_000, us / 60_000_000 % 60)
        }
    }
}

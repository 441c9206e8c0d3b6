//! The fixed logarithmic latency axis that histograms and heat maps share: 0.25 ms to 16.384 s, one bin below and one
//! above.

use crate::runtime::Micros;
use crate::snapshot::{HEAT_ROWS, LATENCY_BINS};

/// Where the axis begins: 0.25 ms.
pub const START: Micros = Micros(250);
const OCTAVES: u32 = HEAT_ROWS as u32 - 2;
const _: () = assert!(LATENCY_BINS == 4 * OCTAVES as usize + 2);

/// The octave row of a latency: 0 below the axis, [`HEAT_ROWS`]` - 1` above it.
#[must_use]
pub fn row(value: Micros) -> usize {
    match (value.0 / START.0).checked_ilog2() {
        None => 0,
        Some(octave) => octave.min(OCTAVES) as usize + 1,
    }
}

/// The quarter-octave bin of a latency: 0 below the axis, [`LATENCY_BINS`]` - 1` above it.
#[must_use]
pub fn bin(value: Micros) -> usize {
    let row = row(value);
    if row == 0 || row == HEAT_ROWS - 1 {
        return if row == 0 { 0 } else { LATENCY_BINS - 1 };
    }
    // v ≥ base · 2^(q/4) exactly when v⁴ ≥ base⁴ · 2^q; below 2^100 for the whole axis.
    let base = u128::from(START.0 << (row - 1)).pow(4);
    let v = u128::from(value.0).pow(4);
    let quarter = (1..4).filter(|q| v >= base << q).count();
    (row - 1) * 4 + quarter + 1
}

/// Where a bin begins, in microseconds; bin 0 begins at 0.
#[must_use]
pub fn bin_start(bin: usize) -> f64 {
    match bin {
        0 => 0.0,
        b => START.0 as f64 * ((b.min(LATENCY_BINS - 1) - 1) as f64 / 4.0).exp2(),
    }
}

/// Where a row begins, in microseconds; row 0 begins at 0.
#[must_use]
pub fn row_start(row: usize) -> f64 {
    match row {
        0 => 0.0,
        r => bin_start((r.min(HEAT_ROWS - 1) - 1) * 4 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bin_begins_where_it_says() {
        assert_eq!((bin(Micros(0)), bin(Micros(249)), bin(Micros(250))), (0, 0, 1));
        for b in 1..LATENCY_BINS {
            let edge = bin_start(b).ceil() as u64;
            assert_eq!(bin(Micros(edge)), b, "at {edge}");
            assert_eq!(bin(Micros(edge - 1)), b - 1, "just below {edge}");
        }
        assert_eq!(bin(Micros(16_383_999)), LATENCY_BINS - 2);
        assert_eq!(bin(Micros(16_384_000)), LATENCY_BINS - 1);
        assert_eq!(bin(Micros::MAX), LATENCY_BINS - 1);
    }

    #[test]
    fn rows_are_octaves_of_the_same_axis() {
        for r in 1..HEAT_ROWS {
            let edge = row_start(r) as u64;
            assert_eq!((row(Micros(edge)), row(Micros(edge - 1))), (r, r - 1));
        }
        for v in (0..20_000_000).step_by(997) {
            let (r, b) = (row(Micros(v)), bin(Micros(v)));
            assert_eq!(r, b.div_ceil(4), "{v}");
        }
    }
}

//! Sparklines: one glyph a value, a dot where there is none.

use crate::runtime::Micros;

/// Eight levels, few to many.
pub(crate) const LEVELS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// The glyph for `value` on a scale from 0 to `top`.
pub(crate) fn level(value: f64, top: f64) -> &'static str {
    if top <= 0.0 || !value.is_finite() {
        return LEVELS[0];
    }
    LEVELS[((value / top * 8.0) as usize).min(7)]
}

/// The newest `width` values, scaled from 0 to `top`. Missing ones are a blank, never the lowest level.
pub(crate) fn line(values: &[Option<Micros>], top: Micros, width: usize) -> String {
    let from = values.len().saturating_sub(width);
    values[from..].iter().map(|v| v.map_or(" ", |v| level(v.0 as f64, top.0 as f64))).collect()
}

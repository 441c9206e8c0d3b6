//! Latency now: legacy above the axis, next hanging below it, each side summing to 100 % of its own. The axis is logarithmic,
//! fixed and labelled; what lies outside is counted, not hidden.

use crate::runtime::Micros;
use crate::snapshot::{LATENCY_BINS, LatencyView, Snapshot};

use super::super::app::UiState;
use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::theme::Role;
use super::{kind, latency_gate};
use ratatui::layout::Rect;

/// Quarter octaves on the axis, without the two outside.
const INSIDE: usize = LATENCY_BINS - 2;
const OCTAVES: [&str; 16] =
    [".25", ".5", "1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1s", "2s", "4s", "8s"];

/// The quarter octave of a latency on the axis, 0 for 0.25 ms.
fn position(t: Micros) -> Option<usize> {
    let quarter = ((t.0 as f64 / 250.0).log2() * 4.0).floor();
    (quarter >= 0.0 && quarter < INSIDE as f64).then_some(quarter as usize)
}

fn summary(view: &LatencyView) -> String {
    if view.count == 0 {
        return "none measured".into();
    }
    let mut text = format!("{} in 60s", format::grouped(view.count));
    if let Some(max) = view.max {
        text.push_str(&format!(", max {}", format::latency(max)));
    }
    for (n, what) in [(view.bins[0], "< .25ms"), (view.bins[LATENCY_BINS - 1], "> 16s")] {
        if n > 0 {
            text.push_str(&format!(", {} {what}", format::grouped(u64::from(n))));
        }
    }
    text
}

/// Draws the panel.
pub(crate) fn distribution(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState, focused: bool) {
    let views = if ui.writes { &s.writes } else { &s.reads };
    let titles = Titles {
        name: "DISTRIBUTION",
        note: format!("{}, ms", kind(ui.writes)),
        right: (format!("legacy {}", summary(&views[0])), Some(Role::Legacy)),
        bottom: (format!("next {}", summary(&views[1])), Some(Role::Next)),
        focused,
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h < 3 || w < INSIDE / 4 {
        return;
    }
    // Whole quarter octaves a column, or whole columns a quarter octave.
    let (bins_a_column, columns_a_bin) =
        if w >= INSIDE { (1, w / INSIDE) } else { (INSIDE.div_ceil(w).next_power_of_two(), 1) };
    let width = INSIDE / bins_a_column * columns_a_bin;
    let left = (w - width) / 2;
    let axis = h / 2;
    let gate = latency_gate(s, ui.writes).and_then(position).map(|p| p / bins_a_column * columns_a_bin);
    if let Some(g) = gate {
        for y in 0..h {
            c.put(left + g, y, "╎", Role::Warn);
        }
    }
    draw_axis(&mut c, left, axis, width, gate);
    let sides = [(&views[0], Role::Legacy, axis, true), (&views[1], Role::Next, h - 1 - axis, false)];
    for (view, role, rows, up) in sides {
        let shares = column_counts(view, bins_a_column);
        let top = shares.iter().max().copied().unwrap_or(0);
        for (i, count) in shares.iter().enumerate().filter(|(_, n)| **n > 0) {
            let x = left + i * columns_a_bin;
            let beyond = gate.is_some_and(|g| i * columns_a_bin > g);
            let role = if beyond { Role::Bad } else { role };
            for dx in 0..columns_a_bin {
                hanging_bar(&mut c, x + dx, axis, rows, *count as f64 / top as f64, up, role);
            }
        }
    }
}

fn column_counts(view: &LatencyView, bins_a_column: usize) -> Vec<u64> {
    view.bins[1..=INSIDE].chunks(bins_a_column).map(|b| b.iter().map(|n| u64::from(*n)).sum()).collect()
}

fn draw_axis(c: &mut Canvas<'_>, left: usize, y: usize, width: usize, gate: Option<usize>) {
    let octave = width / OCTAVES.len();
    c.put(left, y, &"─".repeat(width), Role::Border);
    for (i, label) in OCTAVES.iter().enumerate() {
        // Every second label where four columns an octave are not there.
        if octave >= 4 || (i % (5usize.div_ceil(octave.max(1)))) == 0 {
            c.put(left + i * octave, y, label, Role::Dim);
        }
    }
    if let Some(g) = gate {
        c.put(left + g, y, "┃", Role::Warn);
    }
}

/// A bar that grows from the axis: three steps a row, and at least a dot for a count that is not 0.
fn hanging_bar(c: &mut Canvas<'_>, x: usize, axis: usize, rows: usize, share: f64, up: bool, role: Role) {
    let mut steps = (share * (rows * 3) as f64).round() as usize;
    if steps == 0 && rows > 0 {
        c.put(x, if up { axis - 1 } else { axis + 1 }, "·", role);
    }
    for row in 0..rows {
        if steps == 0 {
            break;
        }
        let here = steps.min(3);
        steps -= here;
        let glyph = match (here, up) {
            (1, true) => "▁",
            (2, true) => "▄",
            (1, false) => "▔",
            (2, false) => "▀",
            _ => "█",
        };
        let y = if up { axis - 1 - row } else { axis + 1 + row };
        c.put(x, y, glyph, role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_fixed() {
        assert_eq!(position(Micros(250)), Some(0));
        assert_eq!(position(Micros::from_ms(1)), Some(8));
        assert_eq!(position(Micros::from_ms(16)), Some(24));
        assert_eq!(position(Micros(100)), None);
        assert_eq!(position(Micros::from_secs(17)), None);
    }

    #[test]
    fn what_lies_outside_the_axis_is_counted() {
        let mut view = LatencyView { count: 30, max: Some(Micros::from_secs(20)), ..LatencyView::default() };
        view.bins[LATENCY_BINS - 1] = 3;
        assert_eq!(summary(&view), "30 in 60s, max 20.0s, 3 > 16s");
        assert_eq!(summary(&LatencyView::default()), "none measured");
    }
}

//! Latency over time: rows are octaves, every column sums to 100 %, and the write head sweeps like an oscilloscope's, so that
//! a tick changes one column instead of all of them.

use crate::runtime::Micros;
use crate::snapshot::{HEAT_COLUMN, HEAT_ROWS, HeatColumn, LatencySource, LatencyView, Snapshot};

use super::super::app::UiState;
use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::theme::{HEAT_GLYPHS, HEAT_STEPS, Role};
use super::{kind, latency_gate, spark};
use ratatui::layout::Rect;

const LABEL: usize = 7;

/// Lower edge of a row in microseconds; row 0 begins at nothing.
fn lower_edge(row: usize) -> u64 {
    if row == 0 { 0 } else { 250 << (row - 1) }
}

/// The octave row a latency falls into.
pub(crate) fn row_of(t: Micros) -> usize {
    (0..HEAT_ROWS).rev().find(|r| t.0 >= lower_edge(*r)).unwrap_or(0)
}

/// The octaves each screen row stands for, top row first. With too few rows the outermost octaves share one; which ones depends
/// on the height only, so that the axis never moves with the data.
pub(crate) fn bands(rows: usize) -> Vec<(usize, usize)> {
    if rows == 0 {
        return Vec::new();
    }
    let rows = rows.min(HEAT_ROWS);
    let folded = HEAT_ROWS - rows;
    let low = (folded * 2 / 5).min(3);
    let high = folded - low;
    (0..rows)
        .rev()
        .map(|i| {
            let from = if i == 0 { 0 } else { i + low };
            let to = if i + 1 == rows { HEAT_ROWS - 1 } else { i + low };
            debug_assert!(to <= i + low + high);
            (from, to)
        })
        .collect()
}

fn edge_label(us: u64) -> String {
    match us {
        0 => "0".into(),
        x if x < 1_000 => format!("{}us", x),
        x if x < 1_000_000 => format!("{}ms", x / 1_000),
        x => format!("{}s", (x + 100_000) / 1_000_000),
    }
}

fn step(count: u64, total: u64) -> Option<usize> {
    if count == 0 {
        return None;
    }
    // Shares of 1, 3, 8, 20 and 40 % of the column: a tail of one in a hundred must look different from one in ten.
    let share = count as f64 / total.max(1) as f64;
    Some([0.01, 0.03, 0.08, 0.20, 0.40].iter().take_while(|t| share >= **t).count().min(HEAT_STEPS - 1))
}

/// Draws the panel.
pub(crate) fn heat(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState, focused: bool) {
    let views = if ui.writes { &s.writes } else { &s.reads };
    let empty_next = views[1].heat.iter().all(|h| h.rows.iter().all(|n| *n == 0));
    let legacy = ui.baseline || empty_next;
    let view = &views[usize::from(!legacy)];
    let side = if legacy { "legacy" } else { "next" };
    let why = if legacy && !ui.baseline { " (next has none yet)" } else { "" };
    let gate = latency_gate(s, ui.writes);
    let by = if s.latency_source == Some(LatencySource::Servers) { " as the server has it" } else { "" };
    let titles = Titles {
        name: "LATENCY",
        note: format!("{} on {side}{why}{by}, 1 col = {}s", kind(ui.writes), HEAT_COLUMN.0 / 1_000_000),
        right: (gate.map(|g| format!("gate {}", format::latency(g))).unwrap_or_default(), Some(Role::Warn)),
        focused,
        ..Titles::default()
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h < 3 || w < LABEL + 8 {
        return;
    }
    if view.heat.is_empty() {
        let text = format!("no {} measured yet", kind(ui.writes));
        c.put_fit(1, h / 2, &text, w - 2, Role::Dim);
        return;
    }
    cells(&mut c, view, gate);
}

fn cells(c: &mut Canvas<'_>, view: &LatencyView, gate: Option<Micros>) {
    let (w, h) = (c.width(), c.height());
    let bands = bands(h - 1);
    let gate_row = gate.map(row_of);
    let columns = (w - LABEL).min(120);
    let newest = view.heat.last().map_or(0, |col| col.start.0 / HEAT_COLUMN.0);
    // Where a column stands depends on its time only.
    let place = |col: &HeatColumn| {
        let n = col.start.0 / HEAT_COLUMN.0;
        (newest.saturating_sub(n) < columns as u64 - 1).then(|| LABEL + (n % columns as u64) as usize)
    };
    let head = LABEL + ((newest + 1) % columns as u64) as usize;
    for (y, (from, to)) in bands.iter().enumerate() {
        let is_gate = gate_row.is_some_and(|g| (*from..=*to).contains(&g));
        let label = if y == 0 {
            format!(">{}", edge_label(lower_edge(*from)))
        } else if y + 1 == bands.len() {
            format!("<{}", edge_label(lower_edge(*to + 1)))
        } else {
            edge_label(lower_edge(*from))
        };
        let role = if is_gate { Role::Warn } else { Role::Dim };
        c.put_right(LABEL - 1, y, &label, role);
        c.put(LABEL - 1, y, if is_gate { "┼" } else { "│" }, if is_gate { Role::Warn } else { Role::Border });
        if is_gate {
            c.put(LABEL, y, &"╌".repeat(columns), Role::Warn);
        }
        c.put(head, y, "╎", Role::Border);
    }
    let totals: Vec<u64> = view.heat.iter().map(|col| col.rows.iter().map(|n| u64::from(*n)).sum()).collect();
    // The newest column is still filling: its height says nothing yet, so it does not set the scale.
    let busiest = totals.iter().take(totals.len().saturating_sub(1)).max().copied().unwrap_or(0).max(1);
    for (col, total) in view.heat.iter().zip(&totals) {
        let Some(x) = place(col) else { continue };
        for (y, (from, to)) in bands.iter().enumerate() {
            let count: u64 = col.rows[*from..=*to].iter().map(|n| u64::from(*n)).sum();
            if let Some(step) = step(count, *total) {
                c.put_styled(x, y, HEAT_GLYPHS[step], c.theme.heat(step));
            }
        }
        if *total > 0 {
            c.put(x, h - 1, spark::level(*total as f64, busiest as f64 * 1.05), Role::Dim);
        }
    }
    c.put_right(LABEL - 1, h - 1, "ops/s", Role::Dim);
    c.put(LABEL - 1, h - 1, "│", Role::Border);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octave_is_on_exactly_one_row_at_any_height() {
        for rows in 1..=30 {
            let bands = bands(rows);
            let mut covered: Vec<usize> = bands.iter().rev().flat_map(|(from, to)| *from..=*to).collect();
            assert_eq!(covered, (0..HEAT_ROWS).collect::<Vec<_>>(), "{rows} rows");
            covered.dedup();
            assert_eq!(covered.len(), HEAT_ROWS);
        }
    }

    #[test]
    fn a_single_slow_operation_among_many_is_still_a_dot() {
        assert_eq!(step(1, 1_000_000), Some(0));
        assert_eq!(step(0, 10), None);
        assert_eq!(step(10, 10), Some(HEAT_STEPS - 1));
    }

    #[test]
    fn latencies_fall_into_their_octave() {
        assert_eq!(row_of(Micros(0)), 0);
        assert_eq!(row_of(Micros(250)), 1);
        assert_eq!(row_of(Micros::from_ms(25)), 7);
        assert_eq!(row_of(Micros::from_secs(100)), HEAT_ROWS - 1);
    }
}

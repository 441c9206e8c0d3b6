//! Percentiles of both sides with their ratio. One that too few samples support is not shown; the count it needs is.

use crate::runtime::Micros;
use crate::snapshot::{HEAT_COLUMN, LatencyView, Snapshot};

use super::super::app::UiState;
use super::super::canvas::{Canvas, Titles};
use super::super::format::{self, NOT_KNOWN};
use super::super::theme::Role;
use super::{kind, latency_gate, spark};
use ratatui::layout::Rect;

type Pick = fn(&LatencyView) -> Option<Micros>;

/// Name, value, and the samples it needs (ten beyond it).
const ROWS: [(&str, Pick, u64); 5] = [
    ("p50", |v| v.p50, 20),
    ("p90", |v| v.p90, 100),
    ("p99", |v| v.p99, 1_000),
    ("p99.9", |v| v.p999, 10_000),
    ("max", |v| v.max, 1),
];

fn cell(view: &LatencyView, pick: Pick, needs: u64) -> (String, bool) {
    match pick(view) {
        Some(t) => (format::latency(t), true),
        None if view.count == 0 => (NOT_KNOWN.into(), false),
        None => (format!("n<{}", format::compact(needs as f64)), false),
    }
}

/// Draws the panel.
pub(crate) fn percentiles(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState, focused: bool) {
    let views = if ui.writes { &s.writes } else { &s.reads };
    // When the rows do not all fit, the maximum moves to the border rather than away.
    let fits = usize::from(area.height) >= ROWS.len() + 3;
    let max = |v: &LatencyView| v.max.map_or_else(|| NOT_KNOWN.to_owned(), format::latency);
    let bottom = if fits { String::new() } else { format!("max: legacy {}, next {}", max(&views[0]), max(&views[1])) };
    let titles = Titles {
        name: "PERCENTILES",
        note: format!("{} over 60s", kind(ui.writes)),
        bottom: (bottom, None),
        focused,
        ..Titles::default()
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h < 2 || w < 32 {
        return;
    }
    for (text, end, role) in [("legacy", 16, Role::Legacy), ("next", 25, Role::Next), ("ratio", 33, Role::Dim)] {
        c.put_right(end, 0, text, role);
    }
    let gate = latency_gate(s, ui.writes);
    for (i, (name, pick, needs)) in ROWS.iter().enumerate().take(h - 1) {
        let y = i + 1;
        c.put(1, y, name, Role::Dim);
        let (legacy, known) = cell(&views[0], *pick, *needs);
        c.put_right(16, y, &legacy, if known { Role::Text } else { Role::Dim });
        let (next, known) = cell(&views[1], *pick, *needs);
        let broken = *name == "p99" && gate.zip(views[1].p99).is_some_and(|(g, p)| p > g);
        c.put_right(
            25,
            y,
            &next,
            if broken {
                Role::Bad
            } else if known {
                Role::Text
            } else {
                Role::Dim
            },
        );
        if broken {
            c.put(25, y, "!", Role::Bad);
        }
        let ratio = match (pick(&views[0]), pick(&views[1])) {
            (Some(l), Some(n)) if l.0 > 0 => format::value(n.0 as f64 / l.0 as f64, "x"),
            _ => NOT_KNOWN.to_owned(),
        };
        c.put_right(33, y, &ratio, Role::Text);
    }
    if w >= 48 {
        history(&mut c, views, 36);
    }
}

/// p99 over the last minutes, both sides on one scale from 0.
fn history(c: &mut Canvas<'_>, views: &[LatencyView; 2], x: usize) {
    let room = c.width() - x - 1;
    let Some(top) = views.iter().flat_map(|v| v.p99_history.iter().flatten()).max().copied() else {
        c.put_fit(x, 0, "no p99 yet", room, Role::Dim);
        return;
    };
    c.put_fit(x, 0, &format!("p99, top {}", format::latency(top)), room, Role::Dim);
    for (y, view, name, role) in [(1, &views[0], "legacy", Role::Legacy), (3, &views[1], "next", Role::Next)] {
        c.put(x, y, name, role);
        c.put(x, y + 1, &spark::line(&view.p99_history, top, room), role);
    }
    let shown = views.iter().map(|v| v.p99_history.len().min(room)).max().unwrap_or(0) as u64;
    c.put_right(x + room, 1, &format::span(HEAT_COLUMN * shown), Role::Dim);
}

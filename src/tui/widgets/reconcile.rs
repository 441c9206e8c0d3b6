//! Reconciliation counts, one collection a row. What was not checked is a dash, never 0.

use crate::snapshot::{ReconcileView, Snapshot};

use super::super::canvas::{Canvas, Titles};
use super::super::format::{self, NOT_KNOWN};
use super::super::theme::Role;
use ratatui::layout::Rect;

fn counted(n: Option<u64>) -> String {
    n.map_or_else(|| NOT_KNOWN.to_owned(), format::grouped)
}

/// Draws the panel.
pub(crate) fn reconcile(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, focused: bool) {
    let through = s.reconcile.iter().map(|r| r.verified_through_ms).min().flatten();
    let note = match through {
        Some(ms) => format!("verified through {}", format::clock(ms)),
        None => "not verified yet".to_owned(),
    };
    let running = s.reconcile.iter().any(|r| r.running);
    let titles = Titles {
        name: "RECONCILIATION",
        note,
        right: (if running { "pass under way".into() } else { String::new() }, Some(Role::Accent)),
        focused,
        ..Titles::default()
    };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if h == 0 || w < 30 {
        return;
    }
    if s.reconcile.is_empty() {
        c.put_fit(1, 0, "nothing compared yet", w - 2, Role::Dim);
        return;
    }
    // From the right, so that the numbers that say something is wrong stay when there is little room.
    let all = [("checked", 9), ("in flight", 10), ("matched", 12), ("missing", 9), ("extra", 7), ("differing", 10)];
    let keep: &[usize] = if w >= 72 { &[0, 1, 5, 4, 3, 2] } else { &[0, 5, 4, 3] };
    let mut end = w - 1;
    let mut ends = [None; 6];
    for i in keep {
        ends[*i] = Some(end);
        end = end.saturating_sub(all[*i].1);
    }
    c.put_fit(1, 0, "collection", end.saturating_sub(2), Role::Dim);
    for ((name, _), at) in all.iter().zip(ends) {
        if let Some(at) = at {
            c.put_right(at, 0, name, Role::Dim);
        }
    }
    let fits = h - 1;
    for (i, r) in s.reconcile.iter().take(fits).enumerate() {
        row(&mut c, i + 1, r, end, &ends);
    }
    if s.reconcile.len() > fits && fits > 0 {
        c.put_right(w - 1, h - 1, &format!("+{} more", s.reconcile.len() - fits), Role::Dim);
    }
}

fn row(c: &mut Canvas<'_>, y: usize, r: &ReconcileView, name: usize, ends: &[Option<usize>; 6]) {
    c.put_fit(1, y, &r.collection, name.saturating_sub(2), Role::Text);
    let wrong = |n: Option<u64>| match n {
        None => Role::Dim,
        Some(0) => Role::Ok,
        Some(_) => Role::Bad,
    };
    let plain = |n: Option<u64>| if n.is_some() { Role::Text } else { Role::Dim };
    let cells = [
        (r.checked.map_or_else(|| NOT_KNOWN.to_owned(), format::share), Role::Text),
        (counted(r.in_flight), plain(r.in_flight)),
        (counted(r.matched), plain(r.matched)),
        (counted(r.missing), wrong(r.missing)),
        (counted(r.extra), wrong(r.extra)),
        (counted(r.differing), wrong(r.differing)),
    ];
    for ((text, role), at) in cells.iter().zip(ends) {
        if let Some(at) = at {
            c.put_right(*at, y, text, *role);
        }
    }
}

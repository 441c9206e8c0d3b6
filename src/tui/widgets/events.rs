//! The latest journal records, newest first.

use crate::snapshot::{EventLine, Snapshot};

use super::super::app::UiState;
use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::theme::Role;
use ratatui::layout::Rect;

fn matches(e: &EventLine, filter: &str) -> bool {
    filter.is_empty() || [&e.text, &e.kind, &e.by].iter().any(|t| t.to_lowercase().contains(&filter.to_lowercase()))
}

/// Draws the panel. `shown` is what the panels show (frozen or not), `live` the newest snapshot.
pub(crate) fn events(c: &mut Canvas<'_>, area: Rect, shown: &Snapshot, live: &Snapshot, ui: &UiState, focused: bool) {
    let newest = shown.events.last().map_or(0, |e| e.seq);
    let behind = live.events.iter().filter(|e| e.seq > newest).count();
    let mut right = String::new();
    if ui.frozen.is_some() {
        right = format!("FROZEN, +{behind} events");
    } else if ui.scroll > 0 {
        right = format!("{} newer above", ui.scroll);
    }
    let note = match (ui.typing_filter, ui.filter.is_empty()) {
        (true, _) => format!("filter: {}_", ui.filter),
        (false, false) => format!("only \"{}\", Esc clears", ui.filter),
        (false, true) => "newest first".to_owned(),
    };
    let titles = Titles { name: "EVENTS", note, right: (right, Some(Role::Warn)), focused, ..Titles::default() };
    let mut c = c.panel(area, &titles);
    let (w, h) = (c.width(), c.height());
    if w < 20 {
        return;
    }
    let mut lines = shown.events.iter().rev().filter(|e| matches(e, &ui.filter)).skip(ui.scroll).peekable();
    if lines.peek().is_none() {
        let text = if shown.events.is_empty() { "no records yet" } else { "no record contains this" };
        c.put_fit(1, 0, text, w - 2, Role::Dim);
    }
    for (y, e) in lines.take(h).enumerate() {
        let mut x = c.put(1, y, &format::clock(e.wall_ms), Role::Dim) + 1;
        let role = match e.by.as_str() {
            "operator" => Role::Accent,
            "trigger" => Role::Warn,
            _ => Role::Dim,
        };
        c.put_fit(x, y, &e.by, 8, role);
        x += 9;
        if w >= 140 {
            c.put_fit(x, y, &e.kind, 16, Role::Dim);
            x += 17;
        }
        c.put_fit(x, y, &e.text, w.saturating_sub(x + 1), Role::Text);
    }
}

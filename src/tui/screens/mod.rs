//! What fills the terminal: the overview and what lies over it.

mod footer;
mod overlay;
mod overview;
mod question;
mod trace;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::snapshot::Snapshot;

use super::app::{Overlay, UiState};
use super::canvas::Canvas;
use super::keymap::{self, Action};
use super::theme::Role;
use super::widgets::verdict;

/// Draws the whole screen.
pub(crate) fn draw(buf: &mut Buffer, area: Rect, snapshot: &Snapshot, ui: &UiState) {
    let mut c = Canvas::new(buf, area, &ui.theme);
    let (w, h) = super::MIN_SIZE;
    if area.width < w || area.height < h {
        match &ui.overlay {
            Some(Overlay::Dialog(d)) => question::small(&mut c, snapshot, d),
            _ => too_small(&mut c, area, snapshot),
        }
        return;
    }
    overview::draw(&mut c, area, snapshot, ui);
    if let Some(open) = &ui.overlay {
        overlay::draw(&mut c, area, snapshot, ui, open);
    }
}

/// Says what size is needed; the keys go on working.
fn too_small(c: &mut Canvas<'_>, area: Rect, s: &Snapshot) {
    let (w, h) = super::MIN_SIZE;
    let lines = [
        format!("needs {w}x{h}"),
        format!("is {}x{}", area.width, area.height),
        format!("{} still pauses", keymap::label(Action::Pause)),
        verdict::now(s).word,
    ];
    for (y, line) in lines.iter().enumerate() {
        c.put(0, y, line, if y == 0 { Role::Warn } else { Role::Text });
    }
}

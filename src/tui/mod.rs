//! The dashboard: draws a [`Snapshot`] and a [`UiState`] and turns keys into commands.
//!
//! Nothing here does I/O or knows the engine, except [`terminal`] (the terminal itself) and [`run`] (the event loop, the only
//! place that reads a clock). What is drawn is a pure function of the two states.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::snapshot::Snapshot;

pub mod app;
mod canvas;
pub mod dialog;
pub mod format;
pub mod input;
pub mod journey;
pub mod keymap;
pub mod rollback;
pub mod run;
pub mod screens;
pub mod terminal;
pub mod theme;
pub mod trace;
pub mod widgets;

pub use app::UiState;
pub use input::{Effect, Input, update};

/// The smallest size that still shows the verdict and the pause key.
pub const MIN_SIZE: (u16, u16) = (40, 6);

/// Draws one frame.
pub fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, ui: &UiState) {
    let area = frame.area();
    draw_into(frame.buffer_mut(), area, snapshot, ui);
}

/// Draws into a buffer; any size, down to none at all.
pub fn draw_into(buf: &mut Buffer, area: Rect, snapshot: &Snapshot, ui: &UiState) {
    let area = area.intersection(buf.area);
    if area.is_empty() {
        return;
    }
    screens::draw(buf, area, snapshot, ui);
    if ui.ascii {
        for cell in &mut buf.content {
            if !cell.symbol().is_ascii() {
                let stand_in = theme::ascii(cell.symbol());
                cell.set_symbol(stand_in);
            }
        }
    }
}

/// The screen as plain text, one line a row, without trailing blanks: for docs, reports and tests.
#[must_use]
pub fn render_text(snapshot: &Snapshot, ui: &UiState, width: u16, height: u16) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buf = Buffer::empty(area);
    draw_into(&mut buf, area, snapshot, ui);
    buffer_text(&buf)
}

/// A drawn buffer as plain text, one line a row, without trailing blanks.
#[must_use]
pub fn buffer_text(buf: &Buffer) -> String {
    let mut out = String::new();
    for row in buf.content.chunks(usize::from(buf.area.width).max(1)) {
        let mut line = String::new();
        let mut covered = 0;
        for cell in row {
            // The second half of a wide character holds a blank that a terminal does not show.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            line.push_str(cell.symbol());
            covered = format::width(cell.symbol()).saturating_sub(1);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

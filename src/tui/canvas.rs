//! Drawing into a part of the buffer by offsets, clipped to it. No widget writes to the buffer in any other way.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::format;
use super::theme::{Role, Theme};

/// A buffer, the theme and the area that may be drawn.
pub(crate) struct Canvas<'a> {
    buf: &'a mut Buffer,
    /// The theme in force.
    pub(crate) theme: &'a Theme,
    area: Rect,
}

/// What stands on a panel's border.
#[derive(Default)]
pub(crate) struct Titles<'a> {
    /// The panel's name; always shown.
    pub(crate) name: &'a str,
    /// Beside the name, dim.
    pub(crate) note: String,
    /// At the right of the upper line.
    pub(crate) right: (String, Option<Role>),
    /// On the lower line, left.
    pub(crate) bottom: (String, Option<Role>),
    /// The panel has the focus.
    pub(crate) focused: bool,
}

impl<'a> Canvas<'a> {
    pub(crate) fn new(buf: &'a mut Buffer, area: Rect, theme: &'a Theme) -> Self {
        let area = area.intersection(buf.area);
        Canvas { buf, theme, area }
    }

    /// A canvas for a part of this one.
    pub(crate) fn part(&mut self, area: Rect) -> Canvas<'_> {
        let area = area.intersection(self.area);
        Canvas { buf: self.buf, theme: self.theme, area }
    }

    pub(crate) fn area(&self) -> Rect {
        self.area
    }

    pub(crate) fn width(&self) -> usize {
        usize::from(self.area.width)
    }

    pub(crate) fn height(&self) -> usize {
        usize::from(self.area.height)
    }

    /// Writes at an offset, clipped; returns the offset after the text.
    pub(crate) fn put(&mut self, x: usize, y: usize, text: &str, role: Role) -> usize {
        self.put_styled(x, y, text, self.theme.style(role))
    }

    /// As [`Canvas::put`] with a style of its own.
    pub(crate) fn put_styled(&mut self, x: usize, y: usize, text: &str, style: Style) -> usize {
        if x >= self.width() || y >= self.height() {
            return x + format::width(text);
        }
        // Both offsets are below a u16 width or height here.
        let (at_x, at_y) = (self.area.x + x as u16, self.area.y + y as u16);
        let (end, _) = self.buf.set_stringn(at_x, at_y, text, self.width() - x, style);
        usize::from(end.saturating_sub(self.area.x))
    }

    /// Writes so that the text ends before `x_end`.
    pub(crate) fn put_right(&mut self, x_end: usize, y: usize, text: &str, role: Role) {
        self.put(x_end.saturating_sub(format::width(text)), y, text, role);
    }

    /// Writes the text cut between words to `max` columns; returns the offset after it.
    pub(crate) fn put_fit(&mut self, x: usize, y: usize, text: &str, max: usize, role: Role) -> usize {
        let max = max.min(self.width().saturating_sub(x));
        self.put(x, y, &format::fit(text, max), role)
    }

    /// Blanks the whole area.
    pub(crate) fn clear(&mut self) {
        for y in self.area.top()..self.area.bottom() {
            for x in self.area.left()..self.area.right() {
                self.buf[(x, y)].reset();
            }
        }
    }

    /// Draws a border with titles and returns the canvas inside it.
    pub(crate) fn panel(&mut self, area: Rect, titles: &Titles<'_>) -> Canvas<'_> {
        let line = if titles.focused { Role::Accent } else { Role::Border };
        let mut edge = self.part(area);
        let (w, h) = (edge.width(), edge.height());
        let area = edge.area();
        if w < 2 || h < 2 {
            return self.part(Rect::new(area.x, area.y, 0, 0));
        }
        let rule = "─".repeat(w - 2);
        edge.put(0, 0, "┌", line);
        edge.put(1, 0, &rule, line);
        edge.put(w - 1, 0, "┐", line);
        for y in 1..h - 1 {
            edge.put(0, y, "│", line);
            edge.put(w - 1, y, "│", line);
        }
        edge.put(0, h - 1, "└", line);
        edge.put(1, h - 1, &rule, line);
        edge.put(w - 1, h - 1, "┘", line);

        let room = w.saturating_sub(4);
        let name = format::fit(titles.name, room.saturating_sub(2));
        let mut end = 2;
        if !name.is_empty() {
            end = edge.put(2, 0, &format!(" {name} "), if titles.focused { Role::Accent } else { Role::Title });
        }
        if !titles.note.is_empty() && end + format::width(&titles.note) + 2 <= w {
            end = edge.put(end, 0, &format!("{} ", titles.note), Role::Dim);
        }
        let (right, role) = &titles.right;
        if !right.is_empty() && end + format::width(right) + 5 <= w {
            edge.put_right(w - 2, 0, &format!(" {right} "), role.unwrap_or(Role::Dim));
        }
        let (bottom, role) = &titles.bottom;
        if !bottom.is_empty() && room > 8 {
            edge.put(2, h - 1, &format!(" {} ", format::fit(bottom, room - 2)), role.unwrap_or(Role::Dim));
        }
        self.part(Rect::new(area.x + 1, area.y + 1, area.width - 2, area.height - 2))
    }
}

//! How the first line and the answers beneath it are drawn. What the answers are is [`super::verdict`]'s.

use crate::snapshot::Snapshot;

use super::super::app::UiState;
use super::super::canvas::Canvas;
use super::super::format;
use super::super::theme::Role;
use super::verdict::{Answer, Level, data};

/// The first line: what this is, how real, and the time.
pub(crate) fn identity(c: &mut Canvas<'_>, s: &Snapshot, ui: &UiState) {
    let (badge, role) = if s.drill {
        ("DRILL".to_owned(), Role::Accent)
    } else {
        let env = if s.plan.environment.is_empty() { "?" } else { &s.plan.environment };
        (format::fit(&env.to_uppercase(), 14), if env == "production" { Role::Bad } else { Role::Warn })
    };
    let badge_end = c.put_styled(0, 0, &format!(" {badge} "), c.theme.badge(role));
    // From the right: time, live or frozen, age on narrow screens.
    let mut right = c.width().saturating_sub(1);
    let time = format::clock(s.wall_ms);
    if c.width() >= 70 {
        c.put_right(right, 0, &time, Role::Text);
        right = right.saturating_sub(time.len() + 2);
    }
    let (state, role) = match (&ui.frozen, s.drill) {
        (Some(_), _) => ("FROZEN", Role::Warn),
        (None, true) => ("VIRTUAL TIME", Role::Accent),
        (None, false) if ui.absent.is_some() => ("NOT LIVE", Role::Bad),
        (None, false) if ui.watching => ("WATCHING", Role::Ok),
        (None, false) => ("LIVE", Role::Ok),
    };
    let state = if c.width() < 100 {
        // Without the second column of answers the age of the data stands here.
        let age = data(s, ui);
        let state = if c.width() >= 70 || ui.frozen.is_some() { format!("{state}, ") } else { String::new() };
        let state = format!("{state}{}", age.word);
        c.put_right(right, 0, &state, age.level.role());
        state
    } else {
        c.put_right(right, 0, state, role);
        state.to_owned()
    };
    right = right.saturating_sub(format::width(&state) + 2);
    let mut x = badge_end + 1;
    let room = right.saturating_sub(x);
    let id = if s.plan.id.is_empty() { "no plan yet" } else { &s.plan.id };
    let id = format::fit(id, room);
    x = c.put_styled(x, 0, &id, c.theme.style(Role::Title)) + 2;
    let mut parts: Vec<(String, Role)> = Vec::new();
    if let Some((legacy, next)) = s.plan.collections.first() {
        parts.push((legacy.clone(), Role::Legacy));
        parts.push(("=>".into(), Role::Dim));
        parts.push((next.clone(), Role::Next));
    }
    let all: usize = parts.iter().map(|(t, _)| format::width(t) + 1).sum();
    if x + all <= right {
        for (text, role) in parts {
            x = c.put(x, 0, &text, role) + 1;
        }
        x += 1;
        if s.plan.collections.len() > 1 {
            let more = format!("+{}", s.plan.collections.len() - 1);
            x = c.put(x, 0, &more, Role::Dim) + 2;
        }
        let hash: String = s.plan.hash.chars().take(7).collect();
        let mode = if s.plan.mode.is_empty() { String::new() } else { format!("{} mode", s.plan.mode) };
        for extra in [mode, if hash.is_empty() { hash } else { format!("plan {hash}") }] {
            if !extra.is_empty() && x + format::width(&extra) <= right {
                x = c.put(x, 0, &extra, Role::Dim) + 2;
            }
        }
    }
}

/// One labelled answer on row `y`, from column `x` to `end`.
pub(crate) fn row(c: &mut Canvas<'_>, (x, end): (usize, usize), y: usize, label: &str, word_width: usize, a: &Answer) {
    let end = end.min(c.width());
    c.put(x, y, label, Role::Dim);
    let mut at = x + 9;
    if a.level != Level::Plain {
        at = c.put(at, y, a.level.glyph(), a.level.role()) + 1;
    } else if word_width > 0 {
        at += 2;
    }
    if !a.word.is_empty() {
        let role = if a.level == Level::Plain { Role::Title } else { a.level.role() };
        let word_end = c.put_fit(at, y, &a.word, end.saturating_sub(at), role);
        at = (word_end + 2).max(at + word_width);
    }
    let room = end.saturating_sub(at);
    // A few letters of a sentence say nothing.
    if room >= 14 || format::width(&a.text) <= room {
        c.put_fit(at, y, &a.text, room, Role::Text);
    }
}

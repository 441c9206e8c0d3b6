//! How the dashboard looks here: theme, colours, glyphs.

use std::path::Path;

use super::{Failure, ThemeArg};
use crate::tui::UiState;
use crate::tui::theme::Theme;

/// The dashboard's first state, as the command line and the environment want it.
pub(super) fn ui(theme: &ThemeArg) -> Result<UiState, Failure> {
    let mut themes = Theme::built_in();
    let colourless = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let chosen = match &theme.theme {
        Some(name) => find(name, &themes)?,
        None if colourless => Theme::mono(),
        None => themes.first().cloned().unwrap_or_else(Theme::mono),
    };
    if colourless {
        themes.clear();
    }
    if !themes.contains(&chosen) {
        themes.insert(0, chosen.clone());
    }
    Ok(UiState::new(chosen, themes, !has_utf8()))
}

fn find(name: &str, themes: &[Theme]) -> Result<Theme, Failure> {
    if let Some(theme) = Theme::named(name) {
        return Ok(theme);
    }
    let path = Path::new(name);
    if path.exists() || name.contains(['/', '\\', '.']) {
        return Theme::load(path).map_err(Failure::usage);
    }
    let known = crate::plan::reader::nearest(name, themes.iter().map(Theme::name));
    Err(Failure::usage(format!("there is no theme `{}`: {known}", crate::scrub::short(name, 60))))
}

/// Whether the locale is one of UTF-8; unset counts as such, as terminals are nowadays.
fn has_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|k| std::env::var(k).ok().filter(|v| !v.is_empty()));
    locale.is_none_or(|l| {
        let l = l.to_ascii_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    })
}

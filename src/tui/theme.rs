//! Colours and glyphs by role. Themes are TOML files; an unknown key in one is an error that names the key and its line.
//!
//! Colour never says anything alone: every role that matters also has a glyph or a word.

use std::path::Path;

use ratatui::style::{Color, Modifier, Style};
use serde::{Deserialize, Deserializer};

/// How many steps the heat ramp has.
pub const HEAT_STEPS: usize = 6;

/// What a piece of text means; the theme says how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ordinary text.
    Text,
    /// Labels and what matters less.
    Dim,
    /// Lines around panels.
    Border,
    /// Panel titles.
    Title,
    /// Focus, keys, the current stage.
    Accent,
    /// Holds.
    Ok,
    /// Needs an eye.
    Warn,
    /// Broken.
    Bad,
    /// The legacy side.
    Legacy,
    /// The next side.
    Next,
}

/// A loaded theme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theme {
    name: String,
    colours: [Color; 10],
    heat: [Color; HEAT_STEPS],
}

/// Why a theme cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ThemeError {
    /// The file cannot be read.
    #[error("cannot read the theme {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a theme.
    #[error("{path} is not a theme, line {line}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThemeFile {
    name: String,
    text: Colour,
    dim: Colour,
    border: Colour,
    title: Colour,
    accent: Colour,
    ok: Colour,
    warn: Colour,
    bad: Colour,
    legacy: Colour,
    next: Colour,
    heat: [Colour; HEAT_STEPS],
}

#[derive(Clone, Copy)]
struct Colour(Color);

impl<'de> Deserialize<'de> for Colour {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Colour;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a 256-colour index from 0 to 255, \"#rrggbb\" or \"default\"")
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Colour, E> {
                let index = u8::try_from(n).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(n), &self))?;
                Ok(Colour(Color::Indexed(index)))
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Colour, E> {
                let index = u8::try_from(n).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(n), &self))?;
                Ok(Colour(Color::Indexed(index)))
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Colour, E> {
                if s == "default" {
                    return Ok(Colour(Color::Reset));
                }
                match s.parse::<Color>() {
                    Ok(c) if s.starts_with('#') => Ok(Colour(c)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(s), &self)),
                }
            }
        }
        d.deserialize_any(V)
    }
}

impl Theme {
    /// Reads a theme; `path` only names it in errors.
    ///
    /// # Errors
    /// For an unknown or missing key and for a colour that is none, with the line.
    pub fn parse(path: &str, text: &str) -> Result<Theme, ThemeError> {
        let file: ThemeFile = toml::from_str(text).map_err(|e| ThemeError::Parse {
            path: crate::scrub::line(path),
            line: e
                .span()
                .map_or(1, |span| 1 + text.bytes().take(span.start.min(text.len())).filter(|b| *b == b'\n').count()),
            message: crate::scrub::line(e.message()),
        })?;
        let c = |c: Colour| c.0;
        Ok(Theme {
            name: crate::scrub::short(&file.name, 24),
            colours: [
                c(file.text),
                c(file.dim),
                c(file.border),
                c(file.title),
                c(file.accent),
                c(file.ok),
                c(file.warn),
                c(file.bad),
                c(file.legacy),
                c(file.next),
            ],
            heat: file.heat.map(c),
        })
    }

    /// Reads a theme from a file.
    ///
    /// # Errors
    /// As [`Theme::parse`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Theme, ThemeError> {
        let shown = crate::scrub::line(&path.display().to_string());
        let text = std::fs::read_to_string(path).map_err(|source| ThemeError::Read { path: shown.clone(), source })?;
        Theme::parse(&shown, &text)
    }

    /// The themes that come with tidegate, the default first.
    #[must_use]
    pub fn built_in() -> Vec<Theme> {
        let sources = [
            ("themes/dark.toml", include_str!("../../themes/dark.toml")),
            ("themes/light.toml", include_str!("../../themes/light.toml")),
        ];
        // A test parses both, so that none is ever left out here.
        sources.iter().filter_map(|(path, text)| Theme::parse(path, text).ok()).collect()
    }

    /// A built-in theme by name.
    #[must_use]
    pub fn named(name: &str) -> Option<Theme> {
        if name == "mono" {
            return Some(Theme::mono());
        }
        Theme::built_in().into_iter().find(|t| t.name == name)
    }

    /// No colours at all (`NO_COLOR`): glyphs, words, bold and reverse carry everything.
    #[must_use]
    pub fn mono() -> Theme {
        Theme { name: "mono".into(), colours: [Color::Reset; 10], heat: [Color::Reset; HEAT_STEPS] }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How a role looks. What is broken or focused is bold as well, so that it stands out without colour.
    #[must_use]
    pub fn style(&self, role: Role) -> Style {
        let style = Style::new().fg(self.colours[role as usize]);
        match role {
            Role::Bad | Role::Accent | Role::Title => style.add_modifier(Modifier::BOLD),
            _ => style,
        }
    }

    /// A filled badge in a role's colour.
    #[must_use]
    pub fn badge(&self, role: Role) -> Style {
        self.style(role).add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    /// A step of the heat ramp; steps above the last are the last.
    #[must_use]
    pub fn heat(&self, step: usize) -> Style {
        Style::new().fg(self.heat[step.min(HEAT_STEPS - 1)])
    }
}

/// Glyphs of the heat ramp, few to many: density says the same as the colour.
pub const HEAT_GLYPHS: [&str; HEAT_STEPS] = ["·", ":", "░", "▒", "▓", "█"];

/// The ASCII stand-in for a glyph the dashboard draws.
#[must_use]
pub fn ascii(symbol: &str) -> &'static str {
    match symbol {
        "·" => ".",
        "░" => "-",
        "▒" => "=",
        "▓" => "*",
        "█" => "#",
        "▁" => "_",
        "▂" => ".",
        "▃" => "-",
        "▄" => "=",
        "▅" => "+",
        "▆" => "*",
        "▇" => "%",
        "▔" => "'",
        "▀" => "\"",
        "─" | "–" => "-",
        "╌" => "_",
        "│" | "┃" | "╎" => "|",
        "┌" | "┐" | "└" | "┘" | "├" | "┤" | "┬" | "┴" | "┼" => "+",
        "✓" => "+",
        "✗" => "x",
        "»" => ">",
        "«" => "<",
        "←" => "~",
        "…" => "~",
        "≤" => "<",
        "≥" => ">",
        "→" => ">",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_theme_parses() {
        for (path, text) in
            [("dark", include_str!("../../themes/dark.toml")), ("light", include_str!("../../themes/light.toml"))]
        {
            assert_eq!(Theme::parse(path, text).map_err(|e| e.to_string()).unwrap().name(), path);
        }
        assert_eq!(Theme::built_in().len(), 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = include_str!("../../themes/dark.toml").replace("warn = 221", "wran = 221");
        let said = Theme::parse("mine.toml", &text).unwrap_err().to_string();
        assert!(said.contains("wran") && said.contains("line 9"), "{said}");
    }

    #[test]
    fn a_colour_that_is_none_is_refused_with_its_line() {
        for bad in ["\"reddish\"", "256", "-1", "true"] {
            let text = include_str!("../../themes/dark.toml").replace("warn = 221", &format!("warn = {bad}"));
            let said = Theme::parse("mine.toml", &text).unwrap_err().to_string();
            assert!(said.contains("line 9") && said.contains("256-colour index"), "{said}");
        }
    }

    #[test]
    fn a_missing_file_says_which() {
        let said = Theme::load(Path::new("/nowhere/at-all.toml")).unwrap_err().to_string();
        assert!(said.contains("/nowhere/at-all.toml"), "{said}");
    }

    #[test]
    fn the_monochrome_theme_has_no_colour() {
        for role in [Role::Ok, Role::Bad, Role::Next, Role::Dim] {
            assert_eq!(Theme::mono().style(role).fg, Some(Color::Reset));
        }
    }
}

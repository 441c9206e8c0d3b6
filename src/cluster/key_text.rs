//! A key read back from the text that screens, the journal and the command line show of it. Nothing here asks a cluster: a text may
//! stand for several keys, and whoever looks them up says which one is there.

use bson::oid::ObjectId;
use bson::{Bson, RawBson};

use super::Key;

/// No text of a key that a person gives is longer.
pub const KEY_TEXT_MAX: usize = 4_096;

/// Why a text stands for no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Nothing was given.
    #[error("a key is wanted: a number, a text, ObjectId(…), or JSON, as the journal shows it")]
    Empty,
    /// It is longer than [`KEY_TEXT_MAX`].
    #[error("the text of a key may have {KEY_TEXT_MAX} characters")]
    TooLong,
}

impl Key {
    /// The keys that a text may stand for, the likeliest first: what is displayed as this text, and then the bare text itself, so that
    /// nobody has to quote quotes in a shell.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn read(text: &str) -> Result<Vec<Key>, KeyTextError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyTextError::Empty);
        }
        if text.chars().count() > KEY_TEXT_MAX {
            return Err(KeyTextError::TooLong);
        }
        if let Some(quoted) = unquoted(text) {
            return Ok(vec![Key::from(quoted.as_str())]);
        }
        let bare = || Key::from(text);
        let hex = text.strip_prefix("ObjectId(").and_then(|t| t.strip_suffix(')')).unwrap_or(text);
        if let Ok(id) = ObjectId::parse_str(hex.trim_matches(['"', '\''])) {
            let id = Key::new(RawBson::ObjectId(id).as_raw_bson_ref());
            return Ok(id.into_iter().chain([bare()]).collect());
        }
        let json = serde_json::from_str::<serde_json::Value>(text).ok();
        let value = json.and_then(|v| RawBson::try_from(Bson::try_from(v).ok()?).ok());
        let key = value.and_then(|v| Key::new(v.as_raw_bson_ref()).ok());
        Ok(key.into_iter().chain([bare()]).collect())
    }
}

/// The text in quotes as [`Key`]'s display writes it; `None` when it is not all of one such text.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => return None,
            '\\' => out.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'u' => code(&mut rest)?,
                c @ ('\\' | '"' | '\'' | '/') => c,
                _ => return None,
            }),
            c => out.push(c),
        }
    }
    Some(out)
}

/// `{202e}`, or four digits as JSON has them.
fn code(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let first = rest.next()?;
    let hex: String = match first {
        '{' => rest.by_ref().take_while(|c| *c != '}').take(7).collect(),
        digit => std::iter::once(digit).chain(rest.by_ref().take(3)).collect(),
    };
    char::from_u32(u32::from_str_radix(&hex, 16).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::rawdoc;
    use proptest::prelude::*;

    fn first(text: &str) -> Key {
        Key::read(text).unwrap().remove(0)
    }

    fn of(value: impl Into<RawBson>) -> Key {
        Key::new(value.into().as_raw_bson_ref()).unwrap()
    }

    #[test]
    fn what_a_key_is_displayed_as_is_read_as_that_key() {
        let id = ObjectId::parse_str("65f0a1b2c3d4e5f607182930").unwrap();
        let all = [
            of(5i32),
            of(-5i64),
            of(1.5),
            of(true),
            of("plain"),
            of("17"),
            of("with \"quotes\" and \\"),
            of("line\nbreak\u{202e}\u{1b}[2J"),
            of(id),
            of(bson::DateTime::from_millis(1_700_000_000_000)),
            of("12.5".parse::<bson::Decimal128>().unwrap()),
            of(rawdoc! { "region": "eu", "n": 7i64 }),
            of(rawdoc! { "a": { "b": [1, "x"] } }),
            of(RawBson::Null),
        ];
        for key in all {
            assert_eq!(first(&key.to_string()), key, "{key}");
        }
    }

    #[test]
    fn a_bare_text_is_a_text_when_it_is_nothing_else_or_nothing_else_is_there() {
        assert_eq!(Key::read("A-17").unwrap(), [of("A-17")]);
        assert_eq!(Key::read(" 17 ").unwrap(), [of(17i32), of("17")]);
        assert_eq!(Key::read("\"17\"").unwrap(), [of("17")]);
        assert_eq!(Key::read("65f0a1b2c3d4e5f607182930").unwrap().len(), 2);
        assert_eq!(Key::read("\"half").unwrap(), [of("\"half")]);
        assert_eq!(Key::read("[1]").unwrap(), [of("[1]")], "an array is no key");
        assert_eq!(Key::read("  "), Err(KeyTextError::Empty));
        assert_eq!(Key::read(&"x".repeat(KEY_TEXT_MAX + 1)), Err(KeyTextError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_texts_come_back(text in ".{0,40}") {
            let key = Key::from(text.as_str());
            let _ = Key::read(&text);
            // Zero-width and other characters that a screen must not show are not in the text any more.
            if !key.to_string().contains('\u{FFFD}') {
                prop_assert_eq!(first(&key.to_string()), key);
            }
        }
    }
}

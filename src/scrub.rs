//! Text from documents, errors and files, made safe for a screen, a log or a report. Scrub once, where the text enters.

/// Replaces control, bidi-control and zero-width characters, so that a text cannot move the cursor, hide or reorder what is read.
#[must_use]
pub fn line(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { '\u{FFFD}' } else { c }).collect()
}

/// As [`line()`], cut to at most `max` characters with an ellipsis.
#[must_use]
pub fn short(text: &str, max: usize) -> String {
    let clean = line(text);
    if clean.chars().count() <= max {
        return clean;
    }
    let mut cut: String = clean.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}')
}

/// A server's message about a duplicate key without the document's values, which it quotes at its end: the index it names is enough.
#[must_use]
pub fn before_values(message: &str) -> &str {
    message.find(" dup key:").map_or(message, |at| &message[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_told_without_the_value() {
        let told =
            before_values("E11000 duplicate key error collection: a.b index: mail_1 dup key: { mail: \"a@b.c\" }");
        assert_eq!(told, "E11000 duplicate key error collection: a.b index: mail_1");
        assert_eq!(before_values("other"), "other");
    }

    #[test]
    fn escape_sequences_and_bidi_overrides_do_not_pass() {
        assert_eq!(line("a\u{1b}]52;c;eA==\u{7}b\u{202E}c\u{9b}d"), "a\u{FFFD}]52;c;eA==\u{FFFD}b\u{FFFD}c\u{FFFD}d");
        assert_eq!(line("plain, ünï ok"), "plain, ünï ok");
    }

    #[test]
    fn short_counts_characters() {
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("äöü", 3), "äöü");
    }
}

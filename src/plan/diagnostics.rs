//! What is wrong with a file, said as a compiler would: file, line, column, the line itself, what was expected.
//!
//! Passwords in connection strings never get in here: the source is masked and scrubbed before it is kept.

use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::scrub;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected there; may be empty.
    pub expected: String,
    /// A way out, often the nearest valid name.
    pub help: Option<String>,
    /// Bytes of the masked source.
    span: Range<usize>,
}

/// Everything that is wrong with a file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    name: String,
    source: String,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The mistakes, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// The file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it as text, as a compiler would print it; `color` adds terminal styles.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for d in &self.list {
            let mark = AnnotationKind::Primary.span(d.span.clone());
            let mark = if d.expected.is_empty() { mark } else { mark.label(d.expected.as_str()) };
            let snippet = Snippet::source(self.source.as_str()).path(self.name.as_str()).annotation(mark);
            let mut group = Level::ERROR.primary_title(d.message.as_str()).element(snippet);
            if let Some(help) = &d.help {
                group = group.element(Level::HELP.message(help.as_str()));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        let n = self.list.len();
        out.push_str(&format!("{n} mistake{} in {}\n", if n == 1 { "" } else { "s" }, self.name));
        out
    }
}

impl fmt::Display for Diagnostics {
    /// Without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// A mistake while it is being collected: spans are bytes of the file as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Mistake {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) expected: String,
    pub(crate) help: Option<String>,
}

/// Orders the mistakes, masks and scrubs the source and everything said about it.
pub(crate) fn finish(text: &str, name: &str, secrets: &[Range<usize>], mut mistakes: Vec<Mistake>) -> Diagnostics {
    mistakes.sort_by_key(|a| (a.span.start, a.span.end));
    mistakes.dedup_by(|a, b| a.span == b.span && a.message == b.message);
    let (source, map) = safe_source(text, secrets);
    let list = mistakes
        .into_iter()
        .map(|m| {
            let at = |i: usize| map[i.min(text.len())];
            // The end of the file is shown as the end of its last line.
            let last = source.len() - usize::from(source.ends_with('\n'));
            let (start, end) = (at(m.span.start).min(last), at(m.span.end.max(m.span.start)));
            let line_end = source[start..].find('\n').map_or(source.len(), |n| start + n);
            let before = &source[..start];
            let line_start = before.rfind('\n').map_or(0, |n| n + 1);
            Diagnostic {
                message: safe_text(&m.message),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                expected: safe_text(&m.expected),
                help: m.help.map(|h| safe_text(&h)),
                // One line only: a long value would push its own beginning off the screen.
                span: start..end.min(line_end).max(start),
            }
        })
        .collect();
    Diagnostics { name: safe_text(name), source, list }
}

/// A text about the source made safe to show: messages quote what they complain about.
fn safe_text(text: &str) -> String {
    safe_source(text, &[]).0.replace('\n', "\u{FFFD}")
}

/// The source made safe to show, and for each byte of the original where it went.
fn safe_source(text: &str, secrets: &[Range<usize>]) -> (String, Vec<usize>) {
    let mut hidden = vec![false; text.len()];
    for r in passwords(text).iter().chain(secrets) {
        let end = r.end.min(text.len());
        hidden[r.start.min(end)..end].fill(true);
    }
    let mut out = String::with_capacity(text.len());
    let mut map = Vec::with_capacity(text.len() + 1);
    let mut masked = false;
    for (i, c) in text.char_indices() {
        map.extend(std::iter::repeat_n(out.len(), c.len_utf8()));
        if hidden[i] && c != '\n' {
            if !masked {
                out.push_str("***");
            }
            masked = true;
            continue;
        }
        masked = false;
        match c {
            '\n' => out.push(c),
            '\t' => out.push(' '),
            '\r' if text[i + 1..].starts_with('\n') => {}
            _ => out.push_str(&scrub::line(c.encode_utf8(&mut [0; 4]))),
        }
    }
    map.push(out.len());
    (out, map)
}

/// Where passwords stand in a text: in `scheme://user:PASSWORD@`, and as the value of an option that carries one. Rather masks
/// too much of a line than too little.
pub(crate) fn passwords(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (i, _) in text.match_indices("://") {
        let start = i + 3;
        let end = text[start..].find('\n').map_or(text.len(), |n| start + n);
        let run = &text[start..end];
        if let (Some(at), Some(colon)) = (run.rfind('@'), run.find(':'))
            && colon < at
        {
            found.push(start + colon + 1..start + at);
        }
        let lower = run.to_ascii_lowercase();
        for option in ["password=", "aws_session_token:", "aws_secret_access_key:"] {
            for (o, _) in lower.match_indices(option) {
                let from = start + o + option.len();
                let to = text[from..end].find(['&', ',', '#', '"']).map_or(end, |n| from + n);
                found.push(from..to);
            }
        }
    }
    found.retain(|r| !is_variables(&text[r.clone()]));
    found
}

/// True for `${NAME}` and nothing else (empty counts too: there is no secret in it).
fn is_variables(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix("${")
            .and_then(|t| t.strip_suffix('}'))
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

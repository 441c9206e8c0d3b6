//! Reads TOML tables key by key, remembering positions and collecting every mistake instead of stopping at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{self, Diagnostics, Mistake};
use crate::runtime::Micros;

/// Mistakes found so far, and what must not be shown.
#[derive(Default)]
pub(crate) struct Reader {
    mistakes: Vec<Mistake>,
    secrets: Vec<Range<usize>>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// A table, its position and its name in messages.
#[derive(Clone)]
pub(crate) struct Table<'a, 'i> {
    pub(crate) table: &'a DeTable<'i>,
    pub(crate) span: Range<usize>,
    pub(crate) what: String,
}

/// Parses TOML. All syntax errors are reported, and nothing else then.
pub(crate) fn parse<'i>(text: &'i str, name: &str) -> Result<Spanned<DeTable<'i>>, Diagnostics> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table);
    }
    let mut reader = Reader::default();
    for e in errors {
        let span = e.span().unwrap_or(0..0);
        let message = e.message();
        let (message, expected) = match message.split_once(", expected ") {
            Some((m, x)) => (m.to_owned(), format!("expected {}", x.replace("literal string", "a quoted string"))),
            None => (message.to_owned(), String::new()),
        };
        reader.error(span, format!("this is not TOML: {message}"), expected, None);
    }
    Err(reader.finish(text, name))
}

impl Reader {
    pub(crate) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        expected: impl Into<String>,
        help: Option<String>,
    ) {
        self.mistakes.push(Mistake { span, message: message.into(), expected: expected.into(), help });
    }

    /// Hides a part of the source wherever the file is shown.
    pub(crate) fn hide(&mut self, span: Range<usize>) {
        self.secrets.push(span);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub(crate) fn finish(self, text: &str, name: &str) -> Diagnostics {
        diagnostics::finish(text, name, &self.secrets, self.mistakes)
    }

    /// Refuses every key that is not in `known`, naming the nearest.
    pub(crate) fn only(&mut self, t: &Table<'_, '_>, known: &[&str]) {
        for key in t.table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let message = format!("unknown key `{name}` in {}", t.what);
                self.error(key.span(), message, "", Some(nearest(name, known.iter().copied())));
            }
        }
    }

    fn wrong<T>(&mut self, v: &Spanned<DeValue<'_>>, key: &str, expected: &str) -> Option<T> {
        let found = v.get_ref().type_str();
        self.error(
            v.span(),
            format!("`{key}` has the wrong type"),
            format!("expected {expected}, found {found}"),
            None,
        );
        None
    }

    /// Reports a key that must be there.
    pub(crate) fn missing(&mut self, t: &Table<'_, '_>, key: &str, example: &str) {
        self.error(
            t.span.clone(),
            format!("`{key}` is missing in {}", t.what),
            "",
            Some(format!("add `{key} = {example}`")),
        );
    }

    pub(crate) fn string(&mut self, t: &Table<'_, '_>, key: &str) -> Option<At<String>> {
        let v = t.table.get(key)?;
        match v.get_ref().as_str() {
            Some(s) => Some(At { value: s.to_owned(), span: v.span() }),
            None => self.wrong(v, key, "a string"),
        }
    }

    pub(crate) fn required(&mut self, t: &Table<'_, '_>, key: &str, example: &str) -> Option<At<String>> {
        if !t.table.contains_key(key) {
            self.missing(t, key, example);
        }
        self.string(t, key)
    }

    pub(crate) fn boolean(&mut self, t: &Table<'_, '_>, key: &str) -> Option<At<bool>> {
        let v = t.table.get(key)?;
        match v.get_ref().as_bool() {
            Some(b) => Some(At { value: b, span: v.span() }),
            None => self.wrong(v, key, "true or false"),
        }
    }

    pub(crate) fn integer(&mut self, t: &Table<'_, '_>, key: &str, from: i64, to: i64) -> Option<At<i64>> {
        let v = t.table.get(key)?;
        let Some(n) = v.get_ref().as_integer() else { return self.wrong(v, key, "a whole number") };
        match i64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| (from..=to).contains(n)) {
            Some(n) => Some(At { value: n, span: v.span() }),
            None => {
                self.error(v.span(), format!("`{key}` is out of range"), format!("expected {from} to {to}"), None);
                None
            }
        }
    }

    pub(crate) fn number(&mut self, t: &Table<'_, '_>, key: &str) -> Option<At<f64>> {
        let v = t.table.get(key)?;
        let n = match v.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            DeValue::Float(x) => x.as_str().parse::<f64>().ok(),
            _ => return self.wrong(v, key, "a number"),
        };
        match n.filter(|n| n.is_finite()) {
            Some(value) => Some(At { value, span: v.span() }),
            None => {
                self.error(v.span(), format!("`{key}` is not a usable number"), "expected a finite number", None);
                None
            }
        }
    }

    pub(crate) fn duration(&mut self, t: &Table<'_, '_>, key: &str) -> Option<At<Micros>> {
        let v = t.table.get(key)?;
        let Some(text) = v.get_ref().as_str() else { return self.wrong(v, key, "a duration like \"10m\"") };
        match parse_duration(text) {
            Some(value) => Some(At { value, span: v.span() }),
            None => {
                let message = format!("`{text}` is not a duration");
                self.error(v.span(), message, "expected hours, minutes, seconds or milliseconds", {
                    Some("write it like \"10m\", \"2s\", \"250ms\" or \"1h30m\"".into())
                });
                None
            }
        }
    }

    /// A duration within bounds, or `default`.
    pub(crate) fn duration_in(
        &mut self,
        t: &Table<'_, '_>,
        key: &str,
        from: Micros,
        to: Micros,
        default: Micros,
    ) -> Micros {
        let Some(d) = self.duration(t, key) else { return default };
        if d.value < from || d.value > to {
            let expected = format!("expected {} to {}", duration_text(from), duration_text(to));
            self.error(d.span, format!("`{key}` is out of range"), expected, None);
            return default;
        }
        d.value
    }

    pub(crate) fn table<'a, 'i>(&mut self, t: &Table<'a, 'i>, key: &str, what: &str) -> Option<Table<'a, 'i>> {
        let v = t.table.get(key)?;
        match v.get_ref().as_table() {
            Some(table) => Some(Table { table, span: v.span(), what: what.into() }),
            None => self.wrong(v, key, "a table"),
        }
    }

    /// Tables of an array of tables (or an array of inline tables).
    pub(crate) fn tables<'a, 'i>(&mut self, t: &Table<'a, 'i>, key: &str, what: &str) -> Vec<Table<'a, 'i>> {
        let mut all = Vec::new();
        for v in self.items(t, key, "an array of tables") {
            match v.get_ref().as_table() {
                Some(table) => all.push(Table { table, span: v.span(), what: what.into() }),
                None => self.wrong(v, key, "a table").unwrap_or_default(),
            }
        }
        all
    }

    /// The items of an array.
    pub(crate) fn items<'a, 'i>(
        &mut self,
        t: &Table<'a, 'i>,
        key: &str,
        expected: &str,
    ) -> Vec<&'a Spanned<DeValue<'i>>> {
        let Some(v) = t.table.get(key) else { return Vec::new() };
        match v.get_ref().as_array() {
            Some(a) => a.iter().collect(),
            None => self.wrong::<()>(v, key, expected).map_or_else(Vec::new, |()| Vec::new()),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, word: &At<String>, what: &str, known: &[(&str, T)]) -> Option<T> {
        if let Some((_, v)) = known.iter().find(|(n, _)| *n == word.value) {
            return Some(*v);
        }
        let names = known.iter().map(|(n, _)| *n);
        let expected = format!("expected {}", list(names.clone()));
        self.error(
            word.span.clone(),
            format!("unknown {what} `{}`", word.value),
            expected,
            suggest(&word.value, names),
        );
        None
    }
}

/// `a`, `b` or `c`.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<String> = names.map(|n| format!("`{n}`")).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// The nearest valid name, when one is near.
pub(crate) fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = known
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(d, k)| *d <= (k.len() / 3).max(2) && *d < k.len())
        .min()?;
    Some(format!("did you mean `{}`?", near.1))
}

/// The nearest valid name, or all of them.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    suggest(name, known.clone()).unwrap_or_else(|| format!("known here: {}", list(known).replace(" or ", ", ")))
}

/// `10m`, `2s`, `250ms`, `1h30m`: whole numbers with units, largest first, each at most once.
pub(crate) fn parse_duration(text: &str) -> Option<Micros> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
    let mut rest = text;
    let mut total = 0u64;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let n: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let at = UNITS.iter().position(|(u, _)| *u == &rest[..letters])?;
        if at < next_unit {
            return None;
        }
        next_unit = at + 1;
        rest = &rest[letters..];
        total = total.checked_add(n.checked_mul(UNITS[at].1)?)?;
    }
    // A year is more than any rollout; keeps sums of spans far from overflow.
    (!text.is_empty() && total <= 366 * 86_400_000_000).then_some(Micros(total))
}

/// A duration as plans write it.
pub(crate) fn duration_text(d: Micros) -> String {
    let us = d.0;
    for (unit, size) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)] {
        if us >= size && us.is_multiple_of(size) {
            return format!("{}{unit}", us / size);
        }
    }
    format!("{}ms", us / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, us) in [
            ("10m", 600_000_000),
            ("2s", 2_000_000),
            ("250ms", 250_000),
            ("1h30m", 5_400_000_000),
            ("0s", 0),
            ("1d", 86_400_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Micros(us)), "{text}");
        }
        for text in ["", "10", "s", "1m1h", "1s1s", "-1s", "1.5s", "1 s", "10us", "99999999999999999999s", "400d", "1é"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}

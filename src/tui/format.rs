//! Numbers, spans and texts as a screen shows them. Pure; what is not known is never 0 but [`NOT_KNOWN`].

use crate::runtime::Micros;

/// Shown for a figure that is not known.
pub const NOT_KNOWN: &str = "–";

/// `1 204 331`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// Five characters at most: `980`, `8.2k`, `18k`, `1.24M`.
#[must_use]
pub fn compact(x: f64) -> String {
    if !x.is_finite() || x < 0.0 {
        return NOT_KNOWN.into();
    }
    let (scaled, suffix) = match x {
        x if x < 999.5 => return if x < 10.0 && x.fract() > 0.049 { format!("{x:.1}") } else { format!("{x:.0}") },
        x if x < 999.5e3 => (x / 1e3, "k"),
        x if x < 999.5e6 => (x / 1e6, "M"),
        x if x < 999.5e9 => (x / 1e9, "G"),
        x => (x / 1e12, "T"),
    };
    let text = if scaled < 9.95 { format!("{scaled:.1}") } else { format!("{scaled:.0}") };
    format!("{}{suffix}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A latency to three figures: `0.42ms`, `3.9ms`, `31.2ms`, `212ms`, `1.94s`.
#[must_use]
pub fn latency(t: Micros) -> String {
    ms(t.0 as f64 / 1e3)
}

fn ms(ms: f64) -> String {
    match ms {
        x if x < 0.995 => format!("{x:.2}ms"),
        x if x < 99.95 => format!("{x:.1}ms"),
        x if x < 999.5 => format!("{x:.0}ms"),
        x if x < 9_995.0 => format!("{:.2}s", x / 1e3),
        x if x < 99_950.0 => format!("{:.1}s", x / 1e3),
        x => seconds(x / 1e3),
    }
}

fn seconds(s: f64) -> String {
    match s {
        x if x < 0.0995 => ms(x * 1e3),
        x if x < 99.95 => format!("{x:.1}s"),
        x if x < 600.0 => format!("{x:.0}s"),
        x if x < 5_970.0 => format!("{:.0}m", x / 60.0),
        x if x < 359_640.0 => format!("{:.1}h", x / 3_600.0),
        x => format!("{:.0}d", x / 86_400.0),
    }
}

/// A lag or an age: `0.4s`, `42s`, `12m`, `41.2h`.
#[must_use]
pub fn lag(t: Micros) -> String {
    if t < Micros::from_ms(100) { format!("{}ms", t.as_ms()) } else { seconds(t.as_secs_f64()) }
}

/// A span of work: `42s`, `12:04`, `1h12m`.
#[must_use]
pub fn span(t: Micros) -> String {
    let s = t.0 / 1_000_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{:02}:{:02}", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
    }
}

/// How long of how long, in one unit: `42/60s`, `3/10m`.
#[must_use]
pub fn of(done: Micros, whole: Micros) -> String {
    let (d, w) = (done.0 / 1_000_000, whole.0 / 1_000_000);
    let d = d.min(9_999);
    if w == 0 {
        format!("{d}s")
    } else if w < 120 && d < 1_000 {
        format!("{d}/{w}s")
    } else {
        format!("{}/{}m", d / 60, w.div_ceil(60))
    }
}

/// A share (0 to 1) as percent: `0%`, `0.02%`, `1.3%`, `61%`.
#[must_use]
pub fn share(x: f64) -> String {
    percent(x * 100.0)
}

/// A percentage. Rounds down near 100, so that 100 % means all of it.
#[must_use]
pub fn percent(p: f64) -> String {
    match p {
        p if !p.is_finite() => NOT_KNOWN.into(),
        0.0 => "0%".into(),
        p if p < 0.0 => format!("{p:.2}%"),
        p if p < 0.005 => "<0.01%".into(),
        p if p < 0.995 => format!("{p:.2}%"),
        p if p < 10.0 && (p - p.round()).abs() >= 0.05 => format!("{p:.1}%"),
        p if p > 99.0 && p < 100.0 => format!("{:.1}%", (p * 10.0).floor() / 10.0),
        p => format!("{p:.0}%"),
    }
}

/// A gate's value in its unit.
#[must_use]
pub fn value(x: f64, unit: &str) -> String {
    if !x.is_finite() {
        return NOT_KNOWN.into();
    }
    match unit {
        "ms" => ms(x.max(0.0)),
        "s" => seconds(x.max(0.0)),
        "%" => percent(x),
        "x" if x < 99.5 => format!("{x:.2}x"),
        "x" => format!("{x:.0}x"),
        "" if x >= 0.0 && x.fract() == 0.0 && x < 100_000.0 => grouped(x as u64),
        "" => compact(x),
        other => format!("{}{other}", compact(x)),
    }
}

/// `14:22:07Z` of a wall-clock time in milliseconds since the Unix epoch.
#[must_use]
pub fn clock(wall_ms: i64) -> String {
    if wall_ms <= 0 {
        return "--:--:--Z".into();
    }
    let s = wall_ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", s / 3_600, s / 60 % 60, s % 60)
}

/// Columns a text takes.
#[must_use]
pub fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { ratatui::text::Span::raw(text).width() }
}

/// The text in at most `max` columns, cut between words with an ellipsis. A single word too long is cut inside.
#[must_use]
pub fn fit(text: &str, max: usize) -> String {
    if width(text) <= max {
        return text.to_owned();
    }
    let mut end = 0; // where the last word that fits ends
    let mut hard = 0; // where the last character that fits ends
    let mut used = 0;
    for (at, c) in text.char_indices() {
        if c == ' ' {
            end = at;
        }
        used += width(c.encode_utf8(&mut [0; 4]));
        if used + 1 > max {
            break;
        }
        hard = at + c.len_utf8();
    }
    if hard == 0 {
        return if max == 0 { String::new() } else { "…".into() };
    }
    // Cutting off most of the line for the sake of one long word would hide more than it helps.
    let at = if end.min(hard) * 2 > hard { end.min(hard) } else { hard };
    format!("{}…", text[..at].trim_end_matches([' ', ',', ';', ':', '(']))
}

/// The text in lines of at most `max` columns, broken between words.
#[must_use]
pub fn wrap(text: &str, max: usize) -> Vec<String> {
    let max = max.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word = fit(word, max);
        let last = lines.len() - 1;
        if lines[last].is_empty() {
            lines[last] = word;
        } else if width(&lines[last]) + 1 + width(&word) <= max {
            lines[last].push(' ');
            lines[last].push_str(&word);
        } else {
            lines.push(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(grouped(1_204_331), "1 204 331");
        assert_eq!((compact(980.0), compact(8_230.0), compact(18_204.0)), ("980".into(), "8.2k".into(), "18k".into()));
        let l = |us| latency(Micros(us));
        assert_eq!(
            [l(420), l(3_900), l(31_240), l(212_000), l(1_940_000)],
            ["0.42ms", "3.9ms", "31.2ms", "212ms", "1.94s"]
        );
        assert_eq!(
            [value(148_320.0, "s"), value(4.1, "s"), value(1.31, "x"), value(0.02, "%")],
            ["41.2h", "4.1s", "1.31x", "0.02%"]
        );
        assert_eq!((value(f64::NAN, "ms"), value(0.0, "")), ("–".into(), "0".into()));
        assert_eq!(of(Micros::from_secs(42), Micros::from_secs(60)), "42/60s");
        assert_eq!(clock(1_700_000_527_000), "22:22:07Z");
    }

    #[test]
    fn almost_all_is_never_shown_as_all() {
        assert_eq!(share(0.999_96), "99.9%");
        assert_eq!(share(1.0), "100%");
        assert_eq!(share(0.000_001), "<0.01%");
        assert_eq!(share(0.0), "0%");
    }

    #[test]
    fn text_is_cut_between_words() {
        assert_eq!(fit("legacy takes everything back", 16), "legacy takes…");
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("incomprehensibilities", 8), "incompr…");
        assert_eq!((fit("ab", 1), fit("ab", 0)), ("…".into(), String::new()));
        for max in 0..40 {
            assert!(width(&fit("wide 表示 text and more of it", max)) <= max);
        }
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }
}

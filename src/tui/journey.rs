//! A traced document in lines of text: what the trace screen shows and the command prints.

use crate::snapshot::{
    TraceEvent, TraceKept, TraceReach, TraceRoute, TraceStep, TraceVerdict, TraceVersion, TraceView,
};

use super::format::{NOT_KNOWN, clock, fit, grouped, lag, width, wrap};
use super::theme::Role;

/// Lines, each in its role.
pub type Lines = Vec<(String, Role)>;

/// Beside the words at the left.
const HEAD: usize = 10;
/// From this width on a third version stands beside the two.
const WIDE: usize = 96;

/// Everything about the document, in lines of at most `max` columns.
#[must_use]
pub fn lines(v: &TraceView, max: usize) -> Lines {
    let max = max.max(30);
    let mut out = Page { lines: Vec::new(), max };
    out.say(v.verdict.word(), &v.why, role(v.verdict));
    if let Some(why) = &v.person {
        out.say("A PERSON", &format!("has to decide: {why}"), Role::Bad);
    }
    whereabouts(&mut out, v);
    for note in &v.notes {
        out.say("note", note, Role::Warn);
    }
    match (v.masked, v.revealed) {
        (true, _) => out.say("masked", "some values are not shown, as the plan wants it", Role::Dim),
        (_, true) => out.say("REVEALED", "values that the plan masks are shown", Role::Warn),
        _ => {}
    }
    differences(&mut out, v);
    versions(&mut out, v);
    steps(&mut out, &v.lineage);
    kept(&mut out, &v.kept);
    events(&mut out, &v.events, &v.reach);
    if !v.journal.is_empty() {
        out.head("JOURNAL");
        for r in &v.journal {
            out.hang(&format!("{} #{:<5} ", clock(r.at_ms), r.seq), &r.text, Role::Text);
        }
    }
    out.lines
}

/// The colour of a verdict.
#[must_use]
pub fn role(verdict: TraceVerdict) -> Role {
    match verdict {
        TraceVerdict::Agrees | TraceVerdict::Alone => Role::Ok,
        TraceVerdict::Absent | TraceVerdict::NotCopied => Role::Accent,
        TraceVerdict::Moving | TraceVerdict::Unknown => Role::Warn,
        TraceVerdict::Differs => Role::Bad,
    }
}

struct Page {
    lines: Lines,
    max: usize,
}

impl Page {
    fn put(&mut self, line: String, role: Role) {
        self.lines.push((fit(&line, self.max), role));
    }

    fn head(&mut self, text: &str) {
        self.put(text.to_owned(), Role::Title);
    }

    /// A word, and beside it what there is to say about it.
    fn say(&mut self, head: &str, text: &str, role: Role) {
        // Long words push the text, and nothing is ever hidden behind one.
        let head = format!("{head:<HEAD$}");
        self.hang(&format!("{}{}", head, if head.ends_with(' ') { "" } else { " " }), text, role);
    }

    /// Text that goes on below itself.
    fn hang(&mut self, head: &str, text: &str, role: Role) {
        let indent = width(head).min(self.max / 2);
        for (i, line) in wrap(text, self.max.saturating_sub(indent)).into_iter().enumerate() {
            let head = if i == 0 { head.to_owned() } else { " ".repeat(indent) };
            self.put(format!("{head}{line}"), role);
        }
    }

    /// Cells side by side, the first one narrower.
    fn row(&mut self, cells: &[&str], role: Role) {
        let first = (self.max / 4).min(28);
        let other = (self.max - first - 2) / (cells.len() - 1).max(1);
        let mut line = String::from("  ");
        for (i, cell) in cells.iter().enumerate() {
            let space = if i == 0 { first } else { other };
            let cell = fit(cell, space - 1);
            line.push_str(&cell);
            line.extend(std::iter::repeat_n(' ', space.saturating_sub(width(&cell))));
        }
        self.put(line.trim_end().to_owned(), role);
    }
}

fn whereabouts(out: &mut Page, v: &TraceView) {
    let bucket = v.bucket.map_or_else(String::new, |b| format!(", in bucket {b} of 1024"));
    let at = if v.at_ms > 0 { format!(", looked at {}", clock(v.at_ms)) } else { String::new() };
    out.say("key", &format!("{}{bucket}{at}", v.key), Role::Text);
    let Some(r) = &v.route else { return };
    out.say("owner", &owner(r), Role::Text);
    if r.frozen {
        out.say("FROZEN", "writes of its bucket are held at this moment", Role::Warn);
    }
    if let Some((inside, cohort)) = &r.cohort {
        let is = if *inside { "in" } else { "not in" };
        out.say("cohort", &format!("{is} the pilot cohort ({cohort})"), Role::Text);
    }
}

fn owner(r: &TraceRoute) -> String {
    let (owner, reads) = (r.owner.name(), r.reads.name());
    match r.epoch {
        None => format!("{owner}, and reads go there: there is no route yet"),
        Some(epoch) => {
            let (w, rd) = (r.writes_next_below, r.reads_next_below);
            format!(
                "{owner}; reads go to {reads}; route {epoch} has writes below bucket {w} and reads below {rd} on next"
            )
        }
    }
}

fn differences(out: &mut Page, v: &TraceView) {
    if v.differences.is_empty() {
        return;
    }
    out.head("DIFFERS IN");
    out.row(&["field", "it holds", "it should hold"], Role::Dim);
    for d in &v.differences {
        let cell = |c: &Option<String>| c.clone().unwrap_or_else(|| NOT_KNOWN.to_owned());
        out.row(&[&d.path, &cell(&d.holds), &cell(&d.wanted)], Role::Bad);
    }
}

/// The versions side by side, by path; what there is no room for is said in a line.
fn versions(out: &mut Page, v: &TraceView) {
    if v.versions.is_empty() {
        return;
    }
    out.head("VERSIONS");
    let image = match v.route.as_ref().map(|r| r.owner) {
        Some(crate::route::Side::Next) => "inverse(next)",
        _ => "T(legacy)",
    };
    let before = v.kept.iter().filter(|k| k.kind == "pre-image").flat_map(|k| k.versions.first());
    let mut all: Vec<&TraceVersion> = v.versions.iter().collect();
    // The one that matters for the copy comes first.
    all.sort_by_key(|x| match x.name.as_str() {
        "legacy" | "document" => 0,
        "next" => 1,
        name if name == image => 2,
        _ => 3,
    });
    if v.version("document").is_some() {
        all.extend(before);
    }
    for x in &all {
        let place = if x.place.is_empty() { String::new() } else { format!(", {}", x.place) };
        let text = match (&x.problem, x.bytes) {
            (Some(why), _) if x.place.is_empty() => format!("cannot be made: {why}"),
            (Some(why), _) => format!("could not be read: {why}{place}"),
            (None, None) => format!("no document{place}"),
            (None, Some(n)) => format!("{} bytes{place}{}", grouped(n as u64), held(x)),
        };
        out.hang(&format!("  {:<16} ", x.name), &text, if x.problem.is_some() { Role::Warn } else { Role::Dim });
    }
    let columns = if out.max >= WIDE { 3 } else { 2 };
    let shown: Vec<&TraceVersion> = all.into_iter().filter(|x| x.bytes.is_some()).take(columns).collect();
    if shown.is_empty() {
        return;
    }
    let heads: Vec<&str> = std::iter::once("field").chain(shown.iter().map(|x| x.name.as_str())).collect();
    out.row(&heads, Role::Dim);
    let mut paths: Vec<&str> = Vec::new();
    for field in shown.iter().flat_map(|x| &x.fields) {
        if !paths.contains(&field.path.as_str()) {
            paths.push(&field.path);
        }
    }
    for path in paths {
        let cells = shown.iter().map(|x| x.fields.iter().find(|f| f.path == path).map_or("", |f| f.value.as_str()));
        let differs = v.differences.iter().any(|d| d.path == path);
        let cells: Vec<&str> = std::iter::once(path).chain(cells).collect();
        out.row(&cells, if differs { Role::Bad } else { Role::Text });
    }
    for x in shown.iter().filter(|x| x.more > 0) {
        out.put(format!("  … {} more values of {}", grouped(x.more as u64), x.name), Role::Dim);
    }
}

/// For what would be made: whether the other side holds just that.
fn held(x: &TraceVersion) -> String {
    let side = if x.name == "T(legacy)" { "next" } else { "legacy" };
    match x.is_held {
        Some(true) => format!(", what {side} holds"),
        Some(false) => format!(", not what {side} holds"),
        None => String::new(),
    }
}

fn steps(out: &mut Page, steps: &[TraceStep]) {
    if steps.is_empty() {
        return;
    }
    out.head("LINEAGE  the plan's steps, and how well each comes back");
    for s in steps {
        let (mark, role) = match s.touches {
            Some(true) if s.class == "lossy" => ("!", Role::Warn),
            Some(true) => ("»", Role::Text),
            Some(false) => ("·", Role::Dim),
            None => (" ", Role::Text),
        };
        let class = if s.class == "reordered" { "up to the order of fields" } else { &s.class };
        let absent = if s.touches == Some(false) { "; not in this document" } else { "" };
        out.hang(&format!("  {mark} {:<2} ", s.number), &format!("{}: {class}, {}{absent}", s.text, s.reason), role);
    }
}

fn kept(out: &mut Page, all: &[TraceKept]) {
    if all.is_empty() {
        return;
    }
    out.head("KEPT");
    for k in all {
        let (mark, role) = if k.open { ("!", Role::Bad) } else { ("·", Role::Text) };
        out.hang(&format!("  {mark} {:<9} ", k.kind), &format!("{} ({})", k.text, k.id), role);
        for x in &k.versions {
            let values: Vec<String> = x.fields.iter().map(|f| format!("{}={}", f.path, f.value)).collect();
            out.put(format!("    {:<9} {}", x.name, values.join("  ")), Role::Dim);
        }
    }
}

fn events(out: &mut Page, events: &[TraceEvent], reach: &[TraceReach]) {
    if reach.is_empty() {
        return;
    }
    out.head("CHANGES");
    for r in reach {
        let side = r.side.name();
        let text = match r.back {
            Some(back) => format!("every one of the last {} is known ({})", lag(back), r.why),
            None => format!("none is known: {}", r.why),
        };
        out.hang(&format!("  {side:<7} "), &text, Role::Dim);
    }
    for e in events {
        let by = match e.own {
            Some(true) => "by tidegate",
            Some(false) => "by an application",
            None => "",
        };
        let line = format!("  {} {:<7} {:<8} {by}", clock(e.at_ms), e.side.name(), e.kind);
        out.put(line.trim_end().to_owned(), Role::Text);
    }
}

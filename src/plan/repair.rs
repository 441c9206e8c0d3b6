//! Repair templates: what a repair does, in which order and within which limits. Those that come with tidegate, and files of one's
//! own (schema 1), read like a plan: an unknown key is an error with its place.

use super::diagnostics::Diagnostics;
use super::parse::check_id;
use super::reader::{self, Reader, Table};
use crate::route::BUCKETS;

/// The schema this build reads.
const SCHEMA: i64 = 1;
/// The most documents that any limit can name.
const MOST: i64 = 1_000_000_000;

/// One thing that a repair can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairKind {
    /// Writes the copy of every key that differs afresh from its owner's document; absent means delete.
    Resync,
    /// Writes the copies that are not there.
    RestoreMissing,
    /// Takes away the copies whose owner has no document.
    RemoveExtra,
    /// Builds the plan's indexes on next that are not there, and again those with other options.
    RebuildIndex,
    /// Puts what a stray wrote onto the owner's document, where that is as it was when the stray was found.
    CarryStray,
    /// Marks a stray as resolved by a person, or takes back a document that a repair has replaced or removed.
    Release,
}

impl RepairKind {
    /// All of them, in the order in which they are listed.
    pub const ALL: [RepairKind; 6] = [
        RepairKind::CarryStray,
        RepairKind::Resync,
        RepairKind::RestoreMissing,
        RepairKind::RemoveExtra,
        RepairKind::RebuildIndex,
        RepairKind::Release,
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RepairKind::Resync => "resync",
            RepairKind::RestoreMissing => "restore-missing",
            RepairKind::RemoveExtra => "remove-extra",
            RepairKind::RebuildIndex => "rebuild-index",
            RepairKind::CarryStray => "carry-stray",
            RepairKind::Release => "release",
        }
    }

    /// What it does, in one line.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            RepairKind::Resync => "write the copy of every key that differs afresh from its owner's document",
            RepairKind::RestoreMissing => "write the copies that are missing",
            RepairKind::RemoveExtra => "take away copies whose owner has no document; each is kept in quarantine first",
            RepairKind::RebuildIndex => {
                "build the plan's indexes on next that are absent, and again those with other options"
            }
            RepairKind::CarryStray => "put what a stray wrote onto the owner's document, if that is as it was then",
            RepairKind::Release => {
                "say that a stray is resolved, or take back what a repair has replaced or removed; by name, with a reason"
            }
        }
    }
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairAction {
    /// What it does.
    pub kind: RepairKind,
    /// Documents it may touch; more than that, and it does nothing.
    pub max_documents: Option<u64>,
    /// Only these keys, as the journal and the screen show them; empty is every key.
    pub keys: Vec<String>,
    /// Only keys of the buckets from the first up to, not including, the second.
    pub buckets: Option<(u16, u16)>,
}

impl RepairAction {
    /// Everything that `kind` can do, without limits of its own.
    #[must_use]
    pub fn new(kind: RepairKind) -> RepairAction {
        RepairAction { kind, max_documents: None, keys: Vec::new(), buckets: None }
    }
}

/// What a repair does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairTemplate {
    /// Its name: the journal has it.
    pub id: String,
    /// A few words.
    pub title: String,
    /// Carried out one after the other.
    pub actions: Vec<RepairAction>,
}

impl RepairTemplate {
    /// The template that does this one thing.
    #[must_use]
    pub fn builtin(kind: RepairKind) -> RepairTemplate {
        RepairTemplate {
            id: kind.name().to_owned(),
            title: kind.about().to_owned(),
            actions: vec![RepairAction::new(kind)],
        }
    }

    /// Reads and checks a file of one's own. `name` is the file's name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line and column.
    pub fn parse(text: &str, name: &str) -> Result<RepairTemplate, Diagnostics> {
        let root = reader::parse(text, name)?;
        let mut r = Reader::default();
        let found = read(&mut r, &Table { table: root.get_ref(), span: 0..0, what: "the repair file".into() });
        match found {
            Some(template) if r.is_clean() => Ok(template),
            _ => {
                if r.is_clean() {
                    // Each reader reports before it gives up; this keeps an oversight there from looking like success.
                    r.error(0..0, "the repair file cannot be read", "", None);
                }
                Err(r.finish(text, name))
            }
        }
    }
}

fn read(r: &mut Reader, t: &Table<'_, '_>) -> Option<RepairTemplate> {
    if !t.table.contains_key("schema") {
        r.missing(t, "schema", "1");
    } else if let Some(n) = r.integer(t, "schema", i64::MIN, i64::MAX).filter(|n| n.value != SCHEMA) {
        let message = format!("schema {} is not known to this version of tidegate", n.value);
        r.error(n.span, message, format!("expected {SCHEMA}"), None);
        return None;
    }
    r.only(t, &["schema", "repair", "action"]);
    if !t.table.contains_key("repair") {
        r.error(0..0, "the table `[repair]` is missing", "", Some("add `[repair]` with at least `id = \"…\"`".into()));
    }
    let head = r.table(t, "repair", "[repair]");
    let everywhere = head.as_ref().map_or_else(Bounds::default, |h| {
        r.only(h, &["id", "title", "max_documents", "keys", "buckets"]);
        bounds(r, h)
    });
    let actions = r.tables(t, "action", "[[action]]");
    if actions.is_empty() && !t.table.contains_key("action") {
        let help = "add `[[action]]` with `do = \"resync\"`";
        r.error(0..0, "the file has no `[[action]]`", "", Some(help.into()));
    }
    let actions = actions.iter().filter_map(|a| read_action(r, a, &everywhere)).collect();
    let head = head?;
    let id = r.required(&head, "id", "\"after-the-outage\"").and_then(|id| check_id(r, &id))?;
    let title = r.string(&head, "title").map_or_else(|| id.clone(), |s| crate::scrub::short(&s.value, 200));
    Some(RepairTemplate { id, title, actions })
}

#[derive(Default)]
struct Bounds {
    max_documents: Option<u64>,
    keys: Vec<String>,
    buckets: Option<(u16, u16)>,
}

fn bounds(r: &mut Reader, t: &Table<'_, '_>) -> Bounds {
    let max_documents = r.integer(t, "max_documents", 1, MOST).and_then(|n| u64::try_from(n.value).ok());
    Bounds { max_documents, keys: keys(r, t), buckets: buckets(r, t) }
}

/// What an action does not say itself is what the whole file says.
fn read_action(r: &mut Reader, t: &Table<'_, '_>, everywhere: &Bounds) -> Option<RepairAction> {
    r.only(t, &["do", "max_documents", "keys", "buckets"]);
    let word = r.required(t, "do", "\"resync\"");
    let own = bounds(r, t);
    let word = word?;
    let kind = r.word(&word, "action", &RepairKind::ALL.map(|k| (k.name(), k)))?;
    let keys = if own.keys.is_empty() { everywhere.keys.clone() } else { own.keys };
    if kind == RepairKind::Release && keys.is_empty() {
        let help = "add `keys = [\"…\"]`: the keys, or the `_id`s in tidegate.quarantine";
        r.error(
            word.span,
            "`release` releases what is named, and nothing else",
            "`keys` is missing",
            Some(help.into()),
        );
    }
    Some(RepairAction {
        kind,
        max_documents: own.max_documents.or(everywhere.max_documents),
        keys,
        buckets: own.buckets.or(everywhere.buckets),
    })
}

fn keys(r: &mut Reader, t: &Table<'_, '_>) -> Vec<String> {
    let mut all = Vec::new();
    for item in r.items(t, "keys", "an array of keys") {
        match item.get_ref().as_str() {
            Some(key) if !key.is_empty() => all.push(key.to_owned()),
            _ => {
                let help =
                    "write it as the journal shows it: \"17\" for the number, \"\\\"a-17\\\"\" for the text a-17";
                r.error(item.span(), "a key here is a text", "expected a string that is not empty", Some(help.into()));
            }
        }
    }
    if all.is_empty()
        && let Some(v) = t.table.get("keys").filter(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty()))
    {
        r.error(v.span(), "`keys` is empty", "expected at least one key; leave it out for every key", None);
    }
    all
}

fn buckets(r: &mut Reader, t: &Table<'_, '_>) -> Option<(u16, u16)> {
    let v = t.table.get("buckets")?;
    let items = r.items(t, "buckets", "two bucket numbers");
    let number = |i: usize| {
        let n = items.get(i)?.get_ref().as_integer()?;
        i64::from_str_radix(n.as_str(), n.radix()).ok()
    };
    // What is no array has been complained about.
    v.get_ref().as_array()?;
    match (number(0), number(1)) {
        (Some(from), Some(to)) if items.len() == 2 && 0 <= from && from < to && to <= i64::from(BUCKETS) => {
            Some((u16::try_from(from).ok()?, u16::try_from(to).ok()?))
        }
        _ => {
            let expected = format!("expected `[from, to]` with 0 <= from < to <= {BUCKETS}; `to` is not included");
            r.error(v.span(), "`buckets` is not a range of buckets", expected, None);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
schema = 1
[repair]
id = "after-the-outage"
title = "What the outage left"
max_documents = 50
buckets = [0, 512]
[[action]]
do = "carry-stray"
[[action]]
do = "resync"
max_documents = 200
keys = ["17", "\"a\""]
"#;

    fn wrong(text: &str) -> String {
        match RepairTemplate::parse(text, "mend.toml") {
            Err(d) => d.render(false),
            Ok(t) => format!("read as {t:?}"),
        }
    }

    #[test]
    fn an_action_has_the_limits_of_the_file_unless_it_says_its_own() {
        let t = RepairTemplate::parse(FILE, "mend.toml").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((t.id.as_str(), t.title.as_str()), ("after-the-outage", "What the outage left"));
        let [first, second] = &t.actions[..] else { panic!("{:?}", t.actions) };
        let everything = RepairAction::new(RepairKind::CarryStray);
        assert_eq!(*first, RepairAction { max_documents: Some(50), buckets: Some((0, 512)), ..everything });
        assert_eq!((second.kind, second.max_documents), (RepairKind::Resync, Some(200)));
        assert_eq!((&second.keys[..], second.buckets), (&["17".to_owned(), "\"a\"".to_owned()][..], Some((0, 512))));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let said = wrong(&FILE.replace("resync", "resink"));
        assert!(said.contains("mend.toml:11:6") && said.contains("did you mean `resync`?"), "{said}");
        let said = wrong(&FILE.replace("max_documents = 200", "max_document = 200"));
        assert!(said.contains("mend.toml:12:1") && said.contains("did you mean `max_documents`?"), "{said}");
        let said = wrong(&FILE.replace("[0, 512]", "[512, 512]"));
        assert!(said.contains("mend.toml:7:11") && said.contains("not a range of buckets"), "{said}");
        let said = wrong(&FILE.replace("schema = 1", "schema = 2"));
        assert!(said.contains("schema 2 is not known"), "{said}");
        let said = wrong(&FILE.replace("\"17\"", "17"));
        assert!(said.contains("a key here is a text"), "{said}");
        let said = wrong(&FILE.replace("carry-stray", "release"));
        assert!(said.contains("`keys` is missing"), "{said}");
        let said = wrong("schema = 1\n");
        assert!(said.contains("`[repair]` is missing") && said.contains("no `[[action]]`"), "{said}");
    }

    #[test]
    fn every_name_is_read_back() {
        for kind in RepairKind::ALL {
            let keys = if kind == RepairKind::Release { "keys = [\"1\"]" } else { "" };
            let text = format!("schema = 1\n[repair]\nid = \"x\"\n[[action]]\ndo = \"{}\"\n{keys}\n", kind.name());
            let t = RepairTemplate::parse(&text, "x.toml").unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(t.actions[0].kind, kind);
        }
    }
}

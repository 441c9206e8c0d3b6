//! What the control database keeps of a key: strays, refusals, conflicts, what repairs have replaced, pre-images. Read by their `_id`s,
//! which follow from the key and from what the journal names; no collection is gone through.

use bson::{RawBson, RawBsonRef, RawDocumentBuf};

use super::read::{self, Unread};
use super::shown::{Shower, inner};
use super::{Located, Looking};
use crate::cluster::{Doc, Key};
use crate::engine::in_place::{Way, record, undo_ns};
use crate::engine::quarantine::quarantine_ns;
use crate::rollout::State;
use crate::route::Side;
use crate::scrub;
use crate::snapshot::{TraceKept, TraceVersion};

/// Repairs whose records are looked for, newest first.
const REPAIRS: usize = 50;
/// Records read at a time: each may hold two large documents.
const TOGETHER: usize = 10;

/// What is kept, and the pre-image record as it is, which the way back is judged by.
#[derive(Default)]
pub(super) struct Kept {
    pub all: Vec<TraceKept>,
    /// A person has to decide about something of it, and about what.
    pub open: Option<String>,
    pub undo: Option<Doc>,
}

/// Reads all of it.
pub(super) async fn kept(look: &Looking<'_>, at: &Located, shower: &Shower) -> Result<Kept, Unread> {
    let mut out = Kept::default();
    let ids = ids(look, at);
    for part in ids.chunks(TOGETHER) {
        let docs = read::read(look.ctx, Side::Legacy, &quarantine_ns(), part).await?;
        for (id, doc) in part.iter().zip(docs) {
            if let Some(doc) = doc.filter(|d| is_of(d, &at.key)) {
                out.all.push(told(id, &doc, look.state, at, shower));
            }
        }
    }
    if let Ok(key) = record::key_of(look.ctx, &at.key) {
        out.undo = read::read(look.ctx, Side::Legacy, &undo_ns(), &[key]).await?.pop().flatten();
        out.all.extend(out.undo.as_ref().map(|doc| pre_image(doc, &at.text, shower)));
    }
    out.open = out.all.iter().find(|k| k.open).map(|k| k.text.clone());
    if out.open.is_none() {
        // Told before it is stored: a runner that was cut off in between has left nothing but the journal's word.
        out.open =
            named_open(look, at).map(|id| format!("the journal has it open as {id}, of which quarantine has nothing"));
    }
    Ok(out)
}

/// What is known of it where quarantine cannot be read: the journal's word.
pub(super) fn unread(look: &Looking<'_>, at: &Located) -> Kept {
    let conflict = look.state.conflicts.get(&at.text).is_some_and(Option::is_none);
    let open = match named_open(look, at) {
        Some(id) => Some(format!("the journal has it open as {id}")),
        None => conflict.then(|| "the journal has it as a conflict that nobody has decided about".to_owned()),
    };
    Kept { open, ..Kept::default() }
}

/// A record of quarantine that the journal names and has open.
fn named_open(look: &Looking<'_>, at: &Located) -> Option<String> {
    let ids = look.history.kept(&at.text).into_iter();
    ids.filter(|id| look.state.strays.contains(id)).map(|id| scrub::short(&id, 120)).next()
}

/// Under which `_id`s quarantine may keep something of the key.
fn ids(look: &Looking<'_>, at: &Located) -> Vec<Key> {
    let (plan, text) = (&look.ctx.plan.id, &at.text);
    let mut names = look.history.kept(text);
    names.extend(Side::BOTH.map(|side| format!("{plan}/{}/refused/{text}", side.name())));
    names.insert(format!("{plan}/salvage/{text}"));
    names.extend(look.history.repairs().take(REPAIRS).map(|epoch| format!("{plan}/repair/{epoch}/{text}")));
    let mut ids: Vec<Key> = names.iter().map(|id| Key::from(id.as_str())).collect();
    if look.ctx.in_place.is_some() {
        ids.extend([Way::There, Way::Back].into_iter().filter_map(|way| mixed(plan, way, &at.key)));
    }
    ids
}

/// The `_id` under which a document of neither shape is listed.
fn mixed(plan: &str, way: Way, key: &Key) -> Option<Key> {
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("rollout"), plan);
    id.append(bson::cstr!("to"), way.shape());
    id.append(bson::cstr!("key"), RawBson::from(key.value()));
    Key::new(RawBsonRef::Document(&id)).ok()
}

/// Two keys may be displayed alike; the record has the key itself.
fn is_of(record: &Doc, key: &Key) -> bool {
    record.get("key").ok().flatten().is_some_and(|v| Key::new(v).is_ok_and(|k| k == *key))
}

fn told(id: &Key, record: &Doc, state: &State, at: &Located, shower: &Shower) -> TraceKept {
    // A text is named bare, as `repair --key` takes it.
    let id = match id.value() {
        RawBsonRef::String(text) => text.to_owned(),
        _ => id.to_string(),
    };
    let word = |field: &str| record.get_str(field).ok().map(|t| scrub::short(t, 300));
    let (event, side) = (word("event").unwrap_or_default(), word("side").unwrap_or_default());
    let outcome = word("outcome");
    let kind = match event.as_str() {
        "refused" | "mixed" | "repair" => event.as_str(),
        "salvage" if state.conflicts.contains_key(&at.text) => "conflict",
        "salvage" => "salvage",
        "insert" | "update" | "replace" | "delete" => "stray",
        _ => "kept",
    };
    let open = match kind {
        "conflict" => state.conflicts.get(&at.text).is_some_and(Option::is_none),
        _ => state.strays.contains(&id),
    };
    // Records of before may quote values of documents.
    let why = word("why").map_or_else(String::new, |why| format!(": {}", scrub::before_values(&why)));
    let became = match (&outcome, open) {
        (_, true) => ", nobody has decided about it yet".to_owned(),
        (Some(outcome), false) => format!(", {outcome}"),
        (None, false) => String::new(),
    };
    let text = match kind {
        "stray" => format!("{event} on {side}, which did not own the key{became}"),
        "refused" => format!("{side}'s document has no place on the other side{why}{became}"),
        "mixed" => format!("it was neither shape{why}{became}"),
        "conflict" => format!("written on both sides while next did not answer{became}"),
        "salvage" => format!("written on next while it did not answer{became}"),
        "repair" => format!("what {side} held before a repair replaced or removed it{became}"),
        _ => format!("{event}{why}{became}"),
    };
    let (kind, id) = (kind.to_owned(), scrub::short(&id, 200));
    TraceKept { kind, id, open, text: scrub::short(&text, 500), versions: versions(record, shower) }
}

fn versions(record: &Doc, shower: &Shower) -> Vec<TraceVersion> {
    let names = ["legacy", "next", "document", "was"];
    names.iter().filter_map(|name| Some(shower.version(name, "", Some(&*inner(record, name)?)))).collect()
}

/// What the document was before tidegate changed it.
fn pre_image(record: &Doc, key: &str, shower: &Shower) -> TraceKept {
    let mut versions = versions(record, shower);
    let later = inner(record, "later").and_then(|later| inner(&later, "was"));
    versions.extend(later.map(|was| shower.version("was, later", "", Some(&*was))));
    let text = match versions.is_empty() {
        true => "legacy had no document of the key before next's was carried to it",
        false => "what the document was before it was changed for the first time",
    };
    let id = scrub::short(&format!("{} {key}", undo_ns()), 200);
    TraceKept { kind: "pre-image".into(), id, open: false, text: text.into(), versions }
}

//! A text cut into parts beside it, and joined again.
//!
//! Cut at the first separators; the last part takes the rest. The parts stand where the text stood, and the text where the first
//! of its parts stood. Parts are joined only if cutting gives them back.

use std::borrow::Cow;

use super::op::is_null;
use super::tree::{self, Field, STRING, Value};
use super::{At, Path, Why};

pub(super) fn split<'a>(root: &mut Vec<Field<'a>>, whole: &Path, parts: &'a [Path], at: &str) -> At<()> {
    let Some(level) = tree::descend(root, whole.parents(), &whole.text)? else { return Ok(()) };
    if let Some(p) = parts.iter().find(|p| tree::position(level, p.last()).is_some()) {
        return p.fail(Why::Occupied);
    }
    let Some(i) = tree::position(level, whole.last()) else { return Ok(()) };
    if is_null(&level[i].value) {
        return Ok(());
    }
    let text = text_of(&level[i].value, whole)?;
    let mut pieces: Vec<Value<'a>> = Vec::with_capacity(parts.len());
    for piece in text.splitn(parts.len(), at) {
        pieces.push(Value::Owned(STRING, super::number::text_bytes(piece)));
    }
    if pieces.len() < parts.len() {
        return whole.fail(Why::Parts { expected: parts.len(), found: pieces.len() });
    }
    let fields = parts.iter().zip(pieces).map(|(p, value)| Field { name: Cow::Borrowed(p.last()), value });
    level.splice(i..=i, fields);
    Ok(())
}

pub(super) fn join<'a>(root: &mut Vec<Field<'a>>, whole: &'a Path, parts: &[Path], at: &str) -> At<()> {
    let Some(level) = tree::descend(root, whole.parents(), &whole.text)? else { return Ok(()) };
    let places: Vec<Option<usize>> = parts.iter().map(|p| tree::position(level, p.last())).collect();
    let present: Vec<usize> = places.iter().flatten().copied().collect();
    let there = tree::position(level, whole.last()).map(|i| is_null(&level[i].value));
    match there {
        // Null is no text: it stays, as long as there is nothing to join.
        Some(true) if present.is_empty() => return Ok(()),
        Some(_) => return whole.fail(Why::Occupied),
        None if present.is_empty() => return Ok(()),
        None => {}
    }
    if let Some(missing) = places.iter().position(Option::is_none) {
        return parts[missing].fail(Why::Part);
    }
    let texts = parts.iter().zip(&present).map(|(p, i)| text_of(&level[*i].value, p)).collect::<At<Vec<&str>>>()?;
    let joined = texts.join(at);
    if !joined.splitn(parts.len(), at).eq(texts.iter().copied()) {
        let holds = texts.iter().position(|t| t.contains(at)).unwrap_or(0);
        return parts[holds].fail(Why::Separator);
    }
    let first = present.iter().copied().min().unwrap_or(0);
    let value = Value::Owned(STRING, super::number::text_bytes(&joined));
    level[first] = Field { name: Cow::Borrowed(whole.last()), value };
    let mut i = 0;
    level.retain(|_| {
        i += 1;
        i - 1 == first || !present.contains(&(i - 1))
    });
    Ok(())
}

fn text_of<'v>(value: &'v Value<'_>, path: &Path) -> At<&'v str> {
    let bytes: &[u8] = match value {
        Value::Raw(STRING, b) => b,
        Value::Owned(STRING, b) => b,
        other => return path.fail(Why::Type { expected: "string", found: tree::type_name(other.kind()) }),
    };
    super::number::text(bytes).map_or_else(|| path.fail(Why::Malformed("it is not UTF-8")), Ok)
}

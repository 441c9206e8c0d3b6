//! Steps that move fields. `level` is always a variable that holds a document.

use bson::{Bson, doc};

use super::super::Path;
use super::expr::{
    Build, as_it_is, call, chain, cond, each_field, eq, get, has, has_type, is_document, is_named, name, nested,
    object, one, pair, pairs, unset,
};

fn var(text: &str) -> Bson {
    Bson::String(text.into())
}

/// As `shift::shift`.
pub(super) fn shift(b: &mut Build, root: Bson, from: &Path, to: &Path, shared: usize, early: bool) -> Bson {
    let (source, target) = (&from.parts[shared..], &to.parts[shared..]);
    b.edit(root, &from.parts[..shared], |b, level| {
        let Some((last, parents)) = source.split_last() else { return level };
        b.bind(chain(level.clone(), parents), |b, holder| {
            let moved = b.bind(get(holder.clone(), last), |b, v| moved(b, level.clone(), source, target, v, early));
            cond(has(holder, last), moved, level)
        })
    })
}

fn moved(b: &mut Build, level: Bson, source: &[Vec<u8>], target: &[Vec<u8>], value: Bson, early: bool) -> Bson {
    match (source, target) {
        ([_], [head, below @ ..]) => {
            let new = Bson::Array(vec![pair(name(head), nested(below, value.clone()))]);
            let in_place = each_field(level.clone(), cond(is_named(&source[0]), new, as_it_is()));
            if below.is_empty() {
                return in_place;
            }
            let into = b.put(unset(level.clone(), &source[0]), target, value, early);
            cond(has(level, head), into, in_place)
        }
        ([first, ..], [head]) => {
            let less = b.take(level.clone(), source);
            b.bind(less, |_, less| {
                let new = pair(name(head), value);
                let old = pair(name(first), get(less.clone(), first));
                let both = if early { vec![new.clone(), old] } else { vec![old, new.clone()] };
                let here = cond(has(less, first), Bson::Array(both), Bson::Array(vec![new]));
                each_field(level, cond(is_named(first), here, as_it_is()))
            })
        }
        _ => {
            let less = b.take(level, source);
            b.bind(less, |b, less| b.put(less, target, value, false))
        }
    }
}

/// As `parts::split`.
pub(super) fn split(b: &mut Build, level: Bson, whole: &[u8], parts: &[&[u8]], at: &str) -> Bson {
    b.bind(get(level.clone(), whole), |b, text| {
        let new = cut(b, text.clone(), parts, at, Vec::new());
        let new = each_field(level.clone(), cond(is_named(whole), new, as_it_is()));
        cond(has_type(text, "string"), new, level)
    })
}

/// The array of the parts' pairs: cuts at the first separator of `rest`, again and again.
fn cut(b: &mut Build, rest: Bson, parts: &[&[u8]], at: &str, mut done: Vec<Bson>) -> Bson {
    let Some((head, below)) = parts.split_first() else { return Bson::Array(done) };
    if below.is_empty() {
        done.push(pair(name(head), rest));
        return Bson::Array(done);
    }
    let place = call("$indexOfBytes", [rest.clone(), name(at.as_bytes())]);
    b.bind(place, |b, place| {
        let part = call("$substrBytes", [rest.clone(), Bson::Int32(0), place.clone()]);
        let length = i32::try_from(at.len()).unwrap_or(i32::MAX);
        // A negative length means all that is left.
        let after = call("$substrBytes", [rest, call("$add", [place, Bson::Int32(length)]), Bson::Int32(-1)]);
        b.bind(after, |b, after| {
            done.push(pair(name(head), part));
            cut(b, after, below, at, done)
        })
    })
}

/// As `parts::join`.
pub(super) fn join(b: &mut Build, level: Bson, whole: &[u8], parts: &[&[u8]], at: &str) -> Bson {
    let mut texts = Vec::new();
    for (i, p) in parts.iter().enumerate() {
        if i > 0 {
            texts.push(name(at.as_bytes()));
        }
        texts.push(get(level.clone(), p));
    }
    let names = Bson::Array(parts.iter().map(|p| name(p)).collect());
    let is_part = call("$in", [var("$$f.k"), names]);
    b.bind(first_where(level.clone(), is_part.clone()), |_, first| {
        let here = Bson::Array(vec![pair(name(whole), call("$concat", texts))]);
        let change = cond(eq(var("$$f.k"), first), here, cond(is_part, Bson::Array(Vec::new()), as_it_is()));
        let there = parts.first().map_or(Bson::Boolean(false), |p| has(level.clone(), p));
        cond(there, each_field(level.clone(), change), level)
    })
}

/// The name of the first field of which `test` is true.
fn first_where(level: Bson, test: Bson) -> Bson {
    let all = one("$filter", Bson::Document(doc! { "input": pairs(level), "as": "f", "cond": test }));
    Bson::Document(
        doc! { "$let": { "vars": { "first": call("$arrayElemAt", [all, Bson::Int32(0)]) }, "in": "$$first.k" } },
    )
}

/// As `spread::spread`.
pub(super) fn spread(b: &mut Build, level: Bson, field: &[u8], prefix: &[u8]) -> Bson {
    b.bind(get(level.clone(), field), |_, inner| {
        let renamed = pair(call("$concat", [name(prefix), var("$$g.k")]), var("$$g.v"));
        let all = one("$map", Bson::Document(doc! { "input": pairs(inner.clone()), "as": "g", "in": renamed }));
        let new = each_field(level.clone(), cond(is_named(field), all, as_it_is()));
        cond(is_document(inner), new, level)
    })
}

/// As `spread::gather`.
pub(super) fn gather(b: &mut Build, level: Bson, field: &[u8], prefix: &[u8]) -> Bson {
    let begins = |name_of: &str| eq(call("$indexOfBytes", [var(name_of), name(prefix)]), Bson::Int32(0));
    let length = Bson::Int32(i32::try_from(prefix.len()).unwrap_or(i32::MAX));
    b.bind(first_where(level.clone(), begins("$$f.k")), |_, first| {
        let ours = doc! { "input": pairs(level.clone()), "as": "g", "cond": begins("$$g.k") };
        let short = call("$substrBytes", [var("$$g.k"), length, Bson::Int32(-1)]);
        let inner = doc! { "input": one("$filter", Bson::Document(ours)), "as": "g", "in": pair(short, var("$$g.v")) };
        let here = Bson::Array(vec![pair(name(field), object(one("$map", Bson::Document(inner))))]);
        let rest = cond(begins("$$f.k"), Bson::Array(Vec::new()), as_it_is());
        let change = cond(eq(var("$$f.k"), first.clone()), here, rest);
        cond(has_type(first, "missing"), level.clone(), each_field(level, change))
    })
}

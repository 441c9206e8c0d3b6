//! How well each step comes back, in words that `check` prints.

use std::fmt;

use super::parent;
use crate::plan::{Keeps, Step};

/// How well a step comes back, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// `invert(apply(d)) == d`, byte for byte.
    Exact,
    /// Equal up to the order of fields in the parents that the step touches.
    Reordered,
    /// Equal up to the order of top-level fields, because each document is carried there and back before it is accepted: the plan
    /// declares the inverse.
    Declared,
    /// Something is lost; only the pre-image brings it back.
    Lossy,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Exact => "exact",
            Class::Declared => "declared",
            Class::Reordered => "reordered",
            Class::Lossy => "lossy",
        })
    }
}

impl Step {
    /// How well the step comes back.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Step::Convert { lossy: true, .. } | Step::Map { lossy: true, .. } => Class::Lossy,
            Step::Unset { was: None, .. } | Step::Pipeline { inverse: None, .. } => Class::Lossy,
            Step::Pipeline { inverse: Some(_), .. } => Class::Declared,
            Step::Rename { from, to } if parent(from) != parent(to) => Class::Reordered,
            Step::Unset { was: Some(_), .. } | Step::Nest { .. } | Step::Join { .. } => Class::Reordered,
            Step::Flatten { fields: Some(_), .. } => Class::Reordered,
            Step::Rename { .. } | Step::Convert { .. } | Step::Set { .. } | Step::Split { .. } => Class::Exact,
            Step::Flatten { .. } | Step::Wrap { .. } | Step::Map { .. } => Class::Exact,
        }
    }

    /// Why it is of its class; what is lost by a lossy one.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Step::Convert { from, to, lossy: true, .. } => match from.converts_to(*to) {
                Some(Keeps::Some(what) | Keeps::None(what)) => format!("loses {what}"),
                _ => "loses nothing".into(),
            },
            Step::Convert { .. } => "a value that would not come back is refused".into(),
            Step::Map { lossy: true, values, .. } => {
                let same = |i: usize| values[..i].iter().any(|(_, t)| *t == values[i].1);
                let n = (0..values.len()).filter(|i| same(*i)).count();
                match n {
                    0 => "loses whether a value was mapped or there already".into(),
                    n => format!("loses which value it was: {n} of {} become what another one becomes", values.len()),
                }
            }
            Step::Map { keep: true, .. } => "other values stay; one that others are mapped to is refused".into(),
            Step::Map { keep: false, .. } => "a value that is not mapped is refused".into(),
            Step::Unset { was: None, .. } => "loses the value".into(),
            Step::Unset { was: Some(_), .. } => "comes back as the last field".into(),
            Step::Pipeline { inverse: None, .. } => "has no inverse".into(),
            Step::Pipeline { .. } => "a document that the inverse does not bring back is refused".into(),
            Step::Rename { .. } if self.class() == Class::Exact => "stays in its place".into(),
            Step::Rename { .. } | Step::Nest { .. } | Step::Flatten { fields: Some(_), .. } => {
                "fields may come back in another order".into()
            }
            Step::Flatten { fields: None, .. } => "every field that begins with the prefix comes back".into(),
            Step::Join { .. } => "the parts come back side by side, in the plan's order".into(),
            Step::Split { .. } => "joined again".into(),
            Step::Set { .. } => "taken out again".into(),
            Step::Wrap { .. } => "unwrapped again".into(),
        }
    }
}

/// The step as a person would say it: `convert total string -> int`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Rename { from, to } => write!(f, "rename {from} -> {to}"),
            Step::Convert { path, from, to, .. } => write!(f, "convert {path} {} -> {}", from.name(), to.name()),
            Step::Set { path, .. } => write!(f, "set {path}"),
            Step::Unset { path, .. } => write!(f, "unset {path}"),
            Step::Nest { paths, into } => write!(f, "nest {} -> {into}", paths.join(", ")),
            Step::Flatten { path, prefix, fields: None } => write!(f, "flatten {path} -> {prefix}*"),
            Step::Flatten { path, prefix, fields: Some(all) } => {
                let names: Vec<String> = all.iter().map(|n| format!("{prefix}{n}")).collect();
                write!(f, "flatten {path} -> {}", names.join(", "))
            }
            Step::Split { path, into, .. } => write!(f, "split {path} -> {}", into.join(", ")),
            Step::Join { paths, to, .. } => write!(f, "join {} -> {to}", paths.join(", ")),
            Step::Wrap { path, field: None } => write!(f, "wrap {path} -> [{path}]"),
            Step::Wrap { path, field: Some(field) } => write!(f, "wrap {path} -> {path}.{field}"),
            Step::Map { path, values, .. } => write!(f, "map {path}, {} values", values.len()),
            Step::Pipeline { forward, .. } => {
                write!(f, "pipeline of {} stage{}", forward.len(), if forward.len() == 1 { "" } else { "s" })
            }
        }
    }
}

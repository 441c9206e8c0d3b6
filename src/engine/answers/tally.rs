//! What was answered, counted and told.

use bson::{RawBson, RawBsonRef};
use serde_json::{Value, json};

use super::sum::Sum;
use crate::cluster::Key;
use crate::plan::Plan;
use crate::route::Side;
use crate::scrub::short;
use crate::transform::comparable;

/// Keys named of one difference.
const EXAMPLES: usize = 3;
/// More documents in flight than one of so many are too many to call the rest alike,
const IN_FLIGHT: u64 = 100;
/// unless they are so few: a counter that is written all the time.
const FEW: u64 = 10;
/// More differing documents need not be counted.
const HOPELESS: u64 = 1_000;

/// What is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Type,
    Query,
    Total,
    Reference,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Type => "type",
            Kind::Query => "query",
            Kind::Total => "total",
            Kind::Reference => "reference",
        }
    }
}

/// A value's type as a server names it is one of these, or there is no value.
pub(super) fn is_of(is: Option<&RawBson>, known: &[String]) -> bool {
    let Some(RawBson::String(is)) = is else { return is.is_none() };
    let is_number = matches!(is.as_str(), "int" | "long" | "double" | "decimal");
    is == "missing" || known.iter().any(|k| k == is || (k == "number" && is_number))
}

/// Two answers are alike as a server compares. Null and nothing are.
pub(super) fn are_alike(answers: [Option<&RawBson>; 2]) -> bool {
    match answers.map(|a| a.filter(|v| !matches!(v, RawBson::Null))) {
        [Some(l), Some(n)] => same(l.as_raw_bson_ref(), n.as_raw_bson_ref()),
        [l, n] => l.is_some() == n.is_some(),
    }
}

/// As a server compares, whatever the types of two numbers.
fn same(a: RawBsonRef<'_>, b: RawBsonRef<'_>) -> bool {
    a == b || comparable(a) == comparable(b)
}

/// One declared thing.
pub(super) struct Tally {
    kind: Kind,
    name: String,
    /// Documents found, of the wrong type or without what they refer to.
    found: u64,
    sum: Sum,
    differing: u64,
    examples: Vec<String>,
    refused: Option<String>,
    pub(super) unasked: bool,
}

impl Tally {
    pub(super) fn refused(&mut self, side: Side, key: &Key, why: &str) {
        let (key, why) = (short(&key.to_string(), 80), short(why, 200));
        self.refused.get_or_insert_with(|| format!("on {} about _id {key}: {why}", side.name()));
    }

    /// Counts a document that was asked about.
    pub(super) fn count(&mut self, alike: bool, answer: Option<&RawBson>, key: &Key) {
        if let Some(v) = answer {
            self.found += 1;
            if self.kind == Kind::Total {
                self.sum.add(v);
            }
        }
        if !alike {
            self.differing += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(short(&key.to_string(), 80));
            }
        }
    }

    fn title(&self) -> String {
        let name = short(&self.name, 60);
        match self.kind {
            Kind::Type => format!("the type of `{name}` on next"),
            kind => format!("{} `{name}`", kind.word()),
        }
    }

    fn is_alike(&self) -> bool {
        self.differing == 0 && self.refused.is_none()
    }

    /// What is wrong with it, and what to do.
    fn complaint(&self, observes: bool) -> Option<String> {
        let title = self.title();
        if let Some(why) = &self.refused {
            let mend = if observes { "mend the question" } else { "mend the question (`tidegate amend`)" };
            return Some(format!("{title} cannot be asked {why}; {mend}, or what it needs"));
        }
        let (n, keys) = (self.differing, self.examples.join(", "));
        let which = match n {
            1 => format!("_id {keys}"),
            HOPELESS.. => format!("{n} documents or more, as _id {keys}"),
            _ => format!("{n} documents, as _id {keys}"),
        };
        let what = match self.kind {
            Kind::Type => "is not as planned",
            Kind::Query => "finds on one side only",
            Kind::Total => "is another on each side",
            Kind::Reference => "leads nowhere on one side only",
        };
        let wrong = match observes {
            true => "those of the other tool and of the plan or the question are wrong",
            false => "either those are wrong (go back, mend the plan) or the question is (`tidegate amend`)",
        };
        (n > 0).then(|| format!("{title} {what}: {which}; both sides' documents agree by the plan's steps, so {wrong}"))
    }

    /// What was found, where it is in order.
    fn text(&self, masked: bool, of: u64) -> String {
        let (title, n) = (self.title(), self.found);
        match self.kind {
            _ if self.unasked => format!("{title} was not asked: the embedded cluster cannot answer it"),
            Kind::Type if n == 0 => format!("{title} is as planned, but no document has it, which says little"),
            Kind::Type => format!("{title} is as planned"),
            Kind::Query if n == 0 => format!("{title} finds nothing on either side, which says little"),
            Kind::Query => format!("{title} finds {n} on both sides"),
            Kind::Total if n == 0 => format!("{title} has no value on either side, which says little"),
            Kind::Total if masked => format!("{title} is the same on both sides"),
            Kind::Total => format!("{title} is {} on both sides", self.sum.text()),
            Kind::Reference if n == 0 => format!("{title} leads nowhere in no document"),
            Kind::Reference if n == of => format!("{title} leads nowhere in all {n} documents, which says little"),
            Kind::Reference => format!("{title} leads nowhere in {n} documents, on both sides"),
        }
    }
}

/// What a plan declares, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `query`, `total`, `reference` or `type`.
    pub kind: &'static str,
    /// As the plan has it.
    pub name: String,
    /// Both sides answer alike.
    pub alike: bool,
    /// In words.
    pub text: String,
}

/// What was answered.
pub(in crate::engine) struct Outcome {
    whole: bool,
    /// Some values are masked: a sum of them is not told either.
    masked: bool,
    /// The plan only observes.
    observes: bool,
    /// So much differs that the rest was not asked about.
    pub(super) cut_short: bool,
    /// A collection that is referred to and not there.
    pub(in crate::engine) lacking: Option<String>,
    /// Documents asked about whose two versions agree.
    pub(in crate::engine) documents: u64,
    /// Documents that were written too often to be asked about.
    pub(in crate::engine) in_flight: u64,
    /// Documents that are listed for a person and have no right copy.
    pub(super) aside: u64,
    pub(super) tallies: Vec<Tally>,
}

impl Outcome {
    pub(super) fn new<'a>(whole: bool, plan: &Plan, items: impl Iterator<Item = (Kind, &'a str)>) -> Outcome {
        let tally = |(kind, name): (Kind, &str)| Tally {
            kind,
            name: crate::scrub::line(name),
            found: 0,
            sum: Sum::default(),
            differing: 0,
            examples: Vec::new(),
            refused: None,
            unasked: false,
        };
        Outcome {
            whole,
            masked: !plan.masked.is_empty(),
            observes: plan.observes(),
            cut_short: false,
            lacking: None,
            documents: 0,
            in_flight: 0,
            aside: 0,
            tallies: items.map(tally).collect(),
        }
    }

    /// More of it would not make it better.
    pub(super) fn is_hopeless(&self) -> bool {
        self.tallies.iter().any(|t| t.differing >= HOPELESS || t.refused.is_some())
    }

    /// Too much was written meanwhile for the rest to say much.
    pub(in crate::engine) fn is_in_flux(&self) -> bool {
        self.in_flight > (self.documents / IN_FLIGHT).max(FEW.min(self.documents))
    }

    /// The first thing that is not as it must be, and what to do.
    pub(super) fn complaint(&self) -> Option<String> {
        let n = self.in_flight;
        let flux = || format!("{n} of {} documents are written too often to be asked about", n + self.documents);
        let first = self.tallies.iter().find_map(|t| t.complaint(self.observes));
        self.lacking.clone().or(first).or_else(|| self.is_in_flux().then(flux))
    }

    /// The model of a replica set has no other collection to look into.
    pub(super) fn asks_references(&self) -> bool {
        self.tallies.iter().any(|t| t.kind == Kind::Reference && !t.unasked)
    }

    fn text(&self, t: &Tally) -> String {
        match self.cut_short {
            true => format!("{} was not asked about every document", t.title()),
            false => t.text(self.masked, self.documents),
        }
    }

    /// Each of them.
    pub(in crate::engine) fn answers(&self) -> Vec<Answer> {
        let of = |t: &Tally| Answer {
            kind: t.kind.word(),
            name: t.name.clone(),
            alike: t.is_alike(),
            text: t.complaint(self.observes).unwrap_or_else(|| self.text(t)),
        };
        self.tallies.iter().map(of).collect()
    }

    /// What the journal keeps of it.
    pub(super) fn evidence(&self, indexes: Option<String>) -> Value {
        let mut said: Vec<String> = self.tallies.iter().map(|t| self.text(t)).collect();
        said.extend(indexes);
        let more = [(self.in_flight, "in flight"), (self.aside, "put aside")];
        let more: String = more.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        let which = if self.whole { "every document" } else { "some" };
        let of = |t: &Tally| {
            let mut v = json!({ "kind": t.kind.word(), "name": t.name, "found": t.found, "asked": !t.unasked });
            if t.kind == Kind::Total && !self.masked {
                v["total"] = json!(t.sum.text());
            }
            v
        };
        json!({
            "text": format!("asked about {which} ({}{more}): {}", self.documents, short(&said.join("; "), 2_000)),
            "whole": self.whole,
            "documents": self.documents,
            "in_flight": self.in_flight,
            "answers": self.tallies.iter().map(of).collect::<Vec<_>>(),
        })
    }
}

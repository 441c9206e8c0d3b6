//! Which fields a step reads and writes, and where the values of given fields go. About paths only: no document is looked at.

use super::parent;
use crate::plan::Step;

impl Step {
    /// The paths that the step reads going forward, and those that it writes. Of a pipeline nobody knows either.
    #[must_use]
    pub fn from_to(&self) -> (Vec<String>, Vec<String>) {
        let one = |p: &String| vec![p.clone()];
        let last = |p: &str| p.rsplit('.').next().unwrap_or(p).to_owned();
        match self {
            Step::Rename { from, to } => (one(from), one(to)),
            Step::Convert { path, .. } | Step::Map { path, .. } => (one(path), one(path)),
            Step::Set { path, .. } => (Vec::new(), one(path)),
            Step::Unset { path, .. } => (one(path), Vec::new()),
            Step::Nest { paths, into } => {
                (paths.clone(), paths.iter().map(|p| format!("{into}.{}", last(p))).collect())
            }
            Step::Flatten { path, prefix, fields } => {
                let beside = |name: &str| match parent(path) {
                    "" => format!("{prefix}{name}"),
                    above => format!("{above}.{prefix}{name}"),
                };
                match fields {
                    None => (one(path), vec![beside("*")]),
                    Some(all) => {
                        (all.iter().map(|f| format!("{path}.{f}")).collect(), all.iter().map(|f| beside(f)).collect())
                    }
                }
            }
            Step::Split { path, into, .. } => (one(path), into.clone()),
            Step::Join { paths, to, .. } => (paths.clone(), one(to)),
            Step::Wrap { path, field: None } => (one(path), one(path)),
            Step::Wrap { path, field: Some(field) } => (one(path), vec![format!("{path}.{field}")]),
            Step::Pipeline { .. } => (Vec::new(), Vec::new()),
        }
    }

    /// Each path that the step moves, with where it goes; `None` where a value goes into several, comes of several, or into itself.
    fn moves(&self) -> Option<Vec<(String, String)>> {
        let (from, to) = self.from_to();
        match self {
            Step::Split { .. } | Step::Join { .. } | Step::Pipeline { .. } | Step::Wrap { .. } => None,
            _ => Some(from.into_iter().zip(to).collect()),
        }
    }
}

/// The paths whose values nobody is to see, whichever side's document they stand in: those that a plan masks, what its steps make of
/// them, and what they are made of. Rather one too many than one too few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// Names; a last one that ends in `*` stands for all that begin so.
    paths: Vec<Vec<String>>,
    /// Of a pipeline nobody knows where it puts what: everything but `_id` is hidden.
    all: bool,
}

/// With more paths than this everything is hidden: a plan whose steps make ever more of them is not followed to its end.
const MOST: usize = 1_000;

impl Hidden {
    /// What `masked` and the steps come to.
    #[must_use]
    pub fn new(masked: &[String], steps: &[Step]) -> Hidden {
        let mut hidden = Hidden::default();
        masked.iter().for_each(|p| hidden.add(p));
        if masked.is_empty() {
            return hidden;
        }
        hidden.all |= steps.iter().any(|s| matches!(s, Step::Pipeline { .. }));
        // Back first: a path may be named as next has it. Each step once a way, so that steps that go in circles come to an end.
        steps.iter().rev().for_each(|step| hidden.follow(step, false));
        steps.iter().for_each(|step| hidden.follow(step, true));
        hidden
    }

    fn add(&mut self, path: &str) {
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        self.all |= self.paths.len() >= MOST;
        if !self.all && !self.paths.contains(&parts) {
            self.paths.push(parts);
        }
    }

    fn follow(&mut self, step: &Step, forward: bool) {
        if self.all {
            return;
        }
        match step.moves() {
            Some(pairs) => {
                for (from, to) in pairs {
                    if forward { self.moved(&from, &to) } else { self.moved(&to, &from) }
                }
            }
            None => {
                let (from, to) = step.from_to();
                let touched = |all: &[String]| all.iter().any(|p| self.meets(p));
                if touched(&from) || touched(&to) {
                    from.iter().chain(&to).for_each(|p| self.add(p));
                }
            }
        }
    }

    /// What is hidden inside `here`, or around it, is hidden there too.
    fn moved(&mut self, here: &str, there: &str) {
        let parts: Vec<&str> = here.split('.').collect();
        for path in self.paths.clone() {
            if let Some(rest) = below(&path, &parts) {
                // `address.*` spread into `address_*`: the name goes on after the star.
                self.add(&joined(there, &rest));
            } else if below(&parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), &path).is_some() {
                self.add(there);
            }
        }
    }

    /// True when a hidden path lies inside this one, or around it.
    fn meets(&self, path: &str) -> bool {
        let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        self.paths.iter().any(|h| below(h, &parts).is_some() || below(&parts, h).is_some())
    }

    /// True when the value at this path, or the value that it is part of, is not to be seen. Places in arrays are left out of `path`.
    #[must_use]
    pub fn covers(&self, path: &[&str]) -> bool {
        let inside_id = path.first() == Some(&"_id");
        !inside_id && (self.all || self.paths.iter().any(|h| below(path, h).is_some()))
    }

    /// True when something inside the value at this path is not to be seen.
    #[must_use]
    pub fn reaches_into(&self, path: &[&str]) -> bool {
        path.first() != Some(&"_id") && (self.all || self.paths.iter().any(|h| below(h, path).is_some()))
    }

    /// True when there is nothing to hide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.all
    }
}

/// The rest of a path that lies inside another, or is the same.
fn below<A: AsRef<str>, B: AsRef<str>>(path: &[A], outer: &[B]) -> Option<Vec<String>> {
    let same = |(a, b): (&A, &B)| {
        let (a, b) = (a.as_ref(), b.as_ref());
        a == b || b.strip_suffix('*').is_some_and(|begin| a.starts_with(begin))
    };
    let within = path.len() >= outer.len() && path.iter().zip(outer).all(same);
    if !within {
        return None;
    }
    // What a star stood for goes on as the first name of the rest.
    let last = outer.len().checked_sub(1)?;
    let starred = outer[last].as_ref().strip_suffix('*').and_then(|b| path[last].as_ref().strip_prefix(b));
    let rest = path[outer.len()..].iter().map(|p| p.as_ref().to_owned());
    Some(starred.map(str::to_owned).into_iter().chain(rest).collect())
}

/// A path and what follows after it.
fn joined(path: &str, rest: &[String]) -> String {
    match (path.strip_suffix('*'), rest.split_first()) {
        (Some(begin), Some((first, more))) => {
            std::iter::once(format!("{begin}{first}")).chain(more.iter().cloned()).collect::<Vec<_>>().join(".")
        }
        _ => std::iter::once(path.to_owned()).chain(rest.iter().cloned()).collect::<Vec<_>>().join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Pipeline, ValueType};

    fn rename(from: &str, to: &str) -> Step {
        Step::Rename { from: from.into(), to: to.into() }
    }

    fn covers(hidden: &Hidden, path: &str) -> bool {
        hidden.covers(&path.split('.').collect::<Vec<_>>())
    }

    fn check(masked: &[&str], steps: &[Step], hidden: &[&str], shown: &[&str]) {
        let h = Hidden::new(&masked.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>(), steps);
        hidden.iter().for_each(|p| assert!(covers(&h, p), "{p} is shown: {h:?}"));
        shown.iter().for_each(|p| assert!(!covers(&h, p), "{p} is hidden: {h:?}"));
    }

    #[test]
    fn a_masked_value_stays_masked_wherever_steps_put_it() {
        let steps = [rename("customer.name", "buyer.name"), rename("buyer", "who"), rename("total", "sum")];
        check(
            &["customer.name"],
            &steps,
            &["customer.name", "who.name", "who.name.first"],
            &["total", "sum", "who.city"],
        );
        // Named as next has it, or inside of what is moved, or around it.
        check(&["who.name"], &steps, &["customer.name", "who.name"], &["customer.city", "total"]);
        check(&["customer"], &steps, &["customer.name", "customer.x", "who.name"], &["total"]);
        check(&["name.first"], &[rename("name", "n")], &["n.first", "name.first"], &["n.last", "name.last"]);
    }

    #[test]
    fn what_is_cut_or_joined_is_masked_in_all_its_parts() {
        let split = Step::Split { path: "name".into(), at: " ".into(), into: vec!["first".into(), "last".into()] };
        check(&["name"], std::slice::from_ref(&split), &["first", "last"], &["other"]);
        check(&["last"], &[split], &["name", "first"], &["other"]);
        let join = Step::Join { paths: vec!["a".into(), "b".into()], with: "-".into(), to: "c".into() };
        check(&["a"], &[join, rename("c", "d")], &["a", "c", "d"], &["e"]);
    }

    #[test]
    fn what_is_spread_nested_wrapped_or_changed_is_followed() {
        let spread = Step::Flatten { path: "address".into(), prefix: "address_".into(), fields: None };
        check(
            &["address.street"],
            std::slice::from_ref(&spread),
            &["address_street", "address.street"],
            &["address_city"],
        );
        check(&["address"], std::slice::from_ref(&spread), &["address_street", "address.zip"], &["addres"]);
        check(&["address_zip"], &[spread], &["address.zip"], &["address.street"]);
        let some = Step::Flatten { path: "a.b".into(), prefix: "b_".into(), fields: Some(vec!["x".into()]) };
        check(&["a.b.x"], &[some], &["a.b_x"], &["a.b_y"]);
        let nest = Step::Nest { paths: vec!["street".into()], into: "address".into() };
        check(&["street"], &[nest], &["address.street"], &["address.city"]);
        let wrap = Step::Wrap { path: "phone".into(), field: Some("number".into()) };
        check(&["phone"], &[wrap], &["phone.number"], &[]);
        let convert = Step::Convert { path: "n".into(), from: ValueType::Int, to: ValueType::String, lossy: false };
        check(&["n"], &[convert], &["n"], &["m"]);
    }

    #[test]
    fn steps_that_go_in_circles_come_to_an_end() {
        let there_and_back = [rename("a", "b.c"), rename("b", "a")];
        let steps: Vec<Step> = there_and_back.iter().cycle().take(200).cloned().collect();
        let began = Hidden::new(&["a.x".to_owned()], &steps);
        assert!(covers(&began, "a.c.x") && began.paths.len() <= MOST);
    }

    #[test]
    fn after_a_pipeline_everything_is_masked_but_the_id() {
        let pipeline = Step::Pipeline { forward: Pipeline { stages: Vec::new(), source: Vec::new() }, inverse: None };
        check(&["name"], std::slice::from_ref(&pipeline), &["name", "anything.else"], &["_id", "_id.region"]);
        check(&[], &[pipeline], &[], &["name"]);
    }

    #[test]
    fn each_step_says_what_it_reads_and_writes() {
        let of = |s: Step| {
            let (from, to) = s.from_to();
            format!("{} -> {}", from.join(","), to.join(","))
        };
        assert_eq!(of(rename("a.b", "c")), "a.b -> c");
        assert_eq!(of(Step::Set { path: "v".into(), value: bson::Bson::Int32(2) }), " -> v");
        assert_eq!(of(Step::Flatten { path: "a.b".into(), prefix: "p_".into(), fields: None }), "a.b -> a.p_*");
    }
}

//! Legacy and next: what stands under their names, their indexes, validators and options.

use super::super::refusal::Refusal;
use super::super::{back, enforce, tasks, unique};
use super::{Finding, View};
use crate::cluster::Ns;
use crate::cluster::survey::{IndexFacts, Options, Stands};
use crate::plan::Step;
use crate::route::Side;
use crate::transform::Transform;

/// What a server takes for a namespace, bytes.
const NAME_BYTES: usize = 255;

/// A check of how legacy was created.
fn legacy_options(v: &View<'_>, judge: impl Fn(&Options) -> Finding) -> Vec<Finding> {
    vec![match &v.f.legacy.stands {
        Ok(Stands::Collection(o)) => judge(o),
        Ok(_) => Finding::pass(&v.legacy(), "it is no collection, which another check says"),
        Err(why) => Finding::skipped(&v.legacy(), why),
    }]
}

pub(super) fn legacy_exists(v: &View<'_>) -> Vec<Finding> {
    vec![match &v.f.legacy.stands {
        Ok(Stands::Absent) => Finding::fail(
            &v.legacy(),
            format!("{} does not exist", v.f.legacy_ns()),
            "see that `[[collection]] legacy` and the connection string name the right database",
        ),
        Ok(_) => Finding::pass(&v.legacy(), "it is there"),
        Err(why) => Finding::skipped(&v.legacy(), why),
    }]
}

pub(super) fn legacy_kind(v: &View<'_>) -> Vec<Finding> {
    let refused = |is: &str, remedy: &str| {
        Finding::fail(&v.legacy(), format!("{} (here: {is})", Refusal::NotPlain(v.f.legacy_ns().clone())), remedy)
    };
    vec![match &v.f.legacy.stands {
        Ok(Stands::View) if v.f.own().is_some() => refused(
            "it is a view",
            "a finished rollout of this plan leaves an empty view under the old name: `tidegate cleanup PLAN` lists what is left",
        ),
        Ok(Stands::View) => refused("it is a view", "name the collection that the view is defined on"),
        Ok(Stands::TimeSeries) => refused(
            "it is a time-series collection",
            "its documents have no `_id` index to go by; copy it by other means",
        ),
        Ok(Stands::Collection(o)) if o.capped => refused(
            "it is capped",
            "documents leave a capped collection without an event: copy it into a plain one first",
        ),
        Ok(_) => Finding::pass(&v.legacy(), "it is no view, not capped, not time-series"),
        Err(why) => Finding::skipped(&v.legacy(), why),
    }]
}

pub(super) fn legacy_collation(v: &View<'_>) -> Vec<Finding> {
    legacy_options(v, |o| match &o.collation {
        Some(locale) => Finding::fail(
            &v.legacy(),
            format!("{} (here: the collation `{locale}`)", Refusal::NotPlain(v.f.legacy_ns().clone())),
            "with a collation, `_id`s are equal that differ in their bytes: copy it into a collection without one first",
        ),
        None => Finding::pass(&v.legacy(), "it has no collation"),
    })
}

pub(super) fn legacy_encryption(v: &View<'_>) -> Vec<Finding> {
    legacy_options(v, |o| match o.encrypted.is_empty() {
        true => Finding::pass(&v.legacy(), "it has no encrypted fields"),
        false => Finding::fail(
            &v.legacy(),
            format!(
                "{} (here: encrypted fields {})",
                Refusal::NotPlain(v.f.legacy_ns().clone()),
                o.encrypted.join(", ")
            ),
            "Queryable Encryption keeps metadata that only its own client writes: migrate with a client that holds the keys",
        ),
    })
}

pub(super) fn legacy_clustered(v: &View<'_>) -> Vec<Finding> {
    legacy_options(v, |o| match o.clustered {
        None => Finding::pass(&v.legacy(), "it is not clustered"),
        Some(Some(after)) => Finding::warn(
            &v.legacy(),
            format!(
                "it is clustered by `_id`, and its documents go {after} after that: next will not be, and keeps them"
            ),
            "take `expireAfterSeconds` off (collMod) for the time of the rollout, and delete by other means afterwards",
        ),
        Some(None) => Finding::note(
            &v.legacy(),
            "it is clustered by `_id`; next will be an ordinary collection",
            "create next yourself, clustered and empty, before the rollout if that matters",
        ),
    })
}

pub(super) fn legacy_not_empty(v: &View<'_>) -> Vec<Finding> {
    vec![match (&v.f.legacy.count, &v.f.legacy.stands) {
        (_, Ok(Stands::Absent)) => Finding::pass(&v.legacy(), "it does not exist, which another check says"),
        (Ok(0), _) => Finding::warn(
            &v.legacy(),
            "it is empty: nothing would be copied, and nothing here could be tried on a document",
            "see that `[[collection]] legacy` and the connection string name the right database",
        ),
        (Ok(n), _) => Finding::pass(&v.legacy(), format!("about {} documents", super::capacity::count(*n))),
        (Err(why), _) => Finding::skipped(&v.legacy(), why),
    }]
}

/// A check of legacy's indexes.
fn legacy_indexes(v: &View<'_>, judge: impl Fn(&[IndexFacts]) -> Finding) -> Vec<Finding> {
    vec![match &v.f.legacy.indexes {
        Ok(all) => judge(all),
        Err(why) => Finding::skipped(&v.legacy(), why),
    }]
}

fn named<'i>(indexes: impl Iterator<Item = &'i IndexFacts>) -> String {
    let names: Vec<String> = indexes.map(|i| format!("`{}`", i.spec.name)).collect();
    names.join(", ")
}

pub(super) fn unique_indexes(v: &View<'_>) -> Vec<Finding> {
    legacy_indexes(v, |all| {
        let unique: Vec<&IndexFacts> = all.iter().filter(|i| i.spec.unique && i.spec.name != "_id_").collect();
        match unique.first() {
            None => Finding::pass(&v.legacy(), "no unique index but that of `_id`"),
            Some(_) if v.f.in_place() => Finding::note(
                &v.legacy(),
                format!(
                    "{} stay as they are; a document that T brings into conflict with one is refused",
                    named(unique.into_iter())
                ),
                "",
            ),
            Some(_) => {
                let specs = |all: &[IndexFacts]| all.iter().map(|i| i.spec.clone()).collect::<Vec<_>>();
                let next = v.f.next.indexes.as_deref().map(specs).unwrap_or_default();
                let t = Transform::new(&v.f.collection().steps);
                match unique::refusal(&v.f.plan, &t, &specs(all), &next) {
                    Some(refusal) => Finding::fail(
                        &v.legacy(),
                        refusal,
                        "do that, or make it a plain index for the time of the rollout (drop it, create it again without `unique`) and let the \
                         application keep it unique",
                    ),
                    None => {
                        Finding::pass(&v.legacy(), format!("next refuses what {} refuse", named(unique.into_iter())))
                    }
                }
            }
        }
    })
}

pub(super) fn ttl_indexes(v: &View<'_>) -> Vec<Finding> {
    legacy_indexes(v, |all| {
        let ttl: Vec<&IndexFacts> = all.iter().filter(|i| i.spec.expire_after.is_some()).collect();
        if ttl.is_empty() {
            return Finding::pass(&v.legacy(), "no TTL index");
        }
        let what = format!("{} deletes documents by itself (TTL)", named(ttl.iter().copied()));
        if v.f.in_place() {
            let note = format!("{what}; what it deletes stays in tidegate.undo until cleanup");
            return Finding::note(&v.legacy(), note, "");
        }
        let on_next = v.f.collection().indexes.iter().any(|i| i.expire_after.is_some());
        match on_next {
            true => Finding::note(
                &v.legacy(),
                format!("{what}; it is suspended by name before the first write moves, until contract or return"),
                "",
            ),
            false => Finding::warn(
                &v.legacy(),
                format!("{what}; no index of the plan does the same on next: after contract nothing expires there"),
                "add it to `indexes` with `expire_after_seconds`: it is built suspended, and works from contract on",
            ),
        }
    })
}

/// The path that a field has on next, as far as renames tell.
fn renamed(steps: &[Step], path: &str) -> String {
    steps.iter().fold(path.to_owned(), |now, step| match step {
        Step::Rename { from, to } if now == *from => to.clone(),
        Step::Rename { from, to } => {
            now.strip_prefix(&format!("{from}.")).map_or(now.clone(), |rest| format!("{to}.{rest}"))
        }
        _ => now,
    })
}

pub(super) fn indexes_carried(v: &View<'_>) -> Vec<Finding> {
    let c = v.f.collection();
    legacy_indexes(v, |all| {
        if c.in_place() {
            return Finding::pass(&v.legacy(), "the collection keeps its indexes");
        }
        let counterpart = |i: &IndexFacts| {
            let keys: Vec<String> = i.spec.keys.keys().map(|k| renamed(&c.steps, k)).collect();
            c.indexes.iter().any(|n| n.keys.keys().eq(keys.iter()))
        };
        let lost: Vec<&IndexFacts> = all.iter().filter(|i| i.spec.name != "_id_" && !counterpart(i)).collect();
        match lost.is_empty() {
            true => {
                Finding::pass(&v.legacy(), format!("each of its {} indexes has a counterpart in the plan", all.len()))
            }
            false => Finding::note(
                &v.legacy(),
                format!(
                    "{} {} no counterpart among the plan's `indexes`",
                    named(lost.iter().copied()),
                    if lost.len() == 1 { "has" } else { "have" }
                ),
                "add one to `[[collection]] indexes` for every query that next is to answer quickly; `[[query]]` has them explained",
            ),
        }
    })
}

pub(super) fn index_options(v: &View<'_>) -> Vec<Finding> {
    let c = v.f.collection();
    legacy_indexes(v, |all| {
        let special = |i: &&IndexFacts| {
            i.partial
                || i.collation.is_some()
                || i.spec.keys.values().any(|k| k.as_str().is_some_and(|k| k != "hashed"))
        };
        let special: Vec<&IndexFacts> = all.iter().filter(special).collect();
        match special.is_empty() || c.in_place() {
            true => Finding::pass(&v.legacy(), "no index has options that a plan cannot say"),
            false => Finding::note(
                &v.legacy(),
                format!(
                    "{} is partial, sparse, text, geographical or has a collation, which `indexes` of a plan cannot say",
                    named(special.into_iter())
                ),
                "create its counterpart on next by hand after the copy stage, before reads move",
            ),
        }
    })
}

pub(super) fn validator(v: &View<'_>) -> Vec<Finding> {
    legacy_options(v, |o| match (&o.validation, v.f.in_place()) {
        (None, _) => Finding::pass(&v.legacy(), "it has no validator"),
        (Some(_), true) => Finding::warn(
            &v.legacy(),
            "its validator must accept both shapes: tidegate writes past it, applications cannot",
            "change the validator (collMod) so that it accepts next's shape beside legacy's, before the first stage",
        ),
        (Some(found), false) => match (&found.validator, &v.f.next.stands) {
            (_, Ok(Stands::Collection(Options { validation: Some(_), .. }))) => Finding::note(
                &v.legacy(),
                "it has a validator, and next has one of its own, which is left as it is",
                "see that next's validator accepts nothing that legacy's would refuse of what T⁻¹ makes of it",
            ),
            (Some(said), _) if enforce::on_next(&Transform::new(&v.f.collection().steps), said).is_some() => {
                Finding::pass(&v.legacy(), "its validator will hold on next too")
            }
            _ => Finding::warn(
                &v.legacy(),
                "it has a validator that cannot be said of next's fields: next does not enforce it, and what is accepted there may not satisfy legacy's",
                "create next yourself, empty, with a validator that says the same of next's shape",
            ),
        },
    })
}

pub(super) fn server_gate(v: &View<'_>) -> Vec<Finding> {
    if !v.f.plan.server_gate {
        return vec![Finding::pass("the plan", "`server_gate` is off")];
    }
    let mut out = Vec::new();
    for side in [Side::Legacy, Side::Next] {
        let (facts, ns) = v.f.side(side);
        let place = format!("{} {ns}", side.name());
        let Ok(Stands::Collection(Options { validation: Some(found), .. })) = &facts.stands else { continue };
        out.push(match Refusal::lenient(ns, found) {
            Some(refusal) => {
                Finding::fail(&place, refusal, "collMod with validationLevel \"strict\" and validationAction \"error\"")
            }
            None => Finding::pass(&place, "its validator stays in force beside the gate, and comes back"),
        });
    }
    out.extend(v.each(|place, c| match &c.version {
        Ok(version) if version.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < 6) => Finding::warn(
            place,
            format!("the server gate needs $toHashedIndexKey in a validator, which is known to work from 6.0 on; this is {version}"),
            "`server_gate = false` does without it, or upgrade",
        ),
        Ok(version) => Finding::pass(place, format!("MongoDB {version} can hold the gate")),
        Err(why) => Finding::skipped(place, why),
    }));
    out
}

pub(super) fn next_kind(v: &View<'_>) -> Vec<Finding> {
    if v.f.in_place() {
        return Vec::new();
    }
    let refused = |is: &str, remedy: &str| {
        Finding::fail(&v.next(), format!("{} (here: {is})", Refusal::NextNotPlain(v.f.next_ns().clone())), remedy)
    };
    let other = "name another collection as `next`, or remove this one";
    vec![match &v.f.next.stands {
        Ok(Stands::View) => refused(
            "it is a view",
            "after a rollback an empty view stands in next's place, which `tidegate cleanup PLAN --yes` removes; otherwise name another collection",
        ),
        Ok(Stands::TimeSeries) => refused("it is a time-series collection", other),
        Ok(Stands::Collection(o)) if o.capped => refused("it is capped", other),
        Ok(Stands::Collection(Options { collation: Some(locale), .. })) => {
            refused(&format!("the collation `{locale}`"), other)
        }
        Ok(Stands::Collection(o)) if !o.encrypted.is_empty() => refused("encrypted fields", other),
        Ok(Stands::Collection(_)) => Finding::pass(&v.next(), "it is a plain collection"),
        Ok(Stands::Absent) => Finding::pass(&v.next(), "it does not exist yet"),
        Err(why) => Finding::skipped(&v.next(), why),
    }]
}

pub(super) fn next_empty(v: &View<'_>) -> Vec<Finding> {
    if v.f.in_place() {
        return Vec::new();
    }
    let route = v.f.own().is_some_and(|k| k.route.is_some());
    vec![match &v.f.next.count {
        Ok(0) => Finding::pass(&v.next(), "it holds nothing"),
        Ok(n) if route && v.f.is_under_way() => Finding::pass(
            &v.next(),
            format!("about {} documents, of the rollout under way", super::capacity::count(*n)),
        ),
        Ok(n) => Finding::fail(
            &v.next(),
            format!("{} (about {})", Refusal::NextFilled(v.f.next_ns().clone()), super::capacity::count(*n)),
            "see whose documents they are; drop the collection, or name another one as `next`",
        ),
        Err(why) => Finding::skipped(&v.next(), why),
    }]
}

pub(super) fn next_rules(v: &View<'_>) -> Vec<Finding> {
    if v.f.in_place() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    if let Ok(all) = &v.f.next.indexes {
        let planned = |i: &IndexFacts| v.f.collection().indexes.iter().any(|p| p.name == i.spec.name);
        let unique = all.iter().filter(|i| i.spec.unique && i.spec.name != "_id_" && !planned(i));
        rules.extend(unique.map(|i| format!("a unique index `{}`", i.spec.name)));
    }
    if let Ok(Stands::Collection(Options { validation: Some(_), .. })) = &v.f.next.stands {
        rules.push("a validator".to_owned());
    }
    vec![match (&v.f.next.indexes, rules.is_empty()) {
        (Err(why), _) => Finding::skipped(&v.next(), why),
        (Ok(_), true) => Finding::pass(&v.next(), "nothing on it refuses documents"),
        (Ok(_), false) => Finding::warn(
            &v.next(),
            format!("it has {}: documents are refused there that legacy keeps", rules.join(", ")),
            "take them off until the copy is compared",
        ),
    }]
}

pub(super) fn names_free(v: &View<'_>) -> Vec<Finding> {
    let plan = &v.f.plan.id;
    let mut wanted = vec![(0, tasks::quarantine_ns(v.f.legacy_ns(), plan), "legacy is put away under at the end")];
    if v.f.in_place() {
        return Vec::new();
    }
    wanted.push((1, back::isolated_ns(v.f.next_ns(), plan), "next is put away under by a rollback"));
    let judge = |(side, ns, what): (usize, Ns, &str)| match &v.f.names[side] {
        Err(why) => Finding::skipped(&ns.to_string(), why),
        Ok(names) if names.iter().any(|n| **n == *ns.coll) && !v.f.is_under_way() => Finding::fail(
            &ns.to_string(),
            format!("the name is taken, and it is the one that {what}"),
            "it was left by an earlier rollout: `tidegate cleanup PLAN` lists it and says how it goes; or give the plan another id",
        ),
        Ok(_) => Finding::pass(&ns.to_string(), "the name is free"),
    };
    wanted.into_iter().map(judge).collect()
}

pub(super) fn name_lengths(v: &View<'_>) -> Vec<Finding> {
    if v.f.in_place() {
        return Vec::new();
    }
    let plan = &v.f.plan.id;
    let kept = [tasks::quarantine_ns(v.f.legacy_ns(), plan), back::isolated_ns(v.f.next_ns(), plan)];
    let judge = |ns: &Ns| match ns.to_string().len() {
        n if n > NAME_BYTES => Finding::fail(
            &ns.to_string(),
            format!(
                "the name has {n} bytes, a server takes {NAME_BYTES}: the collection could not be put away under it"
            ),
            "give the plan a shorter id, or next a shorter name",
        ),
        _ => Finding::pass(&ns.to_string(), "the name is short enough"),
    };
    kept.iter().map(judge).collect()
}

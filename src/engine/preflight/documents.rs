//! What the sampled documents show.

use super::study::{Named, Study};
use super::{Finding, View};
use crate::cluster::survey::Stands;
use crate::transform::Transform;

/// So many documents are named of each kind.
const SHOWN: usize = 5;

fn on_sample(v: &View<'_>, judge: impl Fn(&Study, &str) -> Finding) -> Vec<Finding> {
    let place = v.legacy();
    vec![match &v.study {
        Ok(s) if s.documents == 0 => Finding::pass(&place, "there is no document to look at, which another check says"),
        Ok(s) => judge(s, &place),
        Err(why) => Finding::skipped(&place, why),
    }]
}

/// `_id 7: why; _id 9: why; 12 more`.
fn listed(all: &[Named]) -> String {
    let mut shown: Vec<String> = all.iter().take(SHOWN).map(|n| format!("_id {}: {}", n.id, n.why)).collect();
    if all.len() > SHOWN {
        shown.push(format!("{} more", all.len() - SHOWN));
    }
    shown.join("; ")
}

fn of(n: usize, s: &Study) -> String {
    format!("{n} of {} sampled documents", s.documents)
}

pub(super) fn sample(v: &View<'_>) -> Vec<Finding> {
    vec![match (&v.study, &v.f.legacy.stands) {
        (Ok(s), Ok(Stands::Collection(_))) => {
            let all = v.f.legacy.count.as_ref().ok().copied().unwrap_or(0);
            let share = if all > 0 { format!(" of about {}", super::capacity::count(all)) } else { String::new() };
            let more = if (s.documents as u64) < all {
                "; a kind of document that is rarer may not be among them"
            } else {
                ""
            };
            Finding::pass(
                &v.legacy(),
                format!("{} documents{share} are looked at{more}", super::capacity::count(s.documents as u64)),
            )
        }
        (Ok(_), _) => Finding::pass(&v.legacy(), "there is no document to look at"),
        (Err(why), _) => Finding::skipped(&v.legacy(), why),
    }]
}

pub(super) fn transforms(v: &View<'_>) -> Vec<Finding> {
    on_sample(v, |s, place| match s.refused.is_empty() {
        true => Finding::pass(place, format!("T carries {}", of(s.documents - s.mixed.len(), s))),
        false => Finding::fail(
            place,
            format!("T refuses {}: {}", of(s.refused.len(), s), listed(&s.refused)),
            "mend the documents, or change the step so that it fits them: the copy leaves such documents out, lists them in tidegate.quarantine and pauses, and no stage passes without them",
        ),
    })
}

pub(super) fn round_trip(v: &View<'_>) -> Vec<Finding> {
    let class = Transform::new(&v.f.collection().steps).class();
    on_sample(v, |s, place| {
        let counts = format!("{} byte for byte, {} up to the order of fields", s.exact, s.reordered);
        match (s.changed.is_empty(), s.lossy) {
            (false, _) => Finding::fail(
                place,
                format!("T⁻¹ does not bring {} back: {}", of(s.changed.len(), s), listed(&s.changed)),
                "a rollback would leave them changed: give the step an inverse that fits them, or mend the documents",
            ),
            (true, 0) => Finding::pass(
                place,
                format!("T⁻¹ brings back every sampled document that T carries (the steps are {class}): {counts}"),
            ),
            (true, lossy) => Finding::note(
                place,
                format!("T⁻¹ does not bring {} back, as the plan says (lossy); {counts}", of(lossy, s)),
                "in place their originals are kept in tidegate.undo, and an edited one comes back without what was lost",
            ),
        }
    })
}

pub(super) fn sizes(v: &View<'_>) -> Vec<Finding> {
    let (limit, why) = match v.f.in_place() {
        true => ("7 MiB", "tidegate.undo keeps up to two earlier versions in one document of at most 16 MiB"),
        false => ("15 MiB", "a server takes 16 MiB, and a copy in quarantine has fields of its own"),
    };
    on_sample(v, |s, place| match s.large.is_empty() {
        true => {
            Finding::pass(place, format!("the largest has {} on either side", super::capacity::bytes(s.largest as u64)))
        }
        false => Finding::warn(
            place,
            format!("{} are larger than {limit} before or after T: {}; {why}", of(s.large.len(), s), listed(&s.large)),
            "split or shorten such documents first; one that grows beyond the limit stops the copy",
        ),
    })
}

pub(super) fn field_names(v: &View<'_>) -> Vec<Finding> {
    on_sample(v, |s, place| match s.odd.is_empty() {
        true => Finding::pass(place, "no field name is empty, has a dot, or begins with `$`"),
        false => Finding::warn(
            place,
            format!("{} have such names: {}", of(s.odd.len(), s), listed(&s.odd)),
            "tidegate carries them as they are, but queries, updates and the way back by hand cannot name them: rename the fields first",
        ),
    })
}

pub(super) fn duplicate_fields(v: &View<'_>) -> Vec<Finding> {
    on_sample(v, |s, place| match s.twice.is_empty() {
        true => Finding::pass(place, "no field stands twice in one document"),
        false => Finding::fail(
            place,
            format!("{} have a field twice: {}", of(s.twice.len(), s), listed(&s.twice)),
            "write each such document anew with one of the two: which of them a reader sees is undefined, and a step that meets them refuses the document",
        ),
    })
}

pub(super) fn id_placement(v: &View<'_>) -> Vec<Finding> {
    on_sample(v, |s, place| match s.placeless.is_empty() {
        true => Finding::pass(place, "every sampled `_id` has a bucket"),
        false => Finding::fail(
            place,
            format!("{} have no bucket: {}", of(s.placeless.len(), s), listed(&s.placeless)),
            "give such documents another `_id` first; docs/routing.md says which types and numbers have a bucket",
        ),
    })
}

pub(super) fn unique_on_next(v: &View<'_>) -> Vec<Finding> {
    if !v.f.collection().indexes.iter().any(|i| i.unique) {
        return vec![Finding::pass("the plan", "it builds no unique index")];
    }
    on_sample(v, |s, place| match s.doubled.is_empty() {
        true => Finding::pass(place, "no two sampled documents share the values of a unique index of the plan"),
        false => Finding::fail(
            place,
            format!("after T, {}", listed(&s.doubled)),
            "mend the duplicates, or build the index without `unique`: its build on next fails otherwise",
        ),
    })
}

pub(super) fn in_place_shape(v: &View<'_>) -> Vec<Finding> {
    if !v.f.in_place() {
        return vec![Finding::pass("the plan", "two collections tell the shapes apart")];
    }
    on_sample(v, |s, place| {
        let legacy = s.documents - s.already - s.mixed.len();
        match (s.mixed.is_empty(), legacy) {
            (false, _) => Finding::fail(
                place,
                format!("{} are neither shape: {}", of(s.mixed.len(), s), listed(&s.mixed)),
                "mend the documents, or the plan's `shape` and `steps`: such documents are left as they are and hold the rollout up",
            ),
            (true, 0) => Finding::warn(
                place,
                "every sampled document has next's shape already",
                "see that `shape` tells next's documents from legacy's, and that this has not been migrated before",
            ),
            (true, _) if s.already > 0 => Finding::note(
                place,
                format!("{} have next's shape already", of(s.already, s)),
                "they are left as they are, and a rollback brings them to legacy's shape by the inverse",
            ),
            (true, _) => Finding::pass(place, "every sampled document has legacy's shape, and T gives it next's"),
        }
    })
}

pub(super) fn cohort(v: &View<'_>) -> Vec<Finding> {
    let Some(cohort) = &v.f.plan.pilot else { return vec![Finding::pass("the plan", "it has no pilot cohort")] };
    let field = cohort.field();
    on_sample(v, |s, place| match s.cohort {
        0 => Finding::warn(
            place,
            format!("no sampled document is in the pilot cohort (`{field}`)"),
            "see that `[pilot] field` and `in` name what documents have, type included: the number 7 is not the text \"7\"",
        ),
        n if n == s.documents => Finding::warn(
            place,
            format!("every sampled document is in the pilot cohort (`{field}`): the pilot is the whole collection"),
            "name fewer values in `[pilot] in`",
        ),
        n => Finding::pass(place, format!("{} are in the pilot cohort (`{field}`)", of(n, s))),
    })
}

pub(super) fn encrypted_values(v: &View<'_>) -> Vec<Finding> {
    on_sample(v, |s, place| match s.encrypted.is_empty() {
        true => Finding::pass(place, "no value is encrypted by an application"),
        false => Finding::note(
            place,
            format!(
                "{} hold values that an application has encrypted: {}",
                of(s.encrypted.len(), s),
                listed(&s.encrypted)
            ),
            "they are carried as they are; a step cannot look into one, and a moved field may need its schema map changed",
        ),
    })
}

//! This plan's own rollout, earlier ones, and others on the same collections.

use super::super::lease;
use super::{Finding, Held, Known, View};

const PLACE: &str = "the control database tidegate";

/// Milliseconds that a lease lasts yet; `None` when it has run out.
fn left_ms(v: &View<'_>, held: &Held) -> Option<i64> {
    let left = held.expires_ms - v.f.server_ms();
    (left > 0).then_some(left)
}

fn known(v: &View<'_>, judge: impl Fn(&[Known]) -> Finding) -> Vec<Finding> {
    vec![match &v.f.known {
        Ok(all) => judge(all),
        Err(why) => Finding::skipped(PLACE, why),
    }]
}

pub(super) fn held(v: &View<'_>) -> Vec<Finding> {
    known(v, |_| {
        let held = v.f.own().and_then(|k| k.lease.as_ref());
        match held.and_then(|h| Some((h, left_ms(v, h)?))) {
            Some((held, left)) => Finding::fail(
                PLACE,
                lease::held(&v.f.plan.id, &held.holder, held.since_ms, (held.expires_ms, left)),
                "let its holder go on, or have it stopped first; two runners of one plan are never needed",
            ),
            None => Finding::pass(PLACE, "nobody holds the lease"),
        }
    })
}

pub(super) fn earlier(v: &View<'_>) -> Vec<Finding> {
    let id = &v.f.plan.id;
    known(v, |_| match v.f.own().and_then(|k| k.journal.as_ref()) {
        None => Finding::pass(PLACE, "the plan has not been run before"),
        Some(j) if j.closed => Finding::fail(
            PLACE,
            format!("rollout `{id}` is finished; its journal is closed"),
            "`tidegate cleanup PLAN --yes` makes room for another run; or give the plan another id",
        ),
        Some(j) if j.plan_hash != v.f.plan.hash => Finding::fail(
            PLACE,
            format!("rollout `{id}` was begun with another version of the plan and is not finished"),
            "go back to that plan and end it (`tidegate resume` or `tidegate rollback`), or give this one another id",
        ),
        Some(_) => Finding::warn(
            PLACE,
            format!("rollout `{id}` was begun before and is not finished"),
            "`tidegate resume PLAN` goes on, `tidegate rollback PLAN` brings it back",
        ),
    })
}

pub(super) fn others(v: &View<'_>) -> Vec<Finding> {
    let touches = |k: &&Known| k.plan != v.f.plan.id && k.route.is_some();
    known(v, |all| {
        let others: Vec<&Known> = all.iter().filter(touches).collect();
        let names = |list: &[&Known]| list.iter().map(|k| format!("`{}`", k.plan)).collect::<Vec<_>>().join(", ");
        let alive = |k: &&&Known| {
            k.journal.as_ref().is_some_and(|j| !j.closed) || k.lease.as_ref().is_some_and(|h| left_ms(v, h).is_some())
        };
        let busy: Vec<&Known> = others.iter().filter(alive).copied().collect();
        match (busy.is_empty(), others.is_empty()) {
            (false, _) => Finding::fail(
                PLACE,
                format!(
                    "{} {} on the same collections and is not finished",
                    names(&busy),
                    if busy.len() == 1 { "works" } else { "work" }
                ),
                "end it or bring it back first: applications can follow one route of a collection at a time",
            ),
            (true, false) => Finding::note(
                PLACE,
                format!("{} worked on the same collections and is over; its route is still there", names(&others)),
                "see that no application still follows that route",
            ),
            (true, true) => Finding::pass(PLACE, "no other plan works on these collections"),
        }
    })
}

pub(super) fn leftovers(v: &View<'_>) -> Vec<Finding> {
    vec![match &v.f.leftovers {
        Err(why) => Finding::skipped(PLACE, why),
        Ok(all) if all.is_empty() => Finding::pass(PLACE, "nothing of an earlier rollout of this plan is left"),
        Ok(_) if v.f.is_under_way() => Finding::pass(PLACE, "what is there belongs to the rollout under way"),
        Ok(all) => Finding::warn(
            PLACE,
            format!("{} holds documents of an earlier rollout of this plan", all.join(", ")),
            "look at them, then `tidegate cleanup PLAN` lists what goes, and how",
        ),
    }]
}

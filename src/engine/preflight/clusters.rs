//! Servers, members, clocks, and the way to them.

use super::{Finding, View};
use crate::cluster::survey::{ClusterFacts, MemberLook, NOT_ASKED, Skew, Unanswered, Unfit};
use crate::runtime::Micros;

/// Clocks that differ by more make leases, freezes and TTLs end at another time than is said.
const SKEW_MS: i64 = 1_000;
/// Without a `max_lag` in the plan a member this far behind is worth saying.
const LAG: Micros = Micros::from_secs(10);

pub(super) fn reachable(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match &c.hello {
        Ok(h) if h.set.is_empty() => Finding::pass(place, format!("{} answers", c.link.hosts.join(", "))),
        Ok(h) => Finding::pass(place, format!("the primary of {} answers", h.set)),
        Err(why) => Finding::fail(
            place,
            why,
            "see that `mongosh` reaches a primary from this machine with the same connection string",
        ),
    })
}

/// Fails for one kind of what does not fit.
fn fits(v: &View<'_>, unfit: &[Unfit], well: &str, remedy: &str) -> Vec<Finding> {
    v.each(|place, c| match &c.hello {
        Err(_) => Finding::skipped(place, &NOT_ASKED),
        Ok(h) => match h.unfit.filter(|u| unfit.contains(u)) {
            Some(why) => Finding::fail(place, why, remedy),
            None => Finding::pass(place, well),
        },
    })
}

pub(super) fn replica_set(v: &View<'_>) -> Vec<Finding> {
    let remedy =
        "start the server with `--replSet rs0`, run `rs.initiate()` once, and name the set in the connection string";
    fits(v, &[Unfit::Standalone], "it is no standalone server", remedy)
}

pub(super) fn not_sharded(v: &View<'_>) -> Vec<Finding> {
    let remedy = "connect to a replica set; a sharded collection has to be migrated by other means for now";
    fits(v, &[Unfit::Mongos], "it is no mongos", remedy)
}

pub(super) fn server_version(v: &View<'_>) -> Vec<Finding> {
    let remedy = "upgrade the set to MongoDB 5.0 or newer first";
    v.each(|place, c| match (&c.hello, &c.version) {
        (Ok(h), _) if h.unfit == Some(Unfit::TooOld) => Finding::fail(place, Unfit::TooOld, remedy),
        (_, Ok(version)) => Finding::pass(place, format!("MongoDB {version}")),
        (_, Err(why)) => Finding::skipped(place, why),
    })
}

/// `6.0` of `6.0.5`.
fn series(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

pub(super) fn feature_compatibility(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match (&c.fcv, &c.version) {
        (Ok(fcv), Ok(version)) if *fcv != series(version) => Finding::warn(
            place,
            format!("featureCompatibilityVersion is {fcv}, the server is {version}: an upgrade is not finished"),
            "finish the upgrade (`setFeatureCompatibilityVersion`) before, or after, the rollout: not during it",
        ),
        (Ok(fcv), Ok(_)) => Finding::pass(place, format!("featureCompatibilityVersion is {fcv}")),
        (Err(why), _) | (_, Err(why)) => Finding::skipped(place, why),
    })
}

pub(super) fn member_versions(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let mut versions: Vec<&String> = c.looks.iter().filter_map(|l| l.version.as_ref().ok()).collect();
        let all = versions.len();
        versions.sort();
        versions.dedup();
        match versions[..] {
            [] if c.looks.is_empty() => alone(place, c),
            [] => match c.looks.iter().find_map(|l| l.version.as_ref().err()) {
                Some(why) => Finding::skipped(place, why),
                None => Finding::pass(place, "nothing to compare"),
            },
            [one] if all == c.looks.len() => Finding::pass(place, format!("all members are {one}")),
            [one] => Finding::note(
                place,
                format!("{all} of {} members are {one}; the others did not answer this machine", c.looks.len()),
                "see that a rollout can reach every member: any of them may become primary",
            ),
            _ => Finding::warn(
                place,
                format!("members differ in version: {}", join(c, |l| l.version.as_ref().ok().cloned())),
                "finish the upgrade of all members first: after an election another version serves the rollout",
            ),
        }
    })
}

/// Nobody was asked directly: because there is one member, or because nobody answers at all.
fn alone(place: &str, c: &ClusterFacts) -> Finding {
    match c.hello {
        Ok(_) => Finding::pass(place, "there is one member that holds data"),
        Err(_) => Finding::skipped(place, &NOT_ASKED),
    }
}

/// `host value, host value` of the members that have one.
fn join(c: &ClusterFacts, value: impl Fn(&MemberLook) -> Option<String>) -> String {
    let all: Vec<String> = c.looks.iter().filter_map(|l| Some(format!("{} {}", l.host, value(l)?))).collect();
    all.join(", ")
}

pub(super) fn members_healthy(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let status = match &c.status {
            Ok(status) => status,
            Err(why) => return Finding::skipped(place, why),
        };
        let well = |state: &str| matches!(state, "PRIMARY" | "SECONDARY" | "ARBITER");
        let ill: Vec<String> =
            status.members.iter().filter(|m| !well(&m.state)).map(|m| format!("{} is {}", m.name, m.state)).collect();
        match ill.is_empty() {
            true => Finding::pass(place, format!("{} members, all well", status.members.len())),
            false => Finding::warn(
                place,
                ill.join(", "),
                "bring every member to SECONDARY first: a copy adds load, and an election needs the others",
            ),
        }
    })
}

pub(super) fn write_majority(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let hello = match &c.hello {
            Ok(hello) => hello,
            Err(_) => return Finding::skipped(place, &NOT_ASKED),
        };
        let data = c.config.as_ref().map_or(hello.hosts.len() as u32, |c| c.voting_data);
        let voters = data + hello.arbiters.len() as u32;
        let needed = c.status.as_ref().ok().map(|s| s.majority).filter(|n| *n > 0).unwrap_or(voters / 2 + 1).min(data.max(1));
        let up = c.status.as_ref().ok().map(|s| {
            s.members.iter().filter(|m| matches!(m.state.as_str(), "PRIMARY" | "SECONDARY")).count() as u32
        });
        let arbiters = match hello.arbiters.len() {
            0 => String::new(),
            n => format!(" ({n} more vote and hold none)"),
        };
        match up {
            Some(up) if up < needed => Finding::fail(
                place,
                format!("{up} of {data} members that hold data are up{arbiters}; a majority write needs {needed}"),
                "bring the members up first: every write of tidegate is a majority write and would wait",
            ),
            _ if data > 1 && data <= needed => Finding::warn(
                place,
                format!("every majority write needs all {data} members that hold data{arbiters}: when one fails, writes stand still"),
                "make the arbiter a member that holds data, or add one; a cutover that cannot write is given up, again and again",
            ),
            _ => Finding::pass(place, format!("a majority write needs {needed} of {data} members that hold data")),
        }
    })
}

pub(super) fn single_node(v: &View<'_>) -> Vec<Finding> {
    let production = v.f.plan.cluster.environment == "production";
    v.each(|place, c| match &c.hello {
        Err(_) => Finding::skipped(place, &NOT_ASKED),
        Ok(h) if h.hosts.len() > 1 => Finding::pass(place, format!("{} members hold data", h.hosts.len())),
        Ok(_) => {
            let what = "one member holds all data: a majority write is on one disk, and a restart stops everything";
            let remedy = "add members, or say in `[cluster] environment` that this is not production";
            if production { Finding::warn(place, what, remedy) } else { Finding::note(place, what, "") }
        }
    })
}

pub(super) fn write_concern(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match &c.write_concern {
        Ok((w, _)) if w == "majority" => Finding::pass(place, "the default write concern is majority"),
        Ok((w, set)) => Finding::warn(
            place,
            format!(
                "the default write concern is w: {w} ({}): what an application is told is written may be undone by an election",
                if *set { "set by hand" } else { "implied by the set's members" }
            ),
            "have applications write with w: \"majority\", or `setDefaultRWConcern` so; tidegate itself always does",
        ),
        Err(why) => Finding::skipped(place, why),
    })
}

pub(super) fn majority_journal(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match &c.config {
        Ok(config) if config.majority_journal => Finding::pass(place, "a majority write is in the journals"),
        Ok(_) => Finding::warn(
            place,
            "writeConcernMajorityJournalDefault is false: a majority write of an application may be in memory only",
            "set it to true (`rs.reconfig`); tidegate's own writes ask for the journal",
        ),
        Err(why) => Finding::skipped(place, why),
    })
}

pub(super) fn replication_lag(v: &View<'_>) -> Vec<Finding> {
    let limit = v.f.plan.throttle.max_lag.unwrap_or(LAG);
    v.each(|place, c| {
        let status = match &c.status {
            Ok(status) => status,
            Err(why) => return Finding::skipped(place, why),
        };
        let late = |name: &str| c.config.as_ref().is_ok_and(|c| c.delayed.iter().any(|(host, _)| host == name));
        let worst = status.members.iter().filter(|m| !late(&m.name)).filter_map(|m| Some((m.lag?, &m.name))).max();
        match worst {
            Some((lag, name)) if lag > limit => Finding::warn(
                place,
                format!("{name} is {lag} behind, more than {limit}"),
                "find out why before a copy adds to it; copying slows down while lag is above `[throttle] max_lag`, and stops at twice that",
            ),
            Some((lag, _)) => Finding::pass(place, format!("no member is more than {lag} behind")),
            None => Finding::pass(place, "there is nobody to be behind"),
        }
    })
}

pub(super) fn delayed_members(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let config = match &c.config {
            Ok(config) => config,
            Err(why) => return Finding::skipped(place, why),
        };
        let Some((host, delay)) = config.delayed.iter().max_by_key(|(_, d)| *d) else {
            return Finding::pass(place, "no member is kept behind on purpose");
        };
        let what = format!("{host} is kept {delay} behind by the set's configuration");
        match v.f.plan.throttle.max_lag.filter(|max| delay > max) {
            Some(max) => Finding::fail(
                place,
                format!("{what}, and `[throttle] max_lag` is {max}: copying would hardly move, or stand still"),
                "leave `max_lag` out, or take the member's `secondaryDelaySecs` away for the time of the rollout",
            ),
            None => Finding::note(
                place,
                format!("{what}: `lag.replication` never falls below that"),
                "put no gate on `lag.replication`",
            ),
        }
    })
}

fn seconds(ms: i64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

/// What the clocks surely differ by, milliseconds.
fn surely(skew: Skew) -> i64 {
    skew.ms.abs() - skew.within_ms
}

pub(super) fn clock_skew(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match &c.hello {
        Err(_) => Finding::skipped(place, &NOT_ASKED),
        Ok(h) if surely(h.skew) > SKEW_MS => Finding::warn(
            place,
            format!(
                "the primary's clock is {} {} this machine's",
                seconds(h.skew.ms.abs()),
                if h.skew.ms > 0 { "ahead of" } else { "behind" }
            ),
            "let both follow a time server; leases are in the server's time, journals and screens in this machine's",
        ),
        Ok(h) => Finding::pass(
            place,
            format!("the primary's clock is within {} of this machine's", seconds(h.skew.ms.abs() + h.skew.within_ms)),
        ),
    })
}

pub(super) fn member_clocks(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| {
        let skews: Vec<Skew> = c.looks.iter().filter_map(|l| l.skew.as_ref().ok().copied()).collect();
        let (Some(low), Some(high)) = (skews.iter().min_by_key(|s| s.ms), skews.iter().max_by_key(|s| s.ms)) else {
            return match c.looks.iter().find_map(|l| l.skew.as_ref().err()) {
                Some(why) => Finding::skipped(place, why),
                None => alone(place, c),
            };
        };
        let apart = high.ms - low.ms - high.within_ms - low.within_ms;
        match apart > SKEW_MS {
            true => Finding::warn(
                place,
                format!(
                    "the members' clocks are at least {} apart ({}): after an election a lease or a freeze ends that much sooner or later",
                    seconds(apart),
                    join(c, |l| l.skew.as_ref().ok().map(|s| format!("{:+.1} s", s.ms as f64 / 1_000.0)))
                ),
                "let all members follow the same time server",
            ),
            false => Finding::pass(place, format!("the members' clocks are within {}", seconds(high.ms - low.ms + high.within_ms + low.within_ms))),
        }
    })
}

/// True for a host that is this machine by its name.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name == "::1" || name.starts_with("127.") || name.ends_with(".sock") || name.starts_with('/')
}

fn elsewhere(c: &ClusterFacts) -> Option<&String> {
    c.link.hosts.iter().find(|h| !is_local(h))
}

pub(super) fn encrypted_connection(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match (elsewhere(c), c.link.tls, c.link.unverified) {
        (Some(host), false, _) => Finding::warn(
            place,
            format!(
                "the connection to {host} is not encrypted: documents and credentials cross the network in the clear"
            ),
            "add `tls=true` to the connection string (and `tlsCAFile` where the authority is your own)",
        ),
        (Some(host), true, true) => Finding::warn(
            place,
            format!("the certificate of {host} is not verified: anybody on the way can pose as the server"),
            "take `tlsAllowInvalidCertificates` (or `tlsInsecure`) out and name the authority with `tlsCAFile`",
        ),
        (Some(_), true, false) => Finding::pass(place, "the connection is encrypted"),
        (None, ..) => Finding::pass(place, "the server is on this machine"),
    })
}

pub(super) fn credentials(v: &View<'_>) -> Vec<Finding> {
    v.each(|place, c| match &c.rights {
        Err(why) => Finding::skipped(place, why),
        Ok(r) if !r.users.is_empty() => Finding::pass(place, format!("logged in as {}", r.users.join(", "))),
        Ok(_) => match elsewhere(c) {
            Some(host) => Finding::warn(
                place,
                format!("nobody is logged in, and {host} lets that pass: whoever reaches it may do anything"),
                "turn authorization on, and give tidegate a user with the role in docs/check.md",
            ),
            None => Finding::note(place, "nobody is logged in; the server is on this machine", ""),
        },
    })
}

pub(super) fn two_clusters(v: &View<'_>) -> Vec<Finding> {
    let [Ok(a), Ok(b)] = &v.f.clusters.iter().map(|c| &c.hello).collect::<Vec<_>>()[..] else { return Vec::new() };
    let shared = a.hosts.iter().find(|h| b.hosts.contains(h));
    vec![match shared {
        Some(host) if a.set == b.set => Finding::warn(
            "next's cluster",
            format!("`uri` and `next_uri` lead to the same replica set {} ({host})", a.set),
            "leave `next_uri` out: one cluster is looked at, fenced and followed once, not twice",
        ),
        _ => Finding::pass("next's cluster", "it is another one than legacy's"),
    }]
}

pub(super) fn change_stream(v: &View<'_>) -> Vec<Finding> {
    vec![match &v.f.legacy.stream {
        Ok(()) => Finding::pass(&v.legacy(), "a change stream opens"),
        Err(Unanswered::Failed(why)) => Finding::fail(
            &v.legacy(),
            format!("a change stream does not open: {why}"),
            "tidegate follows changes by a stream; see what the server's log says about this one",
        ),
        Err(why) => Finding::skipped(&v.legacy(), why),
    }]
}

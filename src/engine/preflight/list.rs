//! Every check, once.

use super::Topic::{Capacity, Clusters, Collections, Documents, Plan, Rights, Rollouts};
use super::{Check, Finding, Topic, View, capacity, clusters, collections, documents, rights, rollouts, shape};

const fn check(name: &'static str, topic: Topic, purpose: &'static str, judge: fn(&View<'_>) -> Vec<Finding>) -> Check {
    Check { name, topic, purpose, judge }
}

/// Every check, in the order of the documentation.
pub static CHECKS: &[Check] = &[
    check("reachable", Clusters, "a primary answers; otherwise nothing else can be told", clusters::reachable),
    check(
        "replica-set",
        Clusters,
        "a standalone server has no change streams and no transactions",
        clusters::replica_set,
    ),
    check("not-sharded", Clusters, "a mongos is refused: sharded clusters are not migrated yet", clusters::not_sharded),
    check("server-version", Clusters, "snapshot reads need MongoDB 5.0", clusters::server_version),
    check(
        "feature-compatibility",
        Clusters,
        "an upgrade is not left half done during a rollout",
        clusters::feature_compatibility,
    ),
    check(
        "member-versions",
        Clusters,
        "any member may become primary, so all should be of one version",
        clusters::member_versions,
    ),
    check("members-healthy", Clusters, "no member is down, recovering or rolling back", clusters::members_healthy),
    check(
        "write-majority",
        Clusters,
        "majority writes go on when a member fails: not so with an arbiter in the place of one",
        clusters::write_majority,
    ),
    check("single-node", Clusters, "one member is no redundancy", clusters::single_node),
    check(
        "write-concern-default",
        Clusters,
        "what an application is told is written survives an election",
        clusters::write_concern,
    ),
    check("majority-journal", Clusters, "a majority write is in the journals", clusters::majority_journal),
    check("replication-lag", Clusters, "no member is behind before a copy adds to it", clusters::replication_lag),
    check(
        "delayed-members",
        Clusters,
        "a member kept behind on purpose would hold a copy up for ever",
        clusters::delayed_members,
    ),
    check("clock-skew", Clusters, "the primary's clock and this machine's differ by at most 1 s", clusters::clock_skew),
    check(
        "member-clocks",
        Clusters,
        "the members' clocks differ by at most 1 s: leases and freezes end in the primary's time",
        clusters::member_clocks,
    ),
    check(
        "encrypted-connection",
        Clusters,
        "documents and credentials cross a network encrypted, and the server is who it says",
        clusters::encrypted_connection,
    ),
    check("credentials", Clusters, "somebody is logged in where the server is elsewhere", clusters::credentials),
    check("two-clusters", Clusters, "`next_uri` leads to another replica set than `uri`", clusters::two_clusters),
    check(
        "change-stream",
        Clusters,
        "a change stream opens on legacy: it is opened and let go",
        clusters::change_stream,
    ),
    check(
        "privileges-legacy",
        Rights,
        "the user may do on legacy what the rollout does, each action by name",
        rights::on_legacy,
    ),
    check("privileges-next", Rights, "the same on next, the way back included", rights::on_next),
    check("privileges-control", Rights, "the same in tidegate's own database", rights::on_control),
    check(
        "privileges-observe",
        Rights,
        "members and oplog can be watched: a gate on what is not known never passes",
        rights::to_observe,
    ),
    check("privileges-check", Rights, "what only this preflight asks for", rights::to_check),
    check("least-privilege", Rights, "the user may do little more than is needed", rights::least),
    check("legacy-exists", Collections, "legacy is there", collections::legacy_exists),
    check("legacy-kind", Collections, "legacy is no view, not capped, not time-series", collections::legacy_kind),
    check(
        "legacy-collation",
        Collections,
        "with a collation, `_id`s are equal that differ in their bytes",
        collections::legacy_collation,
    ),
    check(
        "legacy-encryption",
        Collections,
        "Queryable Encryption keeps metadata that only its client writes",
        collections::legacy_encryption,
    ),
    check("legacy-clustered", Collections, "next will not be clustered as legacy is", collections::legacy_clustered),
    check("legacy-not-empty", Collections, "an empty legacy is mostly a wrong name", collections::legacy_not_empty),
    check(
        "legacy-unique-indexes",
        Collections,
        "next must refuse what the unique indexes of legacy refuse",
        collections::unique_indexes,
    ),
    check("legacy-ttl", Collections, "TTL indexes are suspended while writes are on next", collections::ttl_indexes),
    check(
        "legacy-indexes",
        Collections,
        "each index of legacy has a counterpart in the plan",
        collections::indexes_carried,
    ),
    check(
        "legacy-index-options",
        Collections,
        "partial, sparse, text and geographical indexes cannot be said in a plan",
        collections::index_options,
    ),
    check("legacy-validator", Collections, "what is written on next must fit back into legacy", collections::validator),
    check(
        "server-gate",
        Collections,
        "the validators of `server_gate` can be put up beside those that are there",
        collections::server_gate,
    ),
    check("next-kind", Collections, "next does not exist, or is a plain collection", collections::next_kind),
    check(
        "next-empty",
        Collections,
        "next holds nothing that a copy would overwrite or take for its own",
        collections::next_empty,
    ),
    check(
        "next-rules",
        Collections,
        "nothing on next refuses or deletes documents that legacy keeps",
        collections::next_rules,
    ),
    check("names-free", Collections, "the names are free that a side is put away under", collections::names_free),
    check("name-lengths", Collections, "those names are not too long for a server", collections::name_lengths),
    check("sample", Documents, "how many documents the following checks have looked at", documents::sample),
    check("transforms", Documents, "T carries the sampled documents", documents::transforms),
    check(
        "round-trip",
        Documents,
        "T⁻¹ brings them back: byte for byte, up to the order of fields, or not",
        documents::round_trip,
    ),
    check(
        "document-sizes",
        Documents,
        "no document comes near the server's 16 MiB, before or after T",
        documents::sizes,
    ),
    check("field-names", Documents, "no field name is empty, has a dot, or begins with `$`", documents::field_names),
    check("duplicate-fields", Documents, "no field stands in one document twice", documents::duplicate_fields),
    check("id-placement", Documents, "every `_id` has a bucket (docs/routing.md)", documents::id_placement),
    check(
        "unique-on-next",
        Documents,
        "no two documents share, after T, what a unique index of the plan holds apart",
        documents::unique_on_next,
    ),
    check("in-place-shape", Documents, "in place: `shape` tells the two shapes apart", documents::in_place_shape),
    check("pilot-cohort", Documents, "the pilot cohort is neither nobody nor everybody", documents::cohort),
    check(
        "encrypted-values",
        Documents,
        "values that an application has encrypted are known",
        documents::encrypted_values,
    ),
    check("copy-time", Capacity, "how long the copy takes, and what that rests on", capacity::copy_time),
    check("free-space", Capacity, "next fits on the disk", capacity::free_space),
    check(
        "oplog-window",
        Capacity,
        "the oplog reaches back at least an hour: a runner that is away for longer has lost its place",
        capacity::oplog_window,
    ),
    check(
        "oplog-for-copy",
        Capacity,
        "it reaches back as long as the copy takes, while the copy fills it",
        capacity::oplog_for_copy,
    ),
    check("lossy-steps", Plan, "between two collections every step has a way back", shape::lossy),
    check("shape-change", Plan, "whether a reader of the old shape can read the new one", shape::compatible),
    check("queries-legacy", Plan, "how legacy answers the declared queries", shape::queries_on_legacy),
    check("queries-next", Plan, "how next answers them, or would", shape::queries_on_next),
    check("change-windows", Plan, "whether a stage may begin now, or when", shape::windows),
    check("hooks", Plan, "what the hooks call can be called: it is there, and so are its variables", shape::hooks),
    check("lease", Rollouts, "nobody runs this plan now", rollouts::held),
    check(
        "earlier-rollout",
        Rollouts,
        "the plan has not been run before, or that has been cleaned up",
        rollouts::earlier,
    ),
    check("other-plans", Rollouts, "no other plan works on the same collections", rollouts::others),
    check(
        "leftovers",
        Rollouts,
        "no strays or originals of an earlier rollout of this plan are left",
        rollouts::leftovers,
    ),
];

/// The checks that say something about a migration that is only observed.
pub(super) const OBSERVED: [&str; 34] = [
    "reachable",
    "replica-set",
    "not-sharded",
    "server-version",
    "feature-compatibility",
    "member-versions",
    "members-healthy",
    "replication-lag",
    "encrypted-connection",
    "credentials",
    "two-clusters",
    "change-stream",
    "privileges-legacy",
    "privileges-next",
    "privileges-observe",
    "privileges-check",
    "least-privilege",
    "legacy-exists",
    "legacy-kind",
    "legacy-collation",
    "legacy-encryption",
    "legacy-not-empty",
    "next-kind",
    "sample",
    "transforms",
    "document-sizes",
    "duplicate-fields",
    "encrypted-values",
    "oplog-window",
    "shape-change",
    "queries-legacy",
    "queries-next",
    "change-windows",
    "hooks",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_sorted_by_topic() {
        let mut names: Vec<&str> = CHECKS.iter().map(|c| c.name).collect();
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '-')), "{names:?}");
        assert!(CHECKS.is_sorted_by_key(|c| c.topic));
        assert!(OBSERVED.iter().all(|o| names.contains(o)));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }
}

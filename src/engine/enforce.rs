//! Legacy's validator on next (DESIGN rule 11): what next accepts must fit back. Only what can be said of next's fields word for word is
//! set; of anything else it is said that next does not enforce it.

use std::sync::Arc;

use bson::Document;

use super::ctx::{Ctx, Halt};
use super::server_gate::{set, validation_of, without_gate};
use crate::cluster::Validation;
use crate::route::Side;
use crate::transform::Transform;

/// Sets legacy's validator on next where it can be said there. Answers what is to be told of it.
pub(super) async fn like_legacy(ctx: &Arc<Ctx>) -> Result<Option<String>, Halt> {
    let id = &ctx.plan.id;
    let legacy = without_gate(validation_of(ctx, Side::Legacy).await?, id);
    let Some(validator) = &legacy.validator else { return Ok(None) };
    if without_gate(validation_of(ctx, Side::Next).await?, id).validator.is_some() {
        return Ok(Some("next has a validator of its own, which is left as it is".into()));
    }
    match on_next(&ctx.transform, validator) {
        Some(same) => {
            set(ctx, Side::Next, &Validation { validator: Some(same), ..legacy.clone() }).await?;
            Ok(Some("legacy's validator holds on next too".into()))
        }
        None => Ok(Some(
            "NEXT DOES NOT ENFORCE legacy's validator, which says more than conditions on fields that stay as they are"
                .into(),
        )),
    }
}

/// The validator in next's names: conditions on fields that T leaves as they are, or moves. `None` for anything more.
pub(super) fn on_next(transform: &Transform, validator: &Document) -> Option<Document> {
    let condition = |(path, condition): (&String, &bson::Bson)| {
        let plain = !path.starts_with('$') && !says_where(condition);
        let path = if path == "_id" { Some(path.clone()) } else { transform.carried(path) };
        path.filter(|_| plain).map(|p| (p, condition.clone()))
    };
    validator.iter().map(condition).collect()
}

/// True for a condition that looks beyond its own field.
fn says_where(v: &bson::Bson) -> bool {
    match v {
        bson::Bson::Document(d) => {
            d.iter().any(|(k, v)| matches!(k.as_str(), "$where" | "$expr" | "$jsonSchema") || says_where(v))
        }
        bson::Bson::Array(a) => a.iter().any(says_where),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::Step;
    use bson::doc;

    #[test]
    fn a_validator_is_said_on_next_only_where_its_fields_stay_as_they_are() {
        let steps = [
            Step::Rename { from: "customer.name".into(), to: "name".into() },
            Step::Set { path: "v".into(), value: bson::Bson::Int32(2) },
        ];
        let t = Transform::new(&steps);
        let said = doc! { "customer.name": { "$exists": true }, "n": { "$gt": 0 } };
        assert_eq!(on_next(&t, &said), Some(doc! { "name": { "$exists": true }, "n": { "$gt": 0 } }));
        for not in [
            doc! { "$expr": true },
            doc! { "$jsonSchema": {} },
            doc! { "customer": { "$exists": true } },
            doc! { "v": 1 },
            doc! { "n": 1, "$or": [] },
        ] {
            assert_eq!(on_next(&t, &not), None, "{not}");
        }
    }
}

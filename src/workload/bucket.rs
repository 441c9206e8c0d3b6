//! The application's own code for where an order goes, written from docs/routing.md and not from tidegate's: a mistake in one shows
//! as a difference.

use bson::RawBsonRef;
use md5::{Digest, Md5};

use super::orders::{Order, OrderId};
use crate::route::{Cohort, Located};

/// An order as the route finds it.
pub(super) struct Place {
    order: Order,
    bucket: u16,
}

impl Place {
    pub(super) fn of(order: &Order) -> Place {
        Place { bucket: bucket(&order.id()), order: *order }
    }

    /// The place of an order whose bucket is known.
    pub(super) fn known(order: &Order, bucket: u16) -> Place {
        Place { order: *order, bucket }
    }
}

impl Located for Place {
    fn bucket(&self) -> u16 {
        self.bucket
    }

    fn is_in(&self, cohort: &Cohort) -> bool {
        let id = self.order.id();
        let part = match (&id, cohort.field()) {
            (OrderId::Region(Some(region), _), "_id.region") => OrderId::Text((*region).to_owned()),
            (OrderId::Region(_, n), "_id.n") => (**n).clone(),
            (OrderId::Region(..), _) => return false,
            (id, "_id") => id.clone(),
            _ => return false,
        };
        cohort.values().any(|v| is_same(&part, v.value()))
    }
}

/// True when a value of the route is the same to MongoDB: numbers whatever their type.
fn is_same(part: &OrderId, value: RawBsonRef<'_>) -> bool {
    let number = match value {
        RawBsonRef::Int32(n) => Some(f64::from(n)),
        RawBsonRef::Int64(n) => Some(n as f64),
        RawBsonRef::Double(x) => Some(x),
        _ => None,
    };
    match (part, value) {
        (OrderId::Text(text), RawBsonRef::String(v)) => text == v,
        (OrderId::Object(bytes), RawBsonRef::ObjectId(v)) => *bytes == v.bytes(),
        // No order has a number that a double could not hold.
        (OrderId::Int(n) | OrderId::Long(n), _) => number == Some(*n as f64),
        (OrderId::Double(x), _) => number == Some(*x),
        _ => false,
    }
}

/// The bucket of an order's `_id`.
fn bucket(id: &OrderId) -> u16 {
    let mut input = 0u32.to_le_bytes().to_vec();
    feed(&mut input, id, "");
    let digest = Md5::digest(&input);
    // The top ten bits of the little-endian value, counted from the smallest signed number: flip the sign bit first.
    let top = u16::from_be_bytes([digest[7], digest[6]]) ^ 0x8000;
    top >> 6
}

/// A value as the hash sees it; `name` with its NUL stands between type and value inside a document.
fn feed(input: &mut Vec<u8>, id: &OrderId, name: &str) {
    let kind: u32 = match id {
        OrderId::Object(_) => 35,
        OrderId::Text(_) => 15,
        OrderId::Int(_) | OrderId::Long(_) | OrderId::Double(_) => 10,
        OrderId::Region(..) => 20,
    };
    input.extend(kind.to_le_bytes());
    input.extend(name.as_bytes());
    match id {
        OrderId::Object(bytes) => input.extend(bytes),
        OrderId::Text(text) => {
            input.extend((text.len() as u32 + 1).to_le_bytes());
            input.extend(text.as_bytes());
            input.push(0);
        }
        OrderId::Int(n) | OrderId::Long(n) => input.extend(n.to_le_bytes()),
        OrderId::Double(x) => input.extend((*x as i64).to_le_bytes()),
        OrderId::Region(region, n) => {
            if let Some(region) = region {
                feed(input, &OrderId::Text((*region).to_owned()), "region\0");
            }
            feed(input, n, "n\0");
            input.extend(0u32.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bson::Bson;

    use super::super::orders::Ids;
    use super::*;
    use crate::cluster::Key;
    use crate::route::bucket_of;

    #[test]
    fn two_independent_bucket_functions_agree() {
        for (n, ids) in (0..5_000).flat_map(|n| [(n, Ids::Mixed), (n, Ids::Region)]) {
            let order = ids.order(n);
            assert_eq!(Place::of(&order).bucket(), bucket_of(&order.key()).unwrap(), "{n} {ids:?}");
        }
        assert_eq!(bucket(&OrderId::Double(5.0)), bucket_of(&Key::from(5)).unwrap());
    }

    #[test]
    fn two_independent_ways_to_find_a_cohort_agree() {
        let values: [Bson; 7] =
            ["eu".into(), "sa".into(), 6.into(), 7i64.into(), 8.0.into(), "ord-000000015".into(), 18.into()];
        for field in ["_id", "_id.region", "_id.n", "_id.region.x", "_id.country"] {
            let cohort = Cohort::new(field, &values).unwrap();
            let mut within = 0;
            for order in (0..500).flat_map(|n| [Ids::Mixed.order(n), Ids::Region.order(n)]) {
                let theirs = cohort.contains(order.key().value());
                assert_eq!(Place::of(&order).is_in(&cohort), theirs, "{field} of {:?}", order.id());
                within += usize::from(theirs);
            }
            assert_eq!(within > 0, !field.contains("country") && !field.ends_with(".x"), "{field}: {within}");
        }
    }
}

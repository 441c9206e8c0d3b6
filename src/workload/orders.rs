//! Orders, in both shapes, as the application itself writes them.

use bson::oid::ObjectId;
use bson::spec::ElementType;
use bson::{Decimal128, RawBsonRef, RawDocument, RawDocumentBuf};

use crate::cluster::Key;
use crate::cluster::fields::{DocBytes, fields, push_decimal};
use crate::plan::{Collection, Step, ValueType};
use crate::route::Side;
use crate::runtime::keyed_hash;

/// One order: what the application means, in no shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number; everything that never changes derives from it.
    pub n: u64,
    /// The total in cents.
    pub cents: i64,
    /// Moved by every write.
    pub rev: i64,
    /// Names the write that made it, for telling one's own writes after an unknown outcome.
    pub by: i64,
    /// What its `_id` is like.
    pub ids: Ids,
}

/// What the `_id`s of the application's orders are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// Single values of several BSON types.
    #[default]
    Mixed,
    /// Documents with a region and a number, as a pilot cohort needs them; a few without a region.
    Region,
}

impl Ids {
    /// Order `n` as it exists before the application starts.
    #[must_use]
    pub fn order(self, n: u64) -> Order {
        Order { n, cents: 100 + (keyed_hash(7, 1, n, 0) % 900_000) as i64, rev: 1, by: 0, ids: self }
    }
}

/// Where orders come from, one of each line.
const REGIONS: [&str; 5] = ["us", "eu", "ap", "us", "sa"];

/// An order's `_id`: several BSON types on purpose.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OrderId {
    Object([u8; 12]),
    Text(String),
    Int(i64),
    Long(i64),
    Double(f64),
    /// `{ region, n }`, the first only when there is one.
    Region(Option<&'static str>, Box<OrderId>),
}

/// Why this application cannot run against a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The plan has none.
    #[error("the plan has no collection")]
    NoCollection,
    /// A step it does not know.
    #[error(
        "the simulated application writes orders and knows the steps of the plan `orders-v2` only; it does not know {0}"
    )]
    Step(String),
    /// Both shapes are in one collection.
    #[error("the simulated application follows the route between two collections; `{0}` would change in place")]
    InPlace(String),
}

/// Which of the steps of `orders-v2` tell next's shape from legacy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    flat_name: bool,
    decimal_total: bool,
    schema_version: bool,
}

const CITIES: [&str; 8] = ["Lisbon", "Bergen", "Kobe", "Halifax", "Galway", "Valparaíso", "Durban", "Hobart"];

impl Order {
    /// An order as it exists before the application starts.
    #[must_use]
    pub fn initial(n: u64) -> Order {
        Ids::Mixed.order(n)
    }

    pub(super) fn id(&self) -> OrderId {
        let n = self.n;
        if self.ids == Ids::Region {
            let number = match n % 3 {
                0 => OrderId::Int(n as i64),
                1 => OrderId::Long(n as i64),
                _ => OrderId::Double(n as f64),
            };
            let region = REGIONS[(keyed_hash(7, 3, n, 0) % REGIONS.len() as u64) as usize];
            return OrderId::Region((n % 50 != 7).then_some(region), Box::new(number));
        }
        match n % 10 {
            0..=4 => {
                let mut bytes = [0u8; 12];
                bytes[..4].copy_from_slice(&(0x6700_0000 + (n >> 8) as u32).to_be_bytes());
                bytes[4..].copy_from_slice(&keyed_hash(7, 2, n, 0).to_be_bytes());
                OrderId::Object(bytes)
            }
            5..=7 => OrderId::Text(text_id(n)),
            8 => OrderId::Int(n as i64),
            _ if n.is_multiple_of(3) => OrderId::Double(n as f64),
            _ => OrderId::Long(n as i64),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Key {
        match self.id() {
            OrderId::Object(b) => key_of(RawBsonRef::ObjectId(ObjectId::from_bytes(b))),
            OrderId::Text(t) => key_of(RawBsonRef::String(&t)),
            OrderId::Int(n) => key_of(RawBsonRef::Int32(n as i32)),
            OrderId::Long(n) => Key::from(n),
            OrderId::Double(x) => key_of(RawBsonRef::Double(x)),
            id @ OrderId::Region(..) => {
                let mut d = DocBytes::with_capacity(64);
                id.write(&mut d, "_id");
                // Just written: it has one.
                Key::of(&d.finish()).unwrap_or_else(|_| Key::from(0))
            }
        }
    }

    fn total(&self) -> String {
        format!("{}.{:02}", self.cents / 100, self.cents % 100)
    }
}

/// `ord-` and nine digits: every other read makes one.
fn text_id(n: u64) -> String {
    let mut text = String::with_capacity(16);
    text.push_str("ord-");
    let mut unit = 100_000_000;
    while unit > n.max(1) {
        text.push('0');
        unit /= 10;
    }
    text.push_str(&n.to_string());
    text
}

impl OrderId {
    /// Adds it to a document.
    fn write(&self, d: &mut DocBytes, name: &str) {
        match self {
            OrderId::Object(b) => d.element(ElementType::ObjectId, name, b),
            OrderId::Text(t) => d.text(name, t),
            OrderId::Int(n) => d.int32(name, *n as i32),
            OrderId::Long(n) => d.int64(name, *n),
            OrderId::Double(x) => d.element(ElementType::Double, name, &x.to_le_bytes()),
            OrderId::Region(region, n) => {
                let at = d.open(ElementType::EmbeddedDocument, name);
                if let Some(region) = region {
                    d.text("region", region);
                }
                n.write(d, "n");
                d.close(at);
            }
        }
    }
}

/// So many hundredths as a decimal with two places: coefficient and biased exponent as IEEE 754-2008 lays them out in the binary
/// encoding, little-endian.
fn hundredths(n: i64) -> Decimal128 {
    const BIAS: u128 = 6_176;
    let sign = u128::from(n < 0) << 127;
    Decimal128::from_bytes((sign | (BIAS - 2) << 113 | u128::from(n.unsigned_abs())).to_le_bytes())
}

fn key_of(v: RawBsonRef<'_>) -> Key {
    // None of the types above is refused as a key.
    Key::new(v).unwrap_or_else(|_| Key::from(0))
}

impl Shapes {
    /// The two shapes of a plan's collection.
    ///
    /// # Errors
    /// Names the step that this application does not know how to write.
    pub fn of(collection: &Collection) -> Result<Shapes, ShapeError> {
        if collection.in_place() {
            return Err(ShapeError::InPlace(collection.legacy.to_string()));
        }
        let mut s = Shapes::default();
        for step in &collection.steps {
            match step {
                Step::Rename { from, to } if from == "customer.name" && to == "customer_name" => s.flat_name = true,
                Step::Convert { path, from: ValueType::String, to: ValueType::Decimal, lossy: false }
                    if path == "total" =>
                {
                    s.decimal_total = true;
                }
                Step::Set { path, .. } if path == "schema_version" => s.schema_version = true,
                other => return Err(ShapeError::Step(crate::scrub::short(&format!("{other:?}"), 80))),
            }
        }
        Ok(s)
    }

    /// The order as the application writes it on `side`.
    #[must_use]
    pub fn document(&self, side: Side, o: &Order, padding: usize) -> RawDocumentBuf {
        let next = side == Side::Next;
        let flat = next && self.flat_name;
        let name = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"Cust ");
            push_decimal(out, o.n % 997);
        };
        let mut d = DocBytes::with_capacity(padding + 256);
        o.id().write(&mut d, "_id");
        let customer = d.open(ElementType::EmbeddedDocument, "customer");
        if !flat {
            d.text_of("name", name);
        }
        d.text("city", CITIES[(o.n % 8) as usize]);
        d.close(customer);
        if next && self.decimal_total {
            d.element(ElementType::Decimal128, "total", &hundredths(o.cents).bytes());
        } else {
            d.text("total", &o.total());
        }
        let items = d.open(ElementType::Array, "items");
        let item = d.open(ElementType::EmbeddedDocument, "0");
        d.text_of("sku", |out| {
            out.extend_from_slice(b"sku-");
            push_decimal(out, o.n % 511);
        });
        d.int32("qty", (o.n % 9) as i32 + 1);
        d.close(item);
        d.close(items);
        d.int64("rev", o.rev);
        d.int64("by", o.by);
        d.text_of("note", |out| out.resize(out.len() + padding, b'x'));
        if flat {
            d.text_of("customer_name", name);
        }
        if next && self.schema_version {
            d.int32("schema_version", 2);
        }
        d.finish()
    }

    /// True when a stored document says the same as `o` in the shape of `side`, in whatever field order.
    #[must_use]
    pub fn matches(&self, side: Side, o: &Order, padding: usize, stored: &RawDocument) -> bool {
        same_up_to_order(&self.document(side, o, padding), stored)
    }
}

/// `rev` and `by` of a stored order in either shape.
pub(super) fn revision(stored: &RawDocument) -> Option<(i64, i64)> {
    let (mut rev, mut by) = (None, None);
    for f in fields(stored.as_bytes()) {
        match f.name {
            b"rev" => rev = f.int64(),
            b"by" => by = f.int64(),
            _ => continue,
        }
        if let (Some(rev), Some(by)) = (rev, by) {
            return Some((rev, by));
        }
    }
    None
}

/// Equal field sets with equal values; nested documents likewise.
pub(super) fn same_up_to_order(a: &RawDocument, b: &RawDocument) -> bool {
    if a.as_bytes() == b.as_bytes() {
        return true;
    }
    let count = |d: &RawDocument| d.iter().filter(Result::is_ok).count();
    count(a) == count(b)
        && a.iter().all(|item| {
            let Ok((name, v)) = item else { return false };
            match (v, b.get(name)) {
                (RawBsonRef::Document(x), Ok(Some(RawBsonRef::Document(y)))) => same_up_to_order(x, y),
                (x, Ok(Some(y))) => x == y,
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_the_same_decimal_however_it_is_made() {
        for cents in [0, 1, 99, 100, 12_340, 900_099, i64::MAX] {
            let text = format!("{}.{:02}", cents / 100, cents % 100);
            assert_eq!(Ok(hundredths(cents)), text.parse().map_err(|_| text));
        }
    }

    #[test]
    fn a_text_id_has_nine_digits_at_least() {
        for n in [0, 1, 9, 10, 11, 12_345, 99_999_999, 100_000_000, 123_456_789, 1_234_567_890] {
            assert_eq!(text_id(n), format!("ord-{n:09}"));
        }
    }

    #[test]
    fn field_order_is_not_content_but_every_value_is() {
        let s = Shapes { flat_name: true, decimal_total: true, schema_version: true };
        let o = Order::initial(4);
        let d = s.document(Side::Next, &o, 10);
        assert!(s.matches(Side::Next, &o, 10, &d));
        assert!(!s.matches(Side::Next, &Order { cents: o.cents + 1, ..o }, 10, &d));
        assert!(!s.matches(Side::Legacy, &o, 10, &d));
    }
}

//! Documents made to hurt, each from its number alone: every type of `_id` and value, texts that steer terminals, odd and doubled field
//! names, numbers at their edges, deep and large ones. They are put together byte by byte, because no driver would.
//!
//! Most of them the steps carry, there and back to the same bytes. Some they must refuse, and the number says which and why.

use bson::RawDocumentBuf;
use tidegate::cluster::Key;

/// What is done to them: each step comes back byte for byte.
pub const STEPS: &str = r#"steps = [
  { rename = "customer.name", to = "customer.full_name" },
  { convert = "total", from = "string", to = "decimal" },
  { convert = "ratio", from = "double", to = "string" },
  { wrap = "tag", as = "array" },
  { map = "state", values = { A = "active", B = "blocked" } },
  { split = "who", at = " ", into = ["first", "last"] },
  { flatten = "address", prefix = "address_" },
  { set = "schema_version", value = 2 },
]"#;

/// One of so many is such that the steps refuse it.
pub const MISFIT_EVERY: u64 = 40;
/// One of so many is as large as a server lets it be, but for what the steps add.
const LARGE: usize = 15 << 20;

/// A key as the journal tells it: what looks like credentials in a connection string is masked there, in an `_id` too.
pub fn told_as(key: &Key) -> String {
    key.to_string().replace("mongodb://u:p@", "mongodb://***@")
}

/// One document.
pub struct Hostile {
    /// Its bytes.
    pub doc: RawDocumentBuf,
    /// A piece of the reason for which it cannot be carried; `None` when it can.
    pub refused: Option<&'static str>,
    /// A server would store something else when it is inserted by an ordinary command.
    pub only_raw: bool,
    /// An update may set its field `note`.
    pub editable: bool,
}

/// The documents of a collection of `count`, of which so many have 15 MB; `note` says what is in that field.
pub fn documents(count: u64, large: u64, note: impl Fn(u64) -> &'static str) -> impl Iterator<Item = Hostile> {
    (0..count).map(move |n| document(n, n % (count / large.max(1)).max(1) == 17 && large > 0, note(n)))
}

/// A value: its BSON type and its bytes.
type Value = (u8, Vec<u8>);

/// A document under construction.
struct Doc(Vec<u8>);

impl Doc {
    fn new() -> Doc {
        Doc(vec![0; 4])
    }

    fn put(&mut self, name: impl AsRef<[u8]>, (kind, bytes): Value) {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_ref());
        self.0.push(0);
        self.0.extend_from_slice(&bytes);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(0);
        let len = self.0.len() as i32;
        self.0[..4].copy_from_slice(&len.to_le_bytes());
        self.0
    }

    fn value(self) -> Value {
        (0x03, self.end())
    }
}

fn doc(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut d = Doc::new();
    fields.into_iter().for_each(|(name, v)| d.put(name, v));
    d.value()
}

fn double(x: f64) -> Value {
    (0x01, x.to_le_bytes().to_vec())
}

fn string(text: impl AsRef<[u8]>) -> Value {
    typed_text(0x02, text.as_ref())
}

/// Strings, JavaScript and symbols are written alike.
fn typed_text(kind: u8, text: &[u8]) -> Value {
    let mut v = (text.len() as i32 + 1).to_le_bytes().to_vec();
    v.extend_from_slice(text);
    v.push(0);
    (kind, v)
}

fn binary(subtype: u8, bytes: &[u8]) -> Value {
    let mut inner = bytes.to_vec();
    if subtype == 2 {
        // The old kind has its length twice.
        inner = [&(bytes.len() as i32).to_le_bytes()[..], bytes].concat();
    }
    let mut v = (inner.len() as i32).to_le_bytes().to_vec();
    v.push(subtype);
    v.extend(inner);
    (0x05, v)
}

fn int(n: i32) -> Value {
    (0x10, n.to_le_bytes().to_vec())
}

fn long(n: i64) -> Value {
    (0x12, n.to_le_bytes().to_vec())
}

fn date(ms: i64) -> Value {
    (0x09, ms.to_le_bytes().to_vec())
}

fn timestamp(secs: u32, inc: u32) -> Value {
    (0x11, [inc.to_le_bytes(), secs.to_le_bytes()].concat())
}

fn decimal(bits: u128) -> Value {
    (0x13, bits.to_le_bytes().to_vec())
}

/// A decimal of this coefficient and exponent.
fn decimal_of(coefficient: u64, exponent: i32) -> Value {
    decimal(u128::from(coefficient) | (((exponent + 6_176) as u128) << 113))
}

fn object_id(n: u64) -> [u8; 12] {
    let mut id = [0xAB; 12];
    id[4..].copy_from_slice(&n.to_be_bytes());
    id
}

fn db_pointer(n: u64) -> Value {
    let mut v = typed_text(0x0C, b"shop.orders").1;
    v.extend(object_id(n));
    (0x0C, v)
}

fn code_with_scope(code: &str, n: i32) -> Value {
    let (text, scope) = (typed_text(0x0D, code.as_bytes()).1, doc([("n", int(n))]).1);
    let mut v = (4 + text.len() as i32 + scope.len() as i32).to_le_bytes().to_vec();
    v.extend(text);
    v.extend(scope);
    (0x0F, v)
}

/// Texts that steer a terminal, hide or reorder what is read, or end early; all of them valid UTF-8.
const TEXTS: [&str; 8] = [
    "\u{1b}]52;c;eA==\u{7}\u{1b}[2J",
    "\u{202E}gnp.exe\u{2066}\u{200B}\u{FEFF}",
    "end\u{0}of\r\ntext\u{9b}31m",
    "$where",
    "a.b.$c",
    "{\"$oid\": \"x\"}",
    "${TIDEGATE_URI}\u{85}\u{2028}",
    "mongodb://u:p@h/\u{AD}\u{E0041}",
];

fn kept_text(n: u64) -> &'static str {
    TEXTS[(n % 8) as usize]
}

/// An `_id` of each type in turn. No two are equal as a server compares them.
fn id(n: u64) -> Value {
    let small = n as i32;
    // Of these there is only one each.
    match n {
        0 => return string("\u{0}"),
        1 => return (0x0A, Vec::new()),
        2 => return (0x08, vec![0]),
        3 => return (0x08, vec![1]),
        4 => return (0xFF, Vec::new()),
        5 => return (0x7F, Vec::new()),
        6 => return double(f64::NAN),
        7 => return double(-0.0),
        8 => return timestamp(0, 0),
        9 => return string(""),
        10 => return doc([]),
        11 => return double(-9_223_372_036_854_774_784.0),
        12 => return long(i64::MAX),
        13 => return date(i64::MIN),
        _ => {}
    }
    match n % 17 {
        0 => int(small),
        1 => long(i64::from(small) << 20),
        2 => double(n as f64 + 0.5),
        // A whole number, with zeros behind the point.
        3 => decimal_of(((1 << 36) + n) * 100, -2),
        4 => string(format!("{}{n}", kept_text(n / 17))),
        5 => (0x07, object_id(n).to_vec()),
        6 => date(n as i64 - 5_000),
        7 => timestamp(small as u32, 1),
        8 => binary([0, 2, 3, 4, 5, 0x80][(n / 17 % 6) as usize], &[&n.to_le_bytes()[..], &[0; 8]].concat()),
        9 => doc([("a", int(small)), ("b", doc([("c", double(-0.0)), ("", string(kept_text(n)))]))]),
        10 => typed_text(0x0D, format!("return {n};").as_bytes()),
        11 => typed_text(0x0E, format!("symbol {n}").as_bytes()),
        12 => code_with_scope("return n;", small),
        13 => db_pointer(n),
        14 => doc([("region", string("eu")), ("list", list([int(small), (0x0A, Vec::new())]))]),
        15 => double(-(n as f64) - 0.125),
        _ => string(format!("{n}{}", kept_text(n / 17))),
    }
}

fn list(values: impl IntoIterator<Item = Value>) -> Value {
    let mut d = Doc::new();
    values.into_iter().enumerate().for_each(|(i, v)| d.put(i.to_string(), v));
    (0x04, d.end())
}

/// What no step touches. True when only a raw insert stores it as it is.
fn untouched(n: u64, d: &mut Doc) -> bool {
    match n % 23 {
        0 => d.put("x", double(f64::from_bits(0x7FF8_0000_0000_0BAD))),
        1 => d.put("x", list([double(-0.0), double(f64::NEG_INFINITY), double(5e-324)])),
        // Not a number, infinite, minus nothing, and bits that no encoder makes.
        2 => {
            let bits = [0x7C00, 0x7E00, 0xF800, 0xB040, 0xFFFF].map(|top: u128| decimal(top << 112 | u128::from(n)));
            d.put("x", list(bits));
        }
        3 => d.put("x", doc([("zero", timestamp(0, 0)), ("zero", timestamp(0, 1))])),
        4 => {
            let mut deep = doc([("leaf", int(1)), ("leaf", int(2))]);
            for level in 0..140 {
                deep = if level % 3 == 0 { list([deep]) } else { doc([("d", deep)]) };
            }
            d.put("x", deep);
        }
        5 => d.put("x", doc([("a", int(1)), ("a", string("two")), ("", int(3)), ("", int(4))])),
        6 => d.put("x", list([(0x06, Vec::new()), (0xFF, Vec::new()), (0x7F, Vec::new()), (0x0A, Vec::new())])),
        7 => d.put("x", list([db_pointer(n), code_with_scope("x", 1), typed_text(0x0E, b"sym")])),
        // Options out of order, which an encoder would sort.
        8 => d.put("x", (0x0B, b"^a(\x1b|b)\0xsmi\0".to_vec())),
        // An array whose indexes are none.
        9 => {
            let mut a = Doc::new();
            a.put("7", int(1));
            a.put("x", int(2));
            a.put("7", int(3));
            d.put("x", (0x04, a.end()));
        }
        10 => d.put("x", list([date(i64::MIN), date(i64::MAX), long(i64::MIN), int(i32::MIN)])),
        // No valid UTF-8, and after it something that a server would fill in.
        11 => {
            d.put("x", string(b"\xff\xfe broken \xc3"));
            d.put("zero", timestamp(0, 0));
            return true;
        }
        12 => {
            d.put(b"\xff\xfename", int(1));
            d.put("zero", timestamp(0, 0));
            return true;
        }
        13 => d.put("x", doc([("a.b", int(1)), ("$set", int(2)), ("\u{202E}\u{1b}[1m", int(3))])),
        14 => {
            d.put("a.b", int(1));
            d.put("", int(2));
            d.put("\u{7}\u{2066}name", int(3));
        }
        15 => {
            d.put("$x", int(1));
            return true;
        }
        16 => d.put("x", binary(2, b"old")),
        17 => d.put("x", string(vec![b'y'; 40_000])),
        _ => d.put("x", string(kept_text(n))),
    }
    false
}

fn document(n: u64, large: bool, note: &str) -> Hostile {
    let misfit = (n % MISFIT_EVERY == MISFIT_EVERY - 1).then_some((n / MISFIT_EVERY) as usize % MISFITS.len());
    // One of these is enough, and heavy.
    let misfit = misfit.map(|m| if m == TOO_LARGE && n > 500 { UNMAPPED } else { m });
    let is = |m: usize| misfit == Some(m);
    let mut d = Doc::new();
    d.put("_id", if is(UNROUTED) { double(1e300 * (n + 1) as f64) } else { id(n) });
    let only_raw = untouched(n, &mut d);
    if is(TWICE_BELOW) {
        d.put("customer", doc([("name", int(1)), ("name", int(2))]));
    } else if n.is_multiple_of(2) {
        d.put("customer", doc([("city", string("Ulm")), ("name", string(kept_text(n / 2))), ("vip", (0x08, vec![1]))]));
    }
    if is(TYPE) {
        d.put("total", int(5));
    } else if !n.is_multiple_of(3) {
        d.put("total", string(format!("{}{n}.{:02}0", if n % 6 == 1 { "-" } else { "" }, n % 100)));
    }
    if is(NOT_EXACT) {
        d.put("ratio", double(f64::from_bits(0x7FF8_0000_0000_0001)));
    } else if !n.is_multiple_of(5) {
        let edge = [f64::NAN, f64::INFINITY, -0.0, 0.1, 1e300, 5e-324, -123_456_789.0, 1.0 / 3.0];
        d.put("ratio", double(edge[(n % 8) as usize]));
    }
    match n % 4 {
        0 => d.put("tag", (0x0A, Vec::new())),
        1 => d.put("tag", list([int(1), list([])])),
        2 => d.put("tag", string(kept_text(n))),
        _ => {}
    }
    d.put("state", string(if is(UNMAPPED) { "Z" } else { ["A", "B"][(n % 2) as usize] }));
    if is(PARTS) {
        d.put("who", string("one"));
    } else if is(OCCUPIED) || !n.is_multiple_of(7) {
        // The first part must not hold the separator.
        d.put("who", string(format!("\u{1b}{n} {}\u{200B} \u{202E}", kept_text(n))));
    }
    if is(PREFIX) || n.is_multiple_of(3) {
        d.put("address", doc([("street", string(kept_text(n + 3))), ("zip", long(-1))]));
    }
    d.put("note", string(note));
    match misfit {
        Some(TWICE) => d.put("note", int(2)),
        Some(ADDED) => d.put("schema_version", int(1)),
        Some(PREFIX) => d.put("address_note", int(1)),
        Some(OCCUPIED) => d.put("first", int(1)),
        // Name, length and kind of the value, and the document's end take 12 bytes; the steps add more than the one that is left.
        Some(TOO_LARGE) => d.put("blob", binary(0, &vec![0x5A; (16 << 20) - d.0.len() - 13])),
        // The same whatever the note says: whoever edits that leaves this alone.
        None if large => d.put("blob", binary(0, &vec![0x5A; LARGE + note.len() - d.0.len()])),
        _ => {}
    }
    let doc = RawDocumentBuf::from_bytes(d.end()).expect("it was put together with its length");
    let editable = misfit.is_none() && !matches!(n % 23, 14 | 15);
    Hostile { doc, refused: misfit.map(|m| MISFITS[m]), only_raw, editable }
}

/// Why the steps refuse a document, by its kind.
const MISFITS: [&str; 11] = [
    "stands there twice",
    "stands there twice",
    "is of type int, expected string",
    "does not come back exactly",
    "is there already",
    "begins with the prefix",
    "has 1 parts",
    "is there already",
    "would grow beyond 16 MiB",
    "cannot be routed",
    "not a value that the plan maps",
];
const TWICE: usize = 0;
const TWICE_BELOW: usize = 1;
const TYPE: usize = 2;
const NOT_EXACT: usize = 3;
const ADDED: usize = 4;
const PREFIX: usize = 5;
const PARTS: usize = 6;
const OCCUPIED: usize = 7;
const TOO_LARGE: usize = 8;
const UNROUTED: usize = 9;
const UNMAPPED: usize = 10;

//! The bucket function against the server's own `$toHashedIndexKey`, which it is defined by.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::{
    Bson, Decimal128, RawArrayBuf, RawBson, RawBsonRef, RawDocumentBuf, oid::ObjectId, rawdoc, spec::BinarySubtype,
};
use libtest_mimic::Trial;
use mongodb::bson::doc;
use tidegate::route::BucketError;
use tidegate::route::bucket::{bucket_of_hash, hash64};
use tidegate::runtime::keyed_hash;

use super::replset::ReplSet;
use super::{R, on_shared};

const RANDOM: usize = 20_000;

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("buckets::random_ids_hash_as_on_the_server", |set| async move {
            let mut dice = Dice(0);
            compare(&set, "random", (0..RANDOM).map(|_| dice.value(0)).collect()).await
        }),
        on_shared("buckets::awkward_ids_hash_as_on_the_server", |set| async move {
            compare(&set, "awkward", awkward()).await
        }),
        on_shared("buckets::the_documented_vectors_hold_on_the_server", |set| async move { vectors(&set).await }),
    ]
}

/// The server's hashes of the values, in order. They are stored a level down: at the top a server fills in `Timestamp(0, 0)`.
async fn hashes(set: &ReplSet, name: &str, values: &[RawBson]) -> Result<Vec<i64>, String> {
    let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
    let db = client.database("buckets");
    for (n, chunk) in values.chunks(1_000).enumerate() {
        let mut docs = RawArrayBuf::new();
        for (i, v) in chunk.iter().enumerate() {
            docs.push(rawdoc! { "_id": (n * 1_000 + i) as i64, "w": { "v": v.clone() } });
        }
        let done =
            db.run_raw_command(rawdoc! { "insert": name, "documents": docs }).await.map_err(|e| e.to_string())?;
        if done.contains_key("writeErrors") {
            return Err(format!("{done}"));
        }
    }
    let pipeline = [doc! { "$sort": { "_id": 1 } }, doc! { "$project": { "h": { "$toHashedIndexKey": "$w.v" } } }];
    let mut cursor = db.collection::<RawDocumentBuf>(name).aggregate(pipeline).await.map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    while cursor.advance().await.map_err(|e| e.to_string())? {
        out.push(cursor.current().get_i64("h").map_err(|e| e.to_string())?);
    }
    if out.len() == values.len() { Ok(out) } else { Err(format!("{} hashes of {} values", out.len(), values.len())) }
}

async fn compare(set: &Arc<ReplSet>, name: &str, values: Vec<RawBson>) -> R {
    let server = hashes(set, name, &values).await?;
    let (mut compared, mut types, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for (value, theirs) in values.iter().zip(server) {
        match hash64(value.as_raw_bson_ref()) {
            Ok(ours) => {
                compared += 1;
                types.insert(format!("{:?}", value.element_type()));
                if ours != theirs {
                    wrong.push(format!("{value:?}: ours {ours}, the server's {theirs}"));
                }
            }
            Err(BucketError::TooLarge(_)) if numbers(value).iter().any(is_large) => {}
            Err(BucketError::Fraction(_)) if numbers(value).iter().any(is_fraction) => {}
            Err(e) => wrong.push(format!("{value:?}: {e}")),
        }
    }
    if !wrong.is_empty() {
        return Err(format!("{} of {compared} differ\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n")));
    }
    if name == "random" && (compared < RANDOM / 2 || types.len() < 16) {
        return Err(format!("only {compared} values of {types:?} were compared"));
    }
    Ok(())
}

/// The numbers in a value, however deep; raw, since a document of random names may have one name twice.
fn numbers(v: &RawBson) -> Vec<Bson> {
    fn collect(v: RawBsonRef<'_>, out: &mut Vec<Bson>) {
        match v {
            RawBsonRef::Double(_) | RawBsonRef::Decimal128(_) | RawBsonRef::Int64(_) => out.push(v.try_into().unwrap()),
            RawBsonRef::Document(d) => d.iter().for_each(|item| collect(item.unwrap().1, out)),
            RawBsonRef::Array(a) => a.into_iter().for_each(|item| collect(item.unwrap(), out)),
            RawBsonRef::JavaScriptCodeWithScope(c) => c.scope.iter().for_each(|item| collect(item.unwrap().1, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    collect(v.as_raw_bson_ref(), &mut out);
    out
}

fn is_large(n: &Bson) -> bool {
    match n {
        Bson::Double(x) => x.abs() >= 2f64.powi(63),
        Bson::Decimal128(d) => d.to_string().parse::<f64>().is_ok_and(|x| x.abs() >= 2f64.powi(63)),
        other => *other == Bson::Int64(i64::MIN),
    }
}

/// True for a decimal with something after the point, once it is written without an exponent.
fn is_fraction(n: &Bson) -> bool {
    let Bson::Decimal128(d) = n else { return false };
    let text = d.to_string().trim_start_matches('-').to_owned();
    let (mantissa, exponent) = text.split_once('E').unwrap_or((&text, "0"));
    let (whole, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (digits, point) = (format!("{whole}{after}"), whole.len() as i64 + exponent.parse::<i64>().unwrap_or(0));
    let from = usize::try_from(point).unwrap_or(0).min(digits.len());
    digits[from..].bytes().any(|b| (b'1'..=b'9').contains(&b))
}

fn dec(text: &str) -> RawBson {
    RawBson::Decimal128(text.parse::<Decimal128>().unwrap())
}

fn binary(subtype: BinarySubtype, bytes: Vec<u8>) -> RawBson {
    RawBson::Binary(bson::Binary { subtype, bytes })
}

fn awkward() -> Vec<RawBson> {
    let mut all: Vec<RawBson> = [
        "5",
        "5.0",
        "5.00",
        "-0",
        "0E+3",
        "-0.9",
        "0.9999999999999999999999999999999999",
        "NaN",
        "-NaN",
        "1E-6176",
        "9223372036854775807",
        "9223372036854775807.9",
        "-9223372036854775807.9",
        "9.223372036854775807E+18",
        "9223372036854775.807E3",
        "1234567890123456789012345678901234E-20",
        "1E+18",
        "-1E+18",
        "4.9",
        "-4.9",
        "0.5E1",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775808.5",
        "1E+6144",
        "Infinity",
        "-Infinity",
    ]
    .map(dec)
    .into();
    for x in [
        5.0,
        5.5,
        -5.5,
        0.0,
        -0.0,
        f64::NAN,
        -f64::NAN,
        f64::MIN_POSITIVE,
        5e-324,
        4.999_999_999_999_999,
        1e15,
        1e18,
        9_007_199_254_740_993.0,
        9_223_372_036_854_774_784.0,
        -9_223_372_036_854_774_784.0,
        2f64.powi(63),
        -2f64.powi(63),
        1e300,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
    ] {
        all.push(RawBson::Double(x));
    }
    all.extend([i64::MIN, i64::MIN + 1, i64::MAX, 0, -1, 5].map(RawBson::Int64));
    all.extend([i32::MIN, i32::MAX, 0, -1, 5].map(RawBson::Int32));
    for bytes in [vec![], vec![0], vec![1, 2, 3], vec![7; 16], vec![9; 300]] {
        for subtype in [
            BinarySubtype::Generic,
            BinarySubtype::Function,
            BinarySubtype::BinaryOld,
            BinarySubtype::UuidOld,
            BinarySubtype::Uuid,
            BinarySubtype::Md5,
            BinarySubtype::Encrypted,
            BinarySubtype::Column,
            BinarySubtype::UserDefined(0x80),
            BinarySubtype::UserDefined(0xFF),
        ] {
            all.push(binary(subtype, bytes.clone()));
        }
    }
    for text in ["", "a", "a\0", "\0", "$x", "ä€𝄞", "Infinity"] {
        all.push(RawBson::String(text.into()));
        all.push(RawBson::Symbol(text.into()));
        all.push(RawBson::JavaScriptCode(text.into()));
    }
    for scope in [rawdoc! {}, rawdoc! { "x": 1, "y": { "z": 2.5 } }] {
        let code = bson::raw::RawJavaScriptCodeWithScope { code: "f(\0)".into(), scope };
        all.push(RawBson::JavaScriptCodeWithScope(code));
    }
    for d in [
        rawdoc! {},
        rawdoc! { "a": 1 },
        rawdoc! { "a": 1.0 },
        rawdoc! { "a": 1.5 },
        rawdoc! { "": { "": {} } },
        rawdoc! { "a": 1, "b": "x" },
        rawdoc! { "b": "x", "a": 1 },
        rawdoc! { "a": [1, "2", [3.5, {}], []] },
        rawdoc! { "a": { "$set": 1, "b.c": RawBson::Null } },
        rawdoc! { "a": 2f64.powi(63) },
        rawdoc! { "a": f64::NAN, "t": bson::Timestamp { time: 0, increment: 0 }, "m": RawBson::MinKey, "x": RawBson::MaxKey },
        rawdoc! { "r": RawBson::RegularExpression(bson::Regex { pattern: bson::cstr!("a.b").into(), options: bson::cstr!("i").into() }) },
    ] {
        all.push(RawBson::Document(d));
    }
    for t in [(0, 0), (0, 1), (1, 0), (u32::MAX, u32::MAX), (1_700_000_000, 3)] {
        all.push(RawBson::Timestamp(bson::Timestamp { time: t.0, increment: t.1 }));
    }
    for ms in [0, -1, 1, i64::MIN, i64::MAX, 1_700_000_000_123] {
        all.push(RawBson::DateTime(bson::DateTime::from_millis(ms)));
    }
    all.extend([RawBson::Null, RawBson::MinKey, RawBson::MaxKey, RawBson::Boolean(false), RawBson::Boolean(true)]);
    all
}

/// A deterministic stream of random values.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        keyed_hash(7, 0xB0C, 0, self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn text(&mut self) -> String {
        let chars = ['a', 'Z', '0', ' ', '$', '.', '\0', 'ä', '€', '𝄞', '\u{7f}'];
        (0..self.below(14)).map(|_| chars[self.below(chars.len() as u64) as usize]).collect()
    }

    fn bytes(&mut self, n: u64) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    fn document(&mut self, depth: u32) -> RawDocumentBuf {
        let mut d = RawDocumentBuf::new();
        for _ in 0..self.below(4) {
            let name = bson::raw::CString::try_from(self.text().replace('\0', "_")).unwrap();
            let v = self.value(depth + 1);
            d.append(&name, v);
        }
        d
    }

    fn decimal(&mut self) -> RawBson {
        let digits = 1 + self.below(34);
        let mut text: String = (0..digits).map(|_| char::from(b'0' + self.below(10) as u8)).collect();
        let (sign, exponent) = (if self.below(2) == 0 { "-" } else { "" }, self.below(60) as i64 - 40);
        if self.below(3) == 0 {
            text.insert(self.below(digits) as usize + 1, '.');
        }
        dec(&format!("{sign}{text}E{exponent}"))
    }

    fn value(&mut self, depth: u32) -> RawBson {
        let kinds = if depth > 3 { 18 } else { 22 };
        match self.below(kinds) {
            0 => RawBson::Int32(self.next() as i32),
            1 => RawBson::Int64(self.next() as i64),
            2 => RawBson::Int32(self.below(20) as i32 - 10),
            3 => RawBson::Double(f64::from_bits(self.next())),
            4 => RawBson::Double((self.next() as i64 >> self.below(63)) as f64 / 8.0),
            5 | 6 => self.decimal(),
            7 | 8 => RawBson::String(self.text()),
            9 => {
                let subtype = [0u8, 1, 2, 3, 4, 5, 6, 7, 0x80, 0xFE][self.below(10) as usize];
                let n = if matches!(subtype, 3 | 4) { 16 } else { self.below(40) };
                binary(subtype.into(), self.bytes(n))
            }
            10 => RawBson::ObjectId(ObjectId::from_bytes(self.bytes(12).try_into().unwrap())),
            11 => RawBson::Boolean(self.below(2) == 0),
            12 => RawBson::DateTime(bson::DateTime::from_millis(self.next() as i64)),
            13 => RawBson::Timestamp(bson::Timestamp { time: self.next() as u32, increment: self.next() as u32 }),
            14 => [RawBson::Null, RawBson::MinKey, RawBson::MaxKey][self.below(3) as usize].clone(),
            15 => RawBson::JavaScriptCode(self.text()),
            16 => RawBson::Symbol(self.text()),
            17 => {
                let code = bson::raw::RawJavaScriptCodeWithScope { code: self.text(), scope: self.document(depth + 3) };
                RawBson::JavaScriptCodeWithScope(code)
            }
            // Arrays are no `_id`s, but may stand inside one.
            18 if depth > 0 => {
                let mut a = RawArrayBuf::new();
                for _ in 0..self.below(4) {
                    a.push(self.value(depth + 1));
                }
                RawBson::Array(a)
            }
            _ => RawBson::Document(self.document(depth)),
        }
    }
}

/// The rows of the table in docs/routing.md.
async fn vectors(set: &ReplSet) -> R {
    let mut values = Vec::new();
    let mut wanted = Vec::new();
    for line in include_str!("../../docs/routing.md").lines().filter_map(|l| l.strip_prefix("| `")) {
        let cells: Vec<&str> = line.split('|').map(|c| c.trim().trim_matches('`')).collect();
        let value: serde_json::Value = serde_json::from_str(cells[0]).map_err(|e| format!("{line}: {e}"))?;
        let value = Bson::try_from(value).map_err(|e| format!("{line}: {e}"))?;
        values.push(RawBson::try_from(value).map_err(|e| e.to_string())?);
        wanted.push(format!("| {} | {} |", cells[1], cells[2]));
    }
    let found: Vec<String> = hashes(set, "vectors", &values)
        .await?
        .into_iter()
        .map(|h| format!("| {h} | {} |", bucket_of_hash(h)))
        .collect();
    if found == wanted { Ok(()) } else { Err(format!("the server says\n{}", found.join("\n"))) }
}

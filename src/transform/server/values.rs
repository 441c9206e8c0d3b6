//! Steps that change a value, as expressions on the variable that holds it.

use bson::{Bson, doc};

use super::super::op::Constant;
use super::super::tree;
use super::expr::{Build, call, cond, eq, has_type, literal, one};
use crate::plan::ValueType;

/// What the plan's conversion makes of a value of type `from`.
pub(super) fn convert(b: &mut Build, value: Bson, from: ValueType, to: ValueType) -> Bson {
    use ValueType::{Bool, Date, Decimal, Double, Int, Long, ObjectId, String};
    let operator = match to {
        String => "$toString",
        Int => "$toInt",
        Long => "$toLong",
        Double => "$toDouble",
        Decimal => "$toDecimal",
        Date => "$toDate",
        ObjectId => "$toObjectId",
        Bool => "$toBool",
    };
    match (from, to) {
        // On a server every text is true.
        (String, Bool) => eq(value, literal("true")),
        (Double, String) => double_text(b, value),
        // Without the text it would get 15 digits, whatever they are.
        (Double, Decimal) => one("$toDecimal", double_text(b, value)),
        (Double | Decimal, Date) => one("$toDate", one("$toLong", value)),
        _ => one(operator, value),
    }
}

/// As `number::double_text`. A server can do it for doubles of at most 15 digits; it raises an error for others.
fn double_text(b: &mut Build, x: Bson) -> Bson {
    // 2^63: below it a whole double is a long.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    b.bind(one("$toString", x.clone()), |b, short| {
        let in_range = [call("$gt", [x.clone(), Bson::Double(-LIMIT)]), call("$lt", [x.clone(), Bson::Double(LIMIT)])];
        let whole = call("$and", in_range.into_iter().chain([eq(one("$trunc", x.clone()), x.clone())]));
        let names = ["-0", "NaN", "Infinity", "-Infinity"].map(Bson::from);
        let named = call("$in", [short.clone(), Bson::Array(names.to_vec())]);
        let digits = b.bind(one("$toDecimal", x.clone()), |b, decimal| {
            let text = b.bind(call("$split", [one("$toString", decimal.clone()), literal("E")]), |_, halves| {
                let trim = |text: Bson, chars: &str| {
                    one("$rtrim", Bson::Document(doc! { "input": text, "chars": literal(chars) }))
                };
                let half = |i| call("$arrayElemAt", [halves.clone(), Bson::Int32(i)]);
                let mantissa = trim(trim(half(0), "0"), ".");
                let exponent = call("$concat", [literal("E"), half(1)]);
                let tail = cond(eq(one("$size", halves.clone()), Bson::Int32(2)), exponent, literal(""));
                call("$concat", [mantissa, tail])
            });
            // Parsing this fails, which is the one way to raise an error; better than wrong bytes.
            let error =
                one("$toInt", call("$concat", [literal("this double needs more than 15 digits: "), short.clone()]));
            cond(eq(one("$toDouble", decimal), x.clone()), text, one("$toString", error))
        });
        cond(named, short, cond(whole, one("$toString", one("$toLong", x)), digits))
    })
}

/// The other value of the pair; the value itself when there is none.
pub(super) fn map(value: Bson, values: &[(Constant, Constant)], forward: bool) -> Bson {
    let branch = |(a, b): &(Constant, Constant)| {
        let (from, to) = if forward { (a, b) } else { (b, a) };
        // Equal numbers of different types are equal on a server, and different bytes.
        let same =
            [eq(value.clone(), literal(from.value.clone())), has_type(value.clone(), tree::type_name(from.kind))];
        Bson::Document(doc! { "case": call("$and", same), "then": literal(to.value.clone()) })
    };
    let branches: Vec<Bson> = values.iter().map(branch).collect();
    one("$switch", Bson::Document(doc! { "branches": branches, "default": value.clone() }))
}

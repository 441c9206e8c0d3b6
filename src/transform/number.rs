//! Numbers and dates as text: how they are written, and which texts are read.
//!
//! A double is written with the fewest digits that read back as the same double, in the notation that the server uses for decimals.

use bson::Decimal128;

pub(super) fn text_bytes(text: &str) -> Vec<u8> {
    string_bytes(text.as_bytes())
}

/// A string value of text that is UTF-8.
fn string_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 5);
    // Far below the 2 GiB that a length can say: it came out of a document.
    out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
    out.extend_from_slice(text);
    out.push(0);
    out
}

/// The text of a string value's bytes.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.get(4..bytes.len().checked_sub(1)?)?).ok()
}

/// `[+-]123`.
pub(super) fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `[+-]12.30e-5`, or one of the names of what is no finite number.
pub(super) fn is_numeral(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.strip_prefix(['+', '-']).unwrap_or(e)),
        None => (body, "0"),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    digits(before) && digits(after) && digits(exponent) && exponent.len() <= 5
}

/// The nearest double; refuses what overflows, and what would become 0 or lose digits below the smallest normal one.
pub(super) fn double(text: &str) -> Option<f64> {
    if !is_numeral(text) {
        return None;
    }
    let x: f64 = text.parse().ok()?;
    let special = text.ends_with(['N', 'y']);
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let zero = !mantissa.bytes().any(|b| matches!(b, b'1'..=b'9'));
    (special || (x.is_finite() && (x != 0.0 || zero))).then_some(x)
}

/// Whole numbers plainly, others as `1.5`, `1.5E-7`, `1E+300`.
pub(super) fn double_text(x: f64) -> String {
    // 2^63: below it a whole double is an i64.
    if x.fract() == 0.0 && x.abs() < 9_223_372_036_854_775_808.0 && !(x == 0.0 && x.is_sign_negative()) {
        return (x as i64).to_string();
    }
    if x.is_nan() || x == 0.0 {
        return if x == 0.0 { "-0" } else { "NaN" }.into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let short = format!("{x:e}");
    let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let decimals = mantissa.split_once('.').map_or(0, |(_, after)| after.len() as i32);
    // Plain as long as no zeros have to be put behind the digits, and at most five in front of them.
    if exponent - decimals <= 0 && exponent >= -6 { x.to_string() } else { format!("{mantissa}E{exponent:+}") }
}

/// A decimal of at most 34 digits.
pub(super) fn decimal(text: &str) -> Option<[u8; 16]> {
    if let Some(d) = plain_decimal(text) {
        return Some(d);
    }
    is_numeral(text).then(|| text.parse::<Decimal128>().ok().map(|d| d.bytes()))?
}

/// `2027-01-31T23:59:59.123Z`, as the server writes dates; `None` outside the years 0 to 9999.
pub(super) fn date_text(ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    let text = at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    (text.len() == 24 && !text.starts_with('-')).then_some(text)
}

/// A time with its zone: `2027-01-31T23:59:59Z`, with up to three digits after the second, or `+01:00` instead of the `Z`.
pub(super) fn date(text: &str) -> Option<i64> {
    let shape = |t: &str, pattern: &str| {
        t.len() == pattern.len()
            && t.bytes().zip(pattern.bytes()).all(|(b, p)| if p == b'0' { b.is_ascii_digit() } else { b == p })
    };
    let (time, zone) = text.split_at_checked(19)?;
    let fraction = zone.strip_prefix('.').map_or(0, |f| 1 + f.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = zone.split_at_checked(fraction)?;
    let usual = shape(time, "0000-00-00T00:00:00") && fraction.len() != 1 && fraction.len() <= 4;
    // A leap second has no place in milliseconds since 1970.
    if !usual || time.ends_with("60") || !(zone == "Z" || shape(zone, "+00:00") || shape(zone, "-00:00")) {
        return None;
    }
    let ms = text.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    date_text(ms).map(|_| ms)
}

/// A decimal without its fraction; `None` when it is not finite or does not fit.
pub(super) fn truncated(bytes: [u8; 16]) -> Option<i64> {
    let (negative, exponent, coefficient) = unpack(bytes)?;
    let size = if exponent < 0 {
        10u128.checked_pow(exponent.unsigned_abs()).map_or(0, |unit| coefficient / unit)
    } else if coefficient == 0 {
        0
    } else {
        10u128.checked_pow(exponent.unsigned_abs()).and_then(|unit| coefficient.checked_mul(unit))?
    };
    let size = i128::try_from(size).ok()?;
    i64::try_from(if negative { -size } else { size }).ok()
}

/// True for everything but zero; NaN and infinity are true, as on the server.
pub(super) fn is_true(bytes: [u8; 16]) -> bool {
    unpack(bytes).is_none_or(|(_, _, coefficient)| coefficient != 0)
}

/// True for a NaN that is not the usual one.
pub(super) fn is_odd_nan(bytes: [u8; 16]) -> bool {
    let bits = u128::from_le_bytes(bytes);
    (bits >> 122) & 0x1F == 0x1F && bits != 0x7C << 120
}

/// Sign, exponent and coefficient of a finite decimal.
fn unpack(bytes: [u8; 16]) -> Option<(bool, i32, u128)> {
    let bits = u128::from_le_bytes(bytes);
    match (bits >> 122) & 0x1F {
        0x1E | 0x1F => return None,
        // The large form holds more than 34 digits, which counts as 0.
        0x18.. => return Some((bits >> 127 == 1, 0, 0)),
        _ => {}
    }
    let exponent = ((bits >> COEFFICIENT_BITS) & 0x3FFF) as i32 - BIAS;
    let coefficient = bits & ((1 << COEFFICIENT_BITS) - 1);
    Some((bits >> 127 == 1, exponent, if coefficient < 10u128.pow(34) { coefficient } else { 0 }))
}

const BIAS: i32 = 6176;
const COEFFICIENT_BITS: u32 = 113;

pub(super) fn pack(negative: bool, exponent: i32, coefficient: u128) -> [u8; 16] {
    // Callers stay within 34 digits and the exponent's range, so the fields do not overlap.
    let biased = (exponent + BIAS) as u128;
    ((u128::from(negative) << 127) | (biased << COEFFICIENT_BITS) | coefficient).to_le_bytes()
}

/// `-12.340` and its like: no exponent, no leading zeros, at most 34 digits, the form that [`decimal_text`] writes. Everything
/// else goes the slow way through bson.
fn plain_decimal(text: &str) -> Option<[u8; 16]> {
    let body = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let digits = whole.len() + fraction.len();
    if whole.is_empty() || digits > 34 || (body.len() > whole.len() && fraction.is_empty()) {
        return None;
    }
    let mut coefficient = 0u128;
    for b in whole.bytes().chain(fraction.bytes()) {
        if !b.is_ascii_digit() {
            return None;
        }
        coefficient = coefficient * 10 + u128::from(b - b'0');
    }
    Some(pack(text.len() > body.len(), -(fraction.len() as i32), coefficient))
}

/// A decimal's bytes from a string's, when it is written as [`decimal_text`] writes it, so that it comes back as it is. `None` says
/// nothing: other numerals come back too, by the long way.
pub(super) fn decimal_at_once(string: &[u8]) -> Option<[u8; 16]> {
    let text = string.get(4..string.len().checked_sub(1)?)?;
    let body = text.strip_prefix(b"-").unwrap_or(text);
    let point = body.iter().position(|b| *b == b'.');
    let (whole, fraction) = point.map_or((body, &body[..0]), |at| (&body[..at], &body[at + 1..]));
    let usual = matches!(whole, [b'0'] | [b'1'..=b'9', ..]) && whole.len() <= 12;
    if !usual || fraction.len() > 6 || (point.is_some() && fraction.is_empty()) {
        return None;
    }
    let mut coefficient = 0u64;
    for b in whole.iter().chain(fraction) {
        // At most 18 digits, which fit.
        coefficient = coefficient * 10 + u64::from(b.checked_sub(b'0').filter(|d| *d <= 9)?);
    }
    Some(pack(text.len() > body.len(), -(fraction.len() as i32), coefficient.into()))
}

/// A string's bytes from a decimal's, in its plain form, which is read back as the same decimal. `None` says nothing.
pub(super) fn text_at_once(decimal: &[u8]) -> Option<Vec<u8>> {
    let (negative, scale, coefficient) = plain(decimal.try_into().ok()?)?;
    let mut digits = [0; PLAIN];
    let from = plain_digits(negative, coefficient, scale, &mut digits);
    Some(string_bytes(&digits[from..]))
}

/// `-12.340` and its like have at most 34 digits, or as many as the scale of at most 6 wants; the point and the sign.
const PLAIN: usize = 48;

/// Sign, digits behind the point and coefficient, for the exponents and coefficients of everyday numbers (which also rules out NaN,
/// infinity and the large form).
fn plain(bytes: [u8; 16]) -> Option<(bool, usize, u128)> {
    let bits = u128::from_le_bytes(bytes);
    let exponent = ((bits >> COEFFICIENT_BITS) & 0x3FFF) as i32 - BIAS;
    let coefficient = bits & ((1 << COEFFICIENT_BITS) - 1);
    let usual = (-6..=0).contains(&exponent) && coefficient < 10u128.pow(34);
    usual.then(|| (bits >> 127 == 1, exponent.unsigned_abs() as usize, coefficient))
}

/// Writes `-12.340` at the end of `text`: `scale` of the digits stand behind the point. Answers where it begins. Comparisons come
/// through here for every document, so no formatter.
fn plain_digits(negative: bool, coefficient: u128, scale: usize, text: &mut [u8; PLAIN]) -> usize {
    let mut at = text.len();
    let mut put = |c: u8| {
        at -= 1;
        text[at] = c;
    };
    let (mut rest, mut n) = (coefficient, 0);
    while rest > 0 || n <= scale {
        if n == scale && n > 0 {
            put(b'.');
        }
        let (above, digit) = match u64::try_from(rest) {
            Ok(small) => (u128::from(small / 10), small % 10),
            Err(_) => (rest / 10, (rest % 10) as u64),
        };
        put(b'0' + digit as u8);
        (rest, n) = (above, n + 1);
    }
    if negative {
        put(b'-');
    }
    at
}

/// The text of a decimal as the server prints it.
pub(super) fn decimal_text(bytes: [u8; 16]) -> String {
    if let Some((negative, scale, coefficient)) = plain(bytes) {
        let mut digits = [0; PLAIN];
        let from = plain_digits(negative, coefficient, scale, &mut digits);
        return digits[from..].iter().map(|b| char::from(*b)).collect();
    }
    Decimal128::from_bytes(bytes).to_string()
}

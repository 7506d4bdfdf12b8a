//! The writer of canonical CBOR (RFC 8949 §4.2.1).

use super::Value;

pub(super) const UNSIGNED: u8 = 0;
pub(super) const NEGATIVE: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
pub(super) const TAG: u8 = 6;
pub(super) const SIMPLE: u8 = 7;

pub(super) const FALSE: u64 = 20;
pub(super) const TRUE: u64 = 21;
pub(super) const NULL: u64 = 22;

pub(super) const TAG_POSITIVE_BIGNUM: u64 = 2;
pub(super) const TAG_NEGATIVE_BIGNUM: u64 = 3;
pub(super) const TAG_DECIMAL: u64 = 4;

/// Appends the canonical bytes of `value`.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => head(SIMPLE, NULL, out),
        Value::Bool(false) => head(SIMPLE, FALSE, out),
        Value::Bool(true) => head(SIMPLE, TRUE, out),
        Value::Int(n) => integer(*n, out),
        Value::Decimal(d) => {
            head(TAG, TAG_DECIMAL, out);
            head(ARRAY, 2, out);
            integer(i128::from(d.exponent()), out);
            integer(d.mantissa(), out);
        }
        Value::Text(text) => {
            head(TEXT, text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bytes(bytes) => {
            head(BYTES, bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        Value::Array(items) => {
            head(ARRAY, items.len() as u64, out);
            for item in items {
                write(item, out);
            }
        }
        Value::Map(map) => {
            // Bytewise order of the *encoded* keys: the head holds the length, so shorter keys come first.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
            head(MAP, entries.len() as u64, out);
            for (key, item) in entries {
                head(TEXT, key.len() as u64, out);
                out.extend_from_slice(key.as_bytes());
                write(item, out);
            }
        }
    }
}

/// Appends the shortest head of this major type and argument.
fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 0x18, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 0x19);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 0x1a);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 0x1b);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

/// Appends an integer: a plain one within 64 bits, else a bignum without leading zero bytes.
fn integer(n: i128, out: &mut Vec<u8>) {
    // CBOR stores a negative n as -1 - n, which is `!n` in two's complement.
    let (major, tag, magnitude) =
        if n < 0 { (NEGATIVE, TAG_NEGATIVE_BIGNUM, !n as u128) } else { (UNSIGNED, TAG_POSITIVE_BIGNUM, n as u128) };
    if let Ok(small) = u64::try_from(magnitude) {
        head(major, small, out);
    } else {
        let bytes = magnitude.to_be_bytes();
        let first = bytes.iter().position(|b| *b != 0).expect("a magnitude above 64 bits is not zero");
        head(TAG, tag, out);
        head(BYTES, (bytes.len() - first) as u64, out);
        out.extend_from_slice(&bytes[first..]);
    }
}

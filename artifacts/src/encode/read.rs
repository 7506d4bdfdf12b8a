//! The strict reader: accepts exactly what the writer writes.

use std::collections::BTreeMap;

use super::write::{
    ARRAY, BYTES, FALSE, MAP, NEGATIVE, NULL, SIMPLE, TAG, TAG_DECIMAL, TAG_NEGATIVE_BIGNUM, TAG_POSITIVE_BIGNUM, TEXT, TRUE,
    UNSIGNED,
};
use super::{Decimal, Value};

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;
/// The longest encoding that is read: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;

/// Why bytes are not a canonical encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the encoding ends at byte {at}, inside a value")]
    Truncated {
        /// Where.
        at: usize,
    },
    /// Bytes follow the value.
    #[error("{count} bytes follow the value that ends at byte {at}")]
    Trailing {
        /// Where the value ends.
        at: usize,
        /// How many bytes follow.
        count: usize,
    },
    /// The value could have been written shorter, or its map is not sorted.
    #[error("the encoding at byte {at} is not canonical: {what}")]
    NotCanonical {
        /// Where.
        at: usize,
        /// What is not canonical.
        what: &'static str,
    },
    /// A CBOR feature that canonical encodings never use: floats, indefinite lengths, other tags.
    #[error("byte {at} begins a kind of value that is not allowed here (head 0x{head:02x})")]
    Unsupported {
        /// Where.
        at: usize,
        /// The head byte.
        head: u8,
    },
    /// Text that is not UTF-8.
    #[error("the text at byte {at} is not UTF-8")]
    Utf8 {
        /// Where.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("the encoding nests deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// Longer than [`MAX_BYTES`].
    #[error("the encoding has {length} bytes; at most {MAX_BYTES} are read")]
    TooLong {
        /// How many bytes.
        length: usize,
    },
}

/// Reads exactly one value.
pub(super) fn read(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLong { length: bytes.len() });
    }
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(0)?;
    if reader.at == bytes.len() {
        Ok(value)
    } else {
        Err(DecodeError::Trailing { at: reader.at, count: bytes.len() - reader.at })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count).ok().filter(|n| *n <= rest.len());
        let count = count.ok_or(DecodeError::Truncated { at: self.bytes.len() })?;
        self.at += count;
        Ok(&rest[..count])
    }

    /// The major type and argument of the next head; refuses heads longer than needed.
    fn head(&mut self) -> Result<(u8, u64), DecodeError> {
        let at = self.at;
        let first = self.take(1)?[0];
        let (major, low) = (first >> 5, first & 0x1f);
        let width = match low {
            0..=23 => return Ok((major, u64::from(low))),
            24..=27 => 1_u64 << (low - 24),
            _ => return Err(DecodeError::Unsupported { at, head: first }),
        };
        if major == SIMPLE {
            return Err(DecodeError::Unsupported { at, head: first });
        }
        let argument = self.take(width)?.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
        let least = match width {
            1 => 24,
            2 => 0x100,
            4 => 0x1_0000,
            _ => 0x1_0000_0000,
        };
        if argument < least {
            return Err(DecodeError::NotCanonical { at, what: "a head longer than needed" });
        }
        Ok((major, argument))
    }

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let at = self.at;
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep { at });
        }
        let (major, argument) = self.head()?;
        match major {
            UNSIGNED => Ok(Value::Int(i128::from(argument))),
            NEGATIVE => Ok(Value::Int(!i128::from(argument))),
            BYTES => Ok(Value::Bytes(self.take(argument)?.to_vec())),
            TEXT => Ok(Value::Text(self.text(argument)?)),
            ARRAY => self.array(argument, depth),
            MAP => self.map(argument, depth),
            TAG => self.tagged(at, argument),
            _ => match argument {
                FALSE => Ok(Value::Bool(false)),
                TRUE => Ok(Value::Bool(true)),
                NULL => Ok(Value::Null),
                _ => Err(DecodeError::Unsupported { at, head: self.bytes[at] }),
            },
        }
    }

    fn text(&mut self, length: u64) -> Result<String, DecodeError> {
        let at = self.at;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::Utf8 { at })
    }

    fn array(&mut self, count: u64, depth: usize) -> Result<Value, DecodeError> {
        // Every item takes a byte at least, so the input bounds the allocation however large the claimed count.
        let mut items = Vec::with_capacity(count.min((self.bytes.len() - self.at) as u64).min(1024) as usize);
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, count: u64, depth: usize) -> Result<Value, DecodeError> {
        let mut map = BTreeMap::new();
        let mut previous: Option<&'a [u8]> = None;
        for _ in 0..count {
            let at = self.at;
            let (major, length) = self.head()?;
            if major != TEXT {
                return Err(DecodeError::Unsupported { at, head: self.bytes[at] });
            }
            let key = self.text(length)?;
            let encoded = &self.bytes[at..self.at];
            if previous.is_some_and(|p| p >= encoded) {
                return Err(DecodeError::NotCanonical { at, what: "map keys out of order or repeated" });
            }
            previous = Some(encoded);
            map.insert(key, self.value(depth + 1)?);
        }
        Ok(Value::Map(map))
    }

    fn tagged(&mut self, at: usize, tag: u64) -> Result<Value, DecodeError> {
        match tag {
            TAG_POSITIVE_BIGNUM | TAG_NEGATIVE_BIGNUM => self.bignum(at, tag).map(Value::Int),
            TAG_DECIMAL => self.decimal(at),
            _ => Err(DecodeError::Unsupported { at, head: self.bytes[at] }),
        }
    }

    fn bignum(&mut self, at: usize, tag: u64) -> Result<i128, DecodeError> {
        let (major, length) = self.head()?;
        if major != BYTES || length > 16 {
            return Err(DecodeError::Unsupported { at, head: self.bytes[at] });
        }
        let bytes = self.take(length)?;
        if bytes.len() <= 8 || bytes[0] == 0 {
            return Err(DecodeError::NotCanonical { at, what: "a bignum longer than needed" });
        }
        let magnitude = bytes.iter().fold(0_u128, |n, b| (n << 8) | u128::from(*b));
        let positive = i128::try_from(magnitude).map_err(|_| DecodeError::Unsupported { at, head: self.bytes[at] })?;
        Ok(if tag == TAG_NEGATIVE_BIGNUM { !positive } else { positive })
    }

    fn integer(&mut self) -> Result<i128, DecodeError> {
        let at = self.at;
        match self.head()? {
            (UNSIGNED, n) => Ok(i128::from(n)),
            (NEGATIVE, n) => Ok(!i128::from(n)),
            (TAG, tag @ (TAG_POSITIVE_BIGNUM | TAG_NEGATIVE_BIGNUM)) => self.bignum(at, tag),
            _ => Err(DecodeError::Unsupported { at, head: self.bytes[at] }),
        }
    }

    fn decimal(&mut self, at: usize) -> Result<Value, DecodeError> {
        if self.head()? != (ARRAY, 2) {
            return Err(DecodeError::Unsupported { at, head: self.bytes[at] });
        }
        let exponent = self.integer()?;
        let mantissa = self.integer()?;
        let not_canonical = DecodeError::NotCanonical { at, what: "a decimal that is not normalised" };
        let exponent = i32::try_from(exponent).map_err(|_| not_canonical.clone())?;
        match Decimal::new(mantissa, exponent) {
            Ok(d) if d.mantissa() == mantissa && d.exponent() == exponent => Ok(Value::Decimal(d)),
            _ => Err(not_canonical),
        }
    }
}

//! Exact decimals: `mantissa · 10^exponent`.

use std::fmt;
use std::str::FromStr;

/// An exact decimal number `mantissa · 10^exponent`.
///
/// Invariant: the mantissa does not end in a zero digit; zero is `0 · 10^0`. Every number thus has one representation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal {
    mantissa: i128,
    exponent: i32,
}

/// Why something is not an exact decimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecimalError {
    /// NaN and the infinities have no decimal.
    #[error("{0} is not a finite number")]
    NotFinite(String),
    /// The text is not `[-]digits[.digits][e[±]digits]`.
    #[error("{0:?} is not a decimal number")]
    Syntax(String),
    /// The mantissa exceeds 127 bits or the exponent 31.
    #[error("{0:?} has too many digits")]
    Range(String),
}

impl Decimal {
    /// `mantissa · 10^exponent`, normalised.
    pub fn new(mantissa: i128, exponent: i32) -> Result<Self, DecimalError> {
        if mantissa == 0 {
            return Ok(Self { mantissa: 0, exponent: 0 });
        }
        let (mut m, mut e) = (mantissa, exponent);
        while m % 10 == 0 {
            m /= 10;
            e = e.checked_add(1).ok_or_else(|| DecimalError::Range(format!("{mantissa}e{exponent}")))?;
        }
        Ok(Self { mantissa: m, exponent: e })
    }

    /// The decimal with the fewest digits that reads back as `x`; `-0.0` is zero.
    pub fn from_f64(x: f64) -> Result<Self, DecimalError> {
        if !x.is_finite() {
            return Err(DecimalError::NotFinite(x.to_string()));
        }
        // `{:e}` prints the shortest digits that round-trip (documented by core::fmt::LowerExp for f64).
        format!("{x:e}").parse()
    }

    /// The nearest f64; infinite when the exponent is beyond its range.
    pub fn to_f64(self) -> f64 {
        format!("{}e{}", self.mantissa, self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// The mantissa.
    pub const fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// The exponent of ten.
    pub const fn exponent(self) -> i32 {
        self.exponent
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || DecimalError::Syntax(text.to_owned());
        let range = || DecimalError::Range(text.to_owned());
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, parse_exponent(exponent).ok_or_else(syntax)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
            return Err(syntax());
        }
        // Zeros at the end carry no value; dropping them first lets long but simple texts through.
        let fraction = fraction.trim_end_matches('0');
        let mut mantissa: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa.checked_mul(10).and_then(|m| m.checked_add(i128::from(digit - b'0'))).ok_or_else(range)?;
        }
        let shift = i64::try_from(fraction.len()).map_err(|_| range())?;
        let exponent = i32::try_from(exponent - shift).map_err(|_| range())?;
        Self::new(if negative { -mantissa } else { mantissa }, exponent)
    }
}

/// Reads `[+-]digits`, at most ten of them.
fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let magnitude: i64 = digits.parse().ok()?;
    Some(if text.starts_with('-') { -magnitude } else { magnitude })
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (-12..0).contains(&self.exponent) {
            let digits = self.mantissa.unsigned_abs().to_string();
            let places = self.exponent.unsigned_abs() as usize;
            let padded = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            let sign = if self.mantissa < 0 { "-" } else { "" };
            write!(f, "{sign}{whole}.{fraction}")
        } else if self.exponent == 0 {
            write!(f, "{}.0", self.mantissa)
        } else {
            write!(f, "{}e{}", self.mantissa, self.exponent)
        }
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

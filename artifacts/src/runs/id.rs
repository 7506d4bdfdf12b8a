//! Names of runs: sorted as text they are sorted by time.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// The name of a run, such as `20261122-101530-1a2b3c4d`: date and time in UTC, then in 8 hexadecimal digits the milliseconds (10 bits)
/// and a random number (20 bits).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

/// A text that is not the name of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a run, such as \"20261122-101530-1a2b3c4d\"")]
pub struct RunIdError {
    /// The text.
    pub text: String,
}

impl RunId {
    /// The name of a run that begins `unix_ms` milliseconds after 1970; the low 20 bits of `random` tell apart those of one millisecond.
    pub fn new(unix_ms: u64, random: u32) -> Self {
        let seconds = unix_ms / 1000;
        let (year, month, day) = civil_date(seconds / 86_400);
        let last = ((unix_ms % 1000) << 20) | u64::from(random & 0xf_ffff);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Self(format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{last:08x}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Year, month and day of a day since 1970 in the Gregorian calendar, counted by 400-year cycles that begin on 1 March.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (cycle, of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle = (of_cycle - of_cycle / 1460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<_> = text.split('-').collect();
        let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
        let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match parts[..] {
            [date, time, random] if digits(date, 8) && digits(time, 6) && hex(random, 8) => Ok(Self(text.to_owned())),
            _ => Err(RunIdError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Durations, sizes and other small notations of a workflow file.

use std::time::Duration;

/// `90s`, `10m`, `1h30m`, `500ms`, `2d`: whole numbers, each with its unit, larger units first or not.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, next) = tail.split_at(letters);
        let scale: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = next;
    }
    Some(Duration::from_millis(millis))
}

/// `512`, `512B`, `16GiB`, `8GB`: bytes; binary units are powers of 1024, decimal ones of 1000.
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// `30s..10m` or one duration for both ends.
pub(crate) fn duration_range(text: &str) -> Option<(Duration, Duration)> {
    let (low, high) = match text.split_once("..") {
        Some((low, high)) => (duration(low)?, duration(high)?),
        None => (duration(text)?, duration(text)?),
    };
    (low <= high).then_some((low, high))
}

/// A name of a stage, axis, parameter or workflow: a letter, then letters, digits, `_` and `-`.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_add_up() {
        assert_eq!(duration("72h"), Some(Duration::from_secs(72 * 3600)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "10", "m", "10 m", "-1s", "1.5h", "10min", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(duration_range("30s..10m"), Some((Duration::from_secs(30), Duration::from_secs(600))));
        assert_eq!(duration_range("10m..30s"), None);
    }

    #[test]
    fn sizes_tell_binary_from_decimal() {
        assert_eq!(size("16GiB"), Some(16 << 30));
        assert_eq!(size("8GB"), Some(8_000_000_000));
        assert_eq!(size("12"), Some(12));
        for bad in ["", "GiB", "1.5GiB", "1G", "99999999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}

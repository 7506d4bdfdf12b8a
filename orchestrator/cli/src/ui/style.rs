//! Numbers as people read them.

/// A size in binary units: `4.5 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration: `820 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn seconds(s: f64) -> String {
    if s < 1.0 {
        format!("{:.0} ms", s * 1e3)
    } else if s < 60.0 {
        format!("{s:.1} s")
    } else if s < 3600.0 {
        format!("{} min {:02} s", (s / 60.0) as u64, (s % 60.0) as u64)
    } else {
        format!("{} h {:02} min", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_at_their_bounds() {
        assert_eq!((bytes(1023), bytes(1024), bytes(4_718_592)), ("1023 B".into(), "1.0 KiB".into(), "4.5 MiB".into()));
        assert_eq!((seconds(0.82), seconds(59.94), seconds(185.0)), ("820 ms".into(), "59.9 s".into(), "3 min 05 s".into()));
        assert_eq!(seconds(7800.0), "2 h 10 min");
    }
}

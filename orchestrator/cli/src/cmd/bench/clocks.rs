//! The process's clocks.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use sprint_train::Meter;

/// The process's clocks, from the moment it is made.
pub(super) struct Clocks(Instant);

impl Clocks {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Meter for Clocks {
    fn wall_s(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    fn cpu_s(&self) -> f64 {
        let t = clock_gettime(ClockId::ProcessCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }

    /// `VmHWM` of `/proc/self/status`; 0 where the system does not tell.
    fn peak_rss(&self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance_and_memory_is_counted_in_bytes() {
        let clocks = Clocks::start();
        let before = (clocks.wall_s(), clocks.cpu_s());
        let sum = (0..10_000_000_u64).fold(0, |a, b| a ^ b.wrapping_mul(31));
        assert!(std::hint::black_box(sum) != 1);
        assert!(clocks.wall_s() > before.0 && clocks.cpu_s() > before.1);
        assert!(clocks.peak_rss() > 1 << 20);
    }
}

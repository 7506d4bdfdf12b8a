//! What an inference cost, as measured, and the comparison with what the program declares.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sprint_mpc_core::PartyId;

use crate::net::{MeasuredLink, Traffic};
use crate::workload::ProgramShape;

/// One party's account of one inference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceMeter {
    /// Index of its one-time material.
    pub index: u64,
    /// Which program.
    pub program: u32,
    /// Rounds of openings.
    pub rounds: u32,
    /// Frames sent to the other party, openings and session frames alike.
    pub flushes: u64,
    /// Payload bytes of openings sent: what the program declares.
    pub opened_bytes_sent: u64,
    /// Bytes handed to the socket towards the other party: openings, session frames, headers, TLS.
    pub wire_bytes_sent: u64,
    /// Bytes of material taken.
    pub material_bytes: u64,
    /// From the request to the output share, seconds.
    pub online_s: f64,
    /// Of which waiting for the dealer.
    pub material_wait_s: f64,
    /// Of which waiting for the other party.
    pub peer_wait_s: f64,
    /// Processor seconds, user and system, of all threads of the process from the request to the output share: gates, network, hashing,
    /// the ledger, reading spooled material. Only receiving material of *other* inferences is left out.
    pub cpu_online_s: f64,
}

/// An account by part of the model or by kind of gate.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Rounds.
    pub rounds: u64,
    /// Opening bytes this party sent.
    pub bytes_sent: u64,
    /// Local work before its openings, seconds, without waiting for the dealer.
    pub compute_s: f64,
    /// Sending and waiting for the other party, seconds.
    pub exchange_s: f64,
}

/// A role's account of its whole life.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleMeter {
    /// Bytes that a party hands to the socket towards the other before the first request: TLS, handshake, and the opening of private
    /// weights, once for all inferences.
    #[serde(default)]
    pub session_bytes_sent: u64,
    /// Each inference, in order; empty for the dealer.
    pub inferences: Vec<InferenceMeter>,
    /// By part of the model, over all inferences.
    pub by_part: Vec<Share>,
    /// By kind of gate, over all inferences.
    pub by_gate: Vec<Share>,
    /// The link to the other party, where it was measured.
    pub link: Option<MeasuredLink>,
    /// By name of the role at the other end.
    pub links: BTreeMap<String, Traffic>,
    /// Processor seconds of the process.
    pub cpu_s: f64,
    /// Of which before the first request could be taken.
    pub setup_cpu_s: f64,
    /// Largest resident set of the process, bytes; `None` where the system does not tell.
    pub peak_rss: Option<u64>,
    /// Seconds the dealer spent on each inference, from the order to the last byte sent; empty for parties.
    pub offline_s: Vec<f64>,
}

/// The programs' declarations do not match what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the program declares {declared} {what}, {measured} were measured")]
pub struct CostMismatch {
    /// Which cost.
    pub what: &'static str,
    /// By the program.
    pub declared: u64,
    /// On the wire.
    pub measured: u64,
}

/// Runs along with one inference of one party.
pub(crate) struct Stopwatch {
    started: Instant,
    cpu: f64,
    pub(crate) rounds: u32,
    pub(crate) opened: u64,
    pub(crate) peer_wait: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: process_cpu_s(), rounds: 0, opened: 0, peer_wait: Duration::ZERO }
    }

    pub(crate) fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn cpu_s(&self) -> f64 {
        process_cpu_s() - self.cpu
    }

    /// Fails if the program did other than it declared.
    pub(crate) fn check(&self, shape: &ProgramShape, me: PartyId, material: u64) -> Result<(), CostMismatch> {
        let compare = |what, declared: u64, measured: u64| {
            if declared == measured { Ok(()) } else { Err(CostMismatch { what, declared, measured }) }
        };
        compare("rounds", shape.rounds.len() as u64, u64::from(self.rounds))?;
        compare("opened bytes", shape.sent_bytes(me), self.opened)?;
        compare("bytes of dealer material", shape.dealer_bytes[me.index()], material)
    }
}

/// Sums rounds by a name.
#[derive(Debug, Default)]
pub(crate) struct Shares(BTreeMap<String, Share>);

impl Shares {
    pub(crate) fn add(&mut self, name: &str, bytes: u64, compute: Duration, exchange: Duration) {
        let share = self.0.entry(name.to_owned()).or_insert_with(|| Share { name: name.to_owned(), ..Share::default() });
        share.rounds += 1;
        share.bytes_sent += bytes;
        share.compute_s += compute.as_secs_f64();
        share.exchange_s += exchange.as_secs_f64();
    }

    pub(crate) fn into_rows(self) -> Vec<Share> {
        self.0.into_values().collect()
    }
}

/// Processor time of all threads of this process, seconds.
pub(crate) fn process_cpu_s() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// Processor time of the calling thread, seconds.
pub(crate) fn thread_cpu_s() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let t = clock_gettime(clock);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Largest resident set so far, bytes.
pub(crate) fn peak_rss() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::RoundShape;

    fn shape() -> ProgramShape {
        let round = RoundShape { bytes: [8, 16], part: "p".into(), gate: "g".into() };
        ProgramShape {
            input_words: 1,
            public_bytes: 0,
            output_words: 1,
            rounds: vec![round.clone(), round],
            dealer_bytes: [16, 64],
        }
    }

    #[test]
    fn a_cost_other_than_declared_is_an_error_that_names_it() {
        let mut watch = Stopwatch::start();
        (watch.rounds, watch.opened) = (2, 32);
        assert_eq!(watch.check(&shape(), PartyId::P1, 64), Ok(()));
        assert_eq!(watch.check(&shape(), PartyId::P1, 63).unwrap_err().what, "bytes of dealer material");
        assert_eq!(
            watch.check(&shape(), PartyId::P0, 16).unwrap_err(),
            CostMismatch { what: "opened bytes", declared: 16, measured: 32 }
        );
        watch.rounds = 3;
        assert_eq!(watch.check(&shape(), PartyId::P1, 64).unwrap_err().what, "rounds");
    }

    #[test]
    fn clocks_advance_with_work_and_the_resident_set_is_known() {
        let before = (process_cpu_s(), thread_cpu_s());
        let mut x = 1_u64;
        while thread_cpu_s() - before.1 < 0.01 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(process_cpu_s() - before.0 >= 0.009);
        #[cfg(target_os = "linux")]
        assert!(peak_rss().unwrap() > 1 << 20);
    }
}

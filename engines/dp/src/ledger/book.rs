//! Opening, charging and accounting a ledger.

use super::record::{Body, ChargeBody, Link, RunBody, RunId, decode, encode};
use super::sink::LedgerSink;
use crate::accountant::{AccountantError, Segment};
use crate::budget::{ClipNorm, Delta, Epsilon, NoiseMultiplier, SamplingRate, Steps};
use crate::calibrate::Accountant;
use crate::mechanism::{self, Claim, GridBits, GridConfig, Strategy};
use crate::randomness::{KeyId, RandomSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

const VERSION: u32 = 1;

/// Why the ledger refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The sink failed; nothing more is charged until the ledger is opened again.
    #[error("the ledger could not be written or read: {0}")]
    Io(#[from] io::Error),
    /// A previous append failed, so what is on disk is unknown.
    #[error("an earlier ledger write failed: open the ledger again before charging")]
    Poisoned,
    /// A complete line is not what was written.
    #[error("ledger line {line} is damaged ({reason}): restore the file from a backup; its spent budget cannot be known")]
    Damaged {
        /// One-based line number.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The ledger belongs to other data.
    #[error("the ledger is for data set {found:?}, this run reads {wanted:?}: give each data set its own ledger")]
    Dataset {
        /// The ledger's data set.
        found: String,
        /// The run's data set.
        wanted: String,
    },
    /// The checkpoint knows entries that the ledger lacks.
    #[error(
        "the ledger was rolled back: the checkpoint was written after entry {expected}, the ledger holds {found} that lead elsewhere"
    )]
    RolledBack {
        /// Entries the checkpoint saw.
        expected: u64,
        /// Entries in the ledger.
        found: u64,
    },
    /// No run was begun.
    #[error("begin a run before charging its steps")]
    NoRun,
    /// The next step would exceed the limit; it was not charged.
    #[error(
        "max-epsilon = {limit} would be exceeded: epsilon would be {epsilon} at delta = {delta}; stop here or raise the limit"
    )]
    BudgetExceeded {
        /// ε including the refused step.
        epsilon: f64,
        /// The limit.
        limit: f64,
        /// δ of both.
        delta: f64,
    },
    /// The accountant could not evaluate the spent budget.
    #[error(transparent)]
    Accountant(#[from] AccountantError),
    /// A record could not be encoded.
    #[error("a ledger record could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// The ledger's length and chain value, stored in every checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerHead {
    /// Number of records.
    pub entries: u64,
    /// The chain value after them, in hex.
    pub digest: String,
}

/// The most a ledger's data may ever pay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// `max-epsilon`.
    pub epsilon: Epsilon,
    /// At this δ.
    pub delta: Delta,
}

/// What a process's run will charge for each step.
#[derive(Clone, Debug, PartialEq)]
pub struct RunTerms {
    /// The run's name, the same across restarts.
    pub run: RunId,
    /// Sampling rate; with b bands, of the round in b that an example may enter.
    pub q: SamplingRate,
    /// Mechanism.
    pub config: GridConfig,
    /// Number of trainable coordinates.
    pub dimension: usize,
    /// Steps that are still planned; only a hint for how far ahead the limit is checked.
    pub planned: u64,
}

/// A durable record of one attempt of one step: the right to draw noise once.
///
/// Not cloneable, and made only by [`Ledger::charge`].
#[derive(Debug)]
#[must_use = "a charge is spent whether or not it is used"]
pub struct Charge {
    body: ChargeBody,
    bits: GridBits,
    dimension: u64,
    strategy: Strategy,
    round: u64,
}

impl Charge {
    /// The run.
    pub fn run(&self) -> &RunId {
        &self.body.run
    }

    /// The step's number.
    pub fn step(&self) -> u64 {
        self.body.step
    }

    /// How often this step had been charged before.
    pub fn attempt(&self) -> u64 {
        self.body.attempt
    }

    /// The charged sampling rate.
    pub fn q(&self) -> SamplingRate {
        self.body.q
    }

    /// The charged noise multiplier.
    pub fn sigma(&self) -> NoiseMultiplier {
        self.body.sigma
    }

    /// The charged clipping norm.
    pub fn clip(&self) -> ClipNorm {
        self.body.clip
    }

    /// The grid of the run's terms.
    pub fn bits(&self) -> GridBits {
        self.bits
    }

    /// Trainable coordinates of the run's terms.
    pub fn dimension(&self) -> u64 {
        self.dimension
    }

    /// How the noise of successive rounds is correlated, by the run's terms.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// How many charges the run had before on these terms, attempts that crashed included: with b bands, the sampler's turn is this modulo b.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The public name of the key whose noise this pays for.
    pub fn key_id(&self) -> KeyId {
        self.body.key_id
    }
}

/// What charges are counted by: the bits of q and σ, and the strategy.
type Terms = (u64, u64, Strategy);

fn terms(q: SamplingRate, sigma: NoiseMultiplier, strategy: Strategy) -> Terms {
    (q.get().to_bits(), sigma.get().to_bits(), strategy)
}

impl RunBody {
    fn terms(&self) -> Terms {
        terms(self.q, self.sigma, self.strategy)
    }
}

/// Steps known to fit under the limit beyond those charged, on one run's terms.
#[derive(Clone, Copy, Debug)]
struct Headroom {
    terms: Terms,
    left: u64,
    granted: u64,
}

/// A verified ledger, open for charging.
pub struct Ledger<S> {
    sink: S,
    links: Vec<Link>,
    /// Charges by terms and run.
    spent: BTreeMap<Terms, BTreeMap<RunId, u64>>,
    attempts: BTreeMap<(RunId, u64), u64>,
    charges: u64,
    recovered: u64,
    dimension: u64,
    bits: GridBits,
    runs: Vec<RunBody>,
    current: Option<(RunBody, u64)>,
    limit: Option<Limit>,
    headroom: Option<Headroom>,
    poisoned: bool,
}

impl<S> std::fmt::Debug for Ledger<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("entries", &self.links.len()).field("charges", &self.charges).finish_non_exhaustive()
    }
}

impl<S: LedgerSink> Ledger<S> {
    /// Reads and verifies the sink, cuts off and charges a torn tail, and creates the ledger if the sink is empty.
    pub fn open(mut sink: S, dataset: &str) -> Result<Self, LedgerError> {
        let bytes = sink.read()?;
        let mut ledger = Self {
            sink,
            links: Vec::new(),
            spent: BTreeMap::new(),
            attempts: BTreeMap::new(),
            charges: 0,
            recovered: 0,
            dimension: 1,
            bits: GridBits::default(),
            runs: Vec::new(),
            current: None,
            limit: None,
            headroom: None,
            poisoned: false,
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        for (index, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
            let damaged = |reason: String| LedgerError::Damaged { line: index + 1, reason };
            let (body, link) = decode(&ledger.last(), &line[..line.len() - 1]).map_err(|error| damaged(error.to_string()))?;
            ledger.links.push(link);
            ledger.replay(body, index, dataset)?;
        }
        if whole < bytes.len() {
            ledger.recover(whole as u64, (bytes.len() - whole) as u64)?;
        }
        if ledger.links.is_empty() {
            ledger.append(&Body::Open { version: VERSION, dataset: dataset.to_owned() })?;
        }
        Ok(ledger)
    }

    fn replay(&mut self, body: Body, index: usize, dataset: &str) -> Result<(), LedgerError> {
        let damaged = |reason: &str| LedgerError::Damaged { line: index + 1, reason: reason.to_owned() };
        match body {
            Body::Open { version, dataset: found } if index == 0 => {
                if version != VERSION {
                    return Err(damaged("it was written by another version"));
                }
                if found != dataset {
                    return Err(LedgerError::Dataset { found, wanted: dataset.to_owned() });
                }
            }
            _ if index == 0 => return Err(damaged("the first record does not open the ledger")),
            Body::Open { .. } => return Err(damaged("the ledger is opened twice")),
            Body::Run(run) => self.enter(run),
            Body::Charge(charge) => {
                self.count(terms(charge.q, charge.sigma, charge.strategy), &charge.run);
                let next = self.attempts.entry((charge.run, charge.step)).or_default();
                *next = (*next).max(charge.attempt.saturating_add(1));
            }
            Body::Recovered { q, sigma, strategy, .. } => {
                self.recovered += 1;
                if let (Some(q), Some(sigma)) = (q, sigma) {
                    let Some(run) = self.runs.last().map(|run| run.run.clone()) else {
                        return Err(damaged("a charge was recovered before any run"));
                    };
                    self.count(terms(q, sigma, strategy), &run);
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, run: RunBody) {
        self.dimension = self.dimension.max(run.dimension);
        self.bits = self.bits.min(run.bits);
        self.runs.push(run);
    }

    /// Counts a charge; returns how many the run had on these terms before.
    fn count(&mut self, terms: Terms, run: &RunId) -> u64 {
        self.charges += 1;
        let count = self.spent.entry(terms).or_default().entry(run.clone()).or_default();
        *count += 1;
        *count - 1
    }

    /// A torn tail is a record whose append never returned, so its noise was never drawn; it is charged all the same.
    fn recover(&mut self, keep: u64, discarded_bytes: u64) -> Result<(), LedgerError> {
        self.sink.truncate(keep)?;
        if self.links.is_empty() {
            return Ok(());
        }
        let run = self.runs.last().cloned();
        let strategy = run.as_ref().map(|run| run.strategy).unwrap_or_default();
        let body =
            Body::Recovered { discarded_bytes, q: run.as_ref().map(|r| r.q), sigma: run.as_ref().map(|r| r.sigma), strategy };
        self.append(&body)?;
        self.recovered += 1;
        if let Some(run) = run {
            self.count(run.terms(), &run.run);
        }
        Ok(())
    }

    fn last(&self) -> Link {
        self.links.last().copied().unwrap_or([0; 32])
    }

    fn append(&mut self, body: &Body) -> Result<(), LedgerError> {
        if self.poisoned {
            return Err(LedgerError::Poisoned);
        }
        let (line, link) = encode(&self.last(), body)?;
        if let Err(error) = self.sink.append_durably(&line) {
            self.poisoned = true;
            return Err(error.into());
        }
        self.links.push(link);
        Ok(())
    }

    /// Sets `max-epsilon`; every later charge is checked against it before it is written.
    pub fn limit(&mut self, limit: Limit) {
        self.limit = Some(limit);
        self.headroom = None;
    }

    /// Writes the terms under which this process will charge. Call it at every start, with the process's own fresh source.
    pub fn begin_run(&mut self, terms: RunTerms, source: &RandomSource) -> Result<(), LedgerError> {
        let run = RunBody {
            run: terms.run,
            q: terms.q,
            sigma: terms.config.sigma,
            clip: terms.config.clip,
            bits: terms.config.bits,
            dimension: terms.dimension as u64,
            key_id: source.key_id(),
            private: source.is_private(),
            strategy: terms.config.strategy,
        };
        self.append(&Body::Run(run.clone()))?;
        self.enter(run.clone());
        self.headroom = None;
        self.current = Some((run, terms.planned.max(1)));
        Ok(())
    }

    /// Charges one attempt of `step` on the current run's terms: checked against the limit, then durable, then returned.
    pub fn charge(&mut self, step: u64) -> Result<Charge, LedgerError> {
        let (run, planned) = self.current.clone().ok_or(LedgerError::NoRun)?;
        if self.poisoned {
            return Err(LedgerError::Poisoned);
        }
        self.afford(&run, planned)?;
        let attempt = self.attempts.get(&(run.run.clone(), step)).copied().unwrap_or(0);
        let (terms, strategy) = (run.terms(), run.strategy);
        let (q, sigma, clip, key_id) = (run.q, run.sigma, run.clip, run.key_id);
        let body = ChargeBody { run: run.run, step, attempt, q, sigma, clip, key_id, strategy };
        self.append(&Body::Charge(body.clone()))?;
        let round = self.count(terms, &body.run);
        self.attempts.insert((body.run.clone(), step), attempt + 1);
        Ok(Charge { body, bits: run.bits, dimension: run.dimension, strategy, round })
    }

    /// Makes sure that one more step fits under the limit. Looks as many steps ahead as fit, so that most charges cost nothing.
    fn afford(&mut self, run: &RunBody, planned: u64) -> Result<(), LedgerError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut ahead = planned;
        if let Some(room) = self.headroom.filter(|r| r.terms == run.terms()) {
            if room.left > 0 {
                self.headroom = Some(Headroom { left: room.left - 1, ..room });
                return Ok(());
            }
            ahead = room.granted.min(planned).max(1);
        }
        loop {
            let segments = self.segments_after(Some((run, ahead)))?;
            let claim = self.claim_for(&segments, limit.delta)?;
            if mechanism::within(claim, limit.epsilon) {
                self.headroom = Some(Headroom { terms: run.terms(), left: ahead - 1, granted: ahead });
                return Ok(());
            }
            if ahead == 1 {
                return Err(LedgerError::BudgetExceeded {
                    epsilon: claim.epsilon,
                    limit: limit.epsilon.get(),
                    delta: limit.delta.get(),
                });
            }
            ahead = ahead.div_ceil(2).min(ahead - 1);
        }
    }

    fn claim_for(&self, segments: &[Segment], delta: Delta) -> Result<Claim, AccountantError> {
        mechanism::claim(Accountant::Pld, segments, delta, self.dimension as usize, self.bits)
    }

    /// The largest dimension and the coarsest grid of any run.
    pub(super) fn coarsest_grid(&self) -> (u64, GridBits) {
        (self.dimension, self.bits)
    }

    /// Everything in the ledger, all runs and attempts, as compositions grouped by (q, σ): a run's charges, or with b bands a b-th of them, rounded up.
    pub fn segments(&self) -> Vec<Segment> {
        self.segments_after(None).expect("only validated numbers are counted")
    }

    /// The same after so many more charges on a run's terms.
    fn segments_after(&self, more: Option<(&RunBody, u64)>) -> Result<Vec<Segment>, AccountantError> {
        let mut spent = self.spent.clone();
        if let Some((run, charges)) = more {
            *spent.entry(run.terms()).or_default().entry(run.run.clone()).or_default() += charges;
        }
        let mut compositions: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for ((q, sigma, strategy), runs) in spent {
            *compositions.entry((q, sigma)).or_default() +=
                runs.values().map(|charges| charges.div_ceil(u64::from(strategy.bands()))).sum::<u64>();
        }
        let segment = |((q, sigma), steps): ((u64, u64), u64)| -> Result<Segment, AccountantError> {
            let (q, sigma) = (SamplingRate::new(f64::from_bits(q))?, NoiseMultiplier::new(f64::from_bits(sigma))?);
            Ok(Segment { q, sigma, steps: Steps::new(steps)? })
        };
        compositions.into_iter().map(segment).collect()
    }

    /// What everything charged so far amounts to at `delta`; `None` before the first charge.
    pub fn spent(&self, delta: Delta) -> Result<Option<Claim>, AccountantError> {
        let segments = self.segments();
        if segments.is_empty() { Ok(None) } else { self.claim_for(&segments, delta).map(Some) }
    }

    /// Number of charges, torn tails included.
    pub fn charges(&self) -> u64 {
        self.charges
    }

    /// Number of charges of `run`, all its restarts included; torn tails are not among them.
    pub fn attempts_of(&self, run: &RunId) -> u64 {
        self.attempts.iter().filter(|((of, _), _)| of == run).map(|(_, attempts)| attempts).sum()
    }

    /// Number of torn tails that were cut off and charged.
    pub fn recovered(&self) -> u64 {
        self.recovered
    }

    /// Number of different runs (hyper-parameter trials, not restarts) on this data.
    pub fn trials(&self) -> u64 {
        let names: std::collections::BTreeSet<&RunId> = self.runs.iter().map(|r| &r.run).collect();
        names.len() as u64
    }

    /// Whether every run drew its noise from a fresh secret key.
    pub fn is_private(&self) -> bool {
        self.runs.iter().all(|r| r.private)
    }

    /// The head to store in a checkpoint.
    pub fn head(&self) -> LedgerHead {
        LedgerHead { entries: self.links.len() as u64, digest: hex::encode(self.last()) }
    }

    /// Accepts a checkpoint's head if this ledger continues it; refuses a ledger that was rolled back or replaced.
    pub fn verify(&self, head: &LedgerHead) -> Result<(), LedgerError> {
        let rolled_back = LedgerError::RolledBack { expected: head.entries, found: self.links.len() as u64 };
        let known = head.entries.checked_sub(1).and_then(|at| self.links.get(usize::try_from(at).ok()?));
        match known {
            Some(link) if hex::encode(link) == head.digest => Ok(()),
            _ => Err(rolled_back),
        }
    }

    /// Gives the sink back.
    pub fn into_sink(self) -> S {
        self.sink
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;

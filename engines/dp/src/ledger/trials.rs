//! What all trainings on one data set cost together.
//!
//! Whoever chooses between models that were trained on the same records has seen all of them, so the choice costs their composition: the claim
//! of one model holds for a reader who sees that model alone.

use serde::{Deserialize, Serialize};

use super::book::Ledger;
use super::sink::LedgerSink;
use crate::accountant::{AccountantError, Segment};
use crate::budget::{Delta, Steps};
use crate::calibrate::Accountant;
use crate::mechanism::{self, Claim, GridBits};

/// Every ledger of a data set, composed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trials {
    /// Runs (hyper-parameter trials, not restarts) in all ledgers.
    pub runs: u64,
    /// Charges in all ledgers, crashed attempts included.
    pub charges: u64,
    /// ε at δ of all of them, for a reader who sees every model; `None` if a run was reproducible or its ledger cannot be read.
    pub claim: Option<Claim>,
}

impl Trials {
    /// Composes `ledgers`, all of one data set. `unreadable` ledgers that exist beside them leave no claim.
    ///
    /// Composition is of Gaussian mechanisms with the rates and multipliers of all runs. The discretisation is charged at the largest dimension and
    /// the coarsest grid of any run, which bounds each run's own.
    pub fn compose<S: LedgerSink>(ledgers: &[Ledger<S>], unreadable: usize, delta: Delta) -> Result<Self, AccountantError> {
        let mut segments: Vec<Segment> = Vec::new();
        let (mut dimension, mut bits, mut private) = (1, None::<GridBits>, unreadable == 0);
        for ledger in ledgers {
            for new in ledger.segments() {
                match segments.iter_mut().find(|s| s.q == new.q && s.sigma == new.sigma) {
                    Some(known) => known.steps = Steps::new(known.steps.get().saturating_add(new.steps.get()))?,
                    None => segments.push(new),
                }
            }
            let (coordinates, grid) = ledger.coarsest_grid();
            dimension = dimension.max(coordinates);
            bits = Some(bits.map_or(grid, |b| if grid.get() < b.get() { grid } else { b }));
            private &= ledger.is_private();
        }
        let claim = match bits {
            Some(bits) if private && !segments.is_empty() => {
                Some(mechanism::claim(Accountant::Pld, &segments, delta, dimension as usize, bits)?)
            }
            _ => None,
        };
        let sum = |count: fn(&Ledger<S>) -> u64| ledgers.iter().map(count).sum();
        Ok(Self { runs: sum(Ledger::trials), charges: sum(Ledger::charges), claim })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{ClipNorm, NoiseMultiplier, SamplingRate};
    use crate::ledger::{MemorySink, RunId, RunTerms};
    use crate::mechanism::{GridConfig, Strategy};
    use crate::randomness::RandomSource;

    fn ledger(run: &str, sigma: f64, charges: u64, source: &RandomSource) -> Ledger<MemorySink> {
        let config = GridConfig {
            clip: ClipNorm::new(1.0).unwrap(),
            sigma: NoiseMultiplier::new(sigma).unwrap(),
            bits: GridBits::default(),
            strategy: Strategy::default(),
        };
        let q = SamplingRate::new(0.05).unwrap();
        let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
        ledger
            .begin_run(RunTerms { run: RunId::new(run).unwrap(), q, config, dimension: 300, planned: charges }, source)
            .unwrap();
        for step in 0..charges {
            let _ = ledger.charge(step).unwrap();
        }
        ledger
    }

    #[test]
    fn trials_cost_what_one_run_with_all_their_steps_costs() {
        let delta = Delta::new(1e-5).unwrap();
        let key = || RandomSource::private().unwrap();
        let apart = [ledger("a", 0.8, 60, &key()), ledger("b", 0.8, 40, &key())];
        let together = Trials::compose(&apart, 0, delta).unwrap();
        let whole = Trials::compose(&[ledger("c", 0.8, 100, &key())], 0, delta).unwrap();
        assert_eq!((together.runs, together.charges, whole.runs), (2, 100, 1));
        assert_eq!(together.claim, whole.claim);
        let alone = Trials::compose(&apart[..1], 0, delta).unwrap().claim.unwrap().epsilon;
        assert!(together.claim.unwrap().epsilon > alone);
    }

    #[test]
    fn trials_with_different_noise_cost_more_than_each_and_less_than_the_sum() {
        let delta = Delta::new(1e-5).unwrap();
        let key = || RandomSource::private().unwrap();
        let both = [ledger("a", 0.8, 60, &key()), ledger("b", 1.6, 200, &key())];
        let epsilon = |l: &[Ledger<MemorySink>]| Trials::compose(l, 0, delta).unwrap().claim.unwrap().epsilon;
        let (first, second, all) = (epsilon(&both[..1]), epsilon(&both[1..]), epsilon(&both));
        assert!(all > first.max(second) && all < first + second, "{first} {second} {all}");
    }

    #[test]
    fn a_seeded_or_unreadable_trial_leaves_no_claim() {
        let delta = Delta::new(1e-5).unwrap();
        let private = ledger("a", 0.8, 5, &RandomSource::private().unwrap());
        let seeded = ledger("b", 0.8, 5, &RandomSource::reproducible(1));
        assert_eq!(Trials::compose(&[private, seeded], 0, delta).unwrap().claim, None);
        let private = ledger("a", 0.8, 5, &RandomSource::private().unwrap());
        assert_eq!(Trials::compose(&[private], 1, delta).unwrap().claim, None);
    }
}

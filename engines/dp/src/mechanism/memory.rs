//! What a banded strategy remembers from round to round. See [`super::strategy`] for the mathematics and the accounting.

use super::strategy::Strategy;
use std::collections::VecDeque;
use zeroize::Zeroize;

/// The last b − 1 rounds: their exact sums, which are secret, and their estimates, which are public.
pub(crate) struct Memory {
    strategy: Strategy,
    weights: Vec<i64>,
    sums: VecDeque<Vec<i64>>,
    estimates: VecDeque<Vec<f64>>,
    /// The deviations of the estimates from the block's start on, in units of σC.
    deviations: Vec<f64>,
    /// Rounds of this block.
    rounds: usize,
    /// The number that the next round must have for the block to go on.
    next: Option<u64>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Memory {
    pub(crate) fn new(strategy: Strategy) -> Self {
        let weights = strategy.weights();
        Self {
            strategy,
            weights,
            sums: VecDeque::new(),
            estimates: VecDeque::new(),
            deviations: Vec::new(),
            rounds: 0,
            next: None,
        }
    }

    fn forget(&mut self) {
        self.sums.iter_mut().for_each(Zeroize::zeroize);
        self.sums.clear();
        self.estimates.clear();
        (self.rounds, self.next) = (0, None);
    }

    /// Begins the ledger's round `round` and returns the deviation of its estimate in units of σC. The blocks of one example are apart only as long as
    /// every round of the ledger is released here in its turn, so a gap starts a new block.
    pub(crate) fn enter(&mut self, round: u64) -> f64 {
        if self.next != Some(round) {
            self.forget();
        }
        self.next = Some(round + 1);
        if self.deviations.len() <= self.rounds {
            self.deviations = self.strategy.deviations(2 * (self.rounds + 32));
        }
        self.rounds += 1;
        self.deviations[self.rounds - 1]
    }

    /// Y = Σ nᵢ·G_{t−i} + Z in exact integers, and from it, as anybody could, the round's estimate in grid steps. `noise` is called once a coordinate.
    pub(crate) fn release(&mut self, sums: Vec<i64>, mut noise: impl FnMut(usize) -> i64) -> &[f64] {
        let mut mixed: Vec<i64> = sums.iter().map(|g| g.saturating_mul(self.weights[0])).collect();
        for (past, n) in self.sums.iter().zip(&self.weights[1..]) {
            mixed.iter_mut().zip(past).for_each(|(y, g)| *y = y.saturating_add(g.saturating_mul(*n)));
        }
        mixed.iter_mut().enumerate().for_each(|(i, y)| *y = y.saturating_add(noise(i)));
        let mut estimate: Vec<f64> = mixed.iter().map(|y| *y as f64).collect();
        for (past, n) in self.estimates.iter().zip(&self.weights[1..]) {
            estimate.iter_mut().zip(past).for_each(|(y, e)| *y -= e * *n as f64);
        }
        let first = self.weights[0] as f64;
        estimate.iter_mut().for_each(|y| *y /= first);
        mixed.zeroize();
        let kept = self.weights.len() - 1;
        self.sums.push_front(sums);
        self.estimates.push_front(estimate);
        if self.sums.len() > kept.max(1) {
            self.sums.pop_back().iter_mut().for_each(Zeroize::zeroize);
            self.estimates.pop_back();
        }
        &self.estimates[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the strategy's weights make of the estimates again must be the weights' sums plus nothing but this round's noise.
    #[test]
    fn mixing_the_estimates_again_leaves_white_noise_of_the_stated_deviation() {
        let strategy = Strategy::new(4).unwrap();
        let weights = strategy.weights();
        let mut memory = Memory::new(strategy);
        let noise = |round: usize, i: usize| ((round * 7919 + i * 104_729) % 2001) as i64 - 1000;
        let sum = |round: usize, i: usize| (round * 31 + i * 17) as i64 % 257;
        let mut estimates: Vec<Vec<f64>> = Vec::new();
        for round in 0..30 {
            assert!(memory.enter(round as u64 + 5) >= 1.0);
            estimates.push(memory.release((0..50).map(|i| sum(round, i)).collect(), |i| noise(round, i)).to_vec());
            let left = |i: usize| -> f64 {
                let lags = weights.iter().enumerate().filter(|(lag, _)| *lag <= round);
                lags.map(|(lag, n)| *n as f64 * (estimates[round - lag][i] - sum(round - lag, i) as f64)).sum()
            };
            for (i, off) in (0..50).map(|i| (i, left(i) - noise(round, i) as f64)) {
                assert!(off.abs() < 1e-6, "round {round}, coordinate {i}: {off}");
            }
        }
    }

    #[test]
    fn a_gap_in_the_rounds_starts_a_new_block() {
        let strategy = Strategy::new(3).unwrap();
        let mut memory = Memory::new(strategy);
        let release = |memory: &mut Memory, round: u64| {
            let unit = memory.enter(round);
            (unit, memory.release(vec![0], |_| 256_000)[0])
        };
        let first = release(&mut memory, 0);
        assert_ne!(release(&mut memory, 1), first);
        assert_eq!(release(&mut memory, 3), first, "round 2 was not released here: nothing of rounds 0 and 1 is left");
        assert_ne!(release(&mut memory, 4), first);
    }
}

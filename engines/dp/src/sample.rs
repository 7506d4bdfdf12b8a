//! Which records enter a step: Poisson sampling for private runs, shuffled batches for non-private ones only.

use crate::budget::{BudgetError, SamplingRate};
use crate::randomness::{Purpose, RandomSource};

/// Every record independently with probability ⌊q·2⁶⁴⌋/2⁶⁴ ≤ q (1 exactly for q = 1), fresh at every step and attempt.
///
/// The accountant uses q itself, so what is accounted is never below what is sampled. Batches may be empty. Batch sizes are secret:
/// do not log them. Steps are independent, so a resumed run needs no sampler position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoissonSampler {
    records: u32,
    q: SamplingRate,
}

impl PoissonSampler {
    /// A sampler over record indices 0..`records`.
    pub fn new(records: usize, q: SamplingRate) -> Result<Self, BudgetError> {
        let fix = "give between 1 and 2^32 - 1 records; an empty split cannot be trained on";
        let error = BudgetError { field: "records", value: records as f64, fix };
        match u32::try_from(records) {
            Ok(records) if records > 0 => Ok(Self { records, q }),
            _ => Err(error),
        }
    }

    /// The accounted rate.
    pub fn q(&self) -> SamplingRate {
        self.q
    }

    /// The step's records in ascending order; possibly none.
    pub fn batch(&self, source: &RandomSource, step: u64, attempt: u64) -> Vec<u32> {
        if self.q.get() == 1.0 {
            return (0..self.records).collect();
        }
        // Exact: scaling by a power of two only moves the exponent, and the cast truncates.
        let threshold = (self.q.get() * 18_446_744_073_709_551_616.0) as u64;
        let mut stream = source.stream(Purpose::Sampling, step, attempt).expect("sampling is open to callers");
        (0..self.records).filter(|_| stream.word() < threshold).collect()
    }
}

/// Batches of a seeded permutation per epoch; the last short batch is kept. Its amplification is not accounted, so it is only for
/// runs without privacy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShuffledSampler {
    records: u32,
    batch: u32,
}

impl ShuffledSampler {
    /// A sampler over record indices 0..`records` in batches of `batch`.
    pub fn new(records: usize, batch: usize) -> Result<Self, BudgetError> {
        let fix = "give a batch size of at least 1 and at most the number of records";
        let error = BudgetError { field: "batch_size", value: batch as f64, fix };
        match (u32::try_from(records), u32::try_from(batch)) {
            (Ok(records), Ok(batch)) if batch > 0 && batch <= records => Ok(Self { records, batch }),
            _ => Err(error),
        }
    }

    /// The batches of one epoch (Fisher–Yates).
    pub fn epoch(&self, source: &RandomSource, epoch: u64) -> Vec<Vec<u32>> {
        let mut stream = source.stream(Purpose::Sampling, epoch, u64::MAX).expect("sampling is open to callers");
        let mut order: Vec<u32> = (0..self.records).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, stream.below(i as u64 + 1) as usize);
        }
        order.chunks(self.batch as usize).map(<[u32]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_batches_have_binomial_size_and_independent_members() {
        let q = SamplingRate::new(0.03).unwrap();
        let sampler = PoissonSampler::new(10_000, q).unwrap();
        let source = RandomSource::reproducible(5);
        let mut counts = vec![0_u32; 10_000];
        let (mut sum, mut square) = (0.0, 0.0);
        for step in 0..400 {
            let batch = sampler.batch(&source, step, 0);
            assert!(batch.windows(2).all(|w| w[0] < w[1]));
            for i in &batch {
                counts[*i as usize] += 1;
            }
            sum += batch.len() as f64;
            square += (batch.len() as f64 - 300.0).powi(2);
        }
        assert!((sum / 400.0 - 300.0).abs() < 5.0 * (291.0_f64 / 400.0).sqrt());
        assert!((square / 400.0 / 291.0 - 1.0).abs() < 0.36, "{}", square / 400.0);
        let spread: f64 = counts.iter().map(|c| (f64::from(*c) - 12.0).powi(2) / 11.64).sum();
        assert!((spread / 1e4 - 1.0).abs() < 0.1, "{spread}");
        assert_ne!(sampler.batch(&source, 0, 0), sampler.batch(&source, 0, 1));
    }

    #[test]
    fn tiny_rates_give_empty_batches_and_rate_one_gives_everyone() {
        let source = RandomSource::reproducible(1);
        let rare = PoissonSampler::new(10, SamplingRate::new(1e-9).unwrap()).unwrap();
        assert!(rare.batch(&source, 0, 0).is_empty());
        let all = PoissonSampler::new(10, SamplingRate::new(1.0).unwrap()).unwrap();
        assert_eq!(all.batch(&source, 0, 0).len(), 10);
        assert!(PoissonSampler::new(0, SamplingRate::new(0.5).unwrap()).is_err());
    }

    #[test]
    fn an_epoch_of_shuffled_batches_is_a_permutation() {
        let batches = ShuffledSampler::new(103, 10).unwrap().epoch(&RandomSource::reproducible(1), 0);
        assert_eq!((batches.len(), batches[10].len()), (11, 3));
        let mut all: Vec<u32> = batches.concat();
        assert!(all.windows(2).any(|w| w[0] > w[1]));
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
        assert!(ShuffledSampler::new(5, 6).is_err());
    }
}

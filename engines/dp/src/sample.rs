//! Which records enter a step: Poisson sampling for private runs, shuffled batches for non-private ones only.

use crate::budget::{BudgetError, SamplingRate};
use crate::randomness::{Purpose, RandomSource};

/// Every record independently with probability ⌊q·2⁶⁴⌋/2⁶⁴ ≤ q (1 exactly for q = 1), fresh at every step and attempt.
///
/// The accountant uses q itself, so what is accounted is never below what is sampled. Batches may be empty. Batch sizes are secret:
/// do not log them. Steps are independent, so a resumed run needs no sampler position.
///
/// *Cyclic* sampling over b bands (Choquette-Choo et al. 2023) divides the records once and for all into b groups; round r samples from group r mod b
/// alone, so a record enters at most one round in b. The paper deals positions out, which protects what stands at a position; here a record's group is
/// a hash of the record itself, so that adding or removing one moves no other and the guarantee is the one of plain Poisson sampling. Groups are
/// equally large but for chance, and the rate does not follow their sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct PoissonSampler {
    groups: Vec<Vec<u32>>,
    q: SamplingRate,
}

impl PoissonSampler {
    /// A sampler over record indices 0..`records`.
    pub fn new(records: usize, q: SamplingRate) -> Result<Self, BudgetError> {
        Self::cyclic((0..records).map(|_| 0), q, 1)
    }

    /// A sampler over `bands` groups, each record of a round's group with probability `q`. `hashes` holds a public hash of each record, of nothing else.
    pub fn cyclic(hashes: impl Iterator<Item = u64>, q: SamplingRate, bands: u32) -> Result<Self, BudgetError> {
        if bands == 0 {
            return Err(BudgetError { field: "bands", value: 0.0, fix: "give at least 1 band" });
        }
        let mut groups = vec![Vec::new(); bands as usize];
        let mut records = 0_usize;
        for hash in hashes {
            if let Ok(record) = u32::try_from(records) {
                groups[(hash % u64::from(bands)) as usize].push(record);
            }
            records += 1;
        }
        match u32::try_from(records) {
            Ok(1..) => Ok(Self { groups, q }),
            _ => Err(BudgetError {
                field: "records",
                value: records as f64,
                fix: "give between 1 and 2^32 - 1 records; an empty split cannot be trained on",
            }),
        }
    }

    /// The accounted rate.
    pub fn q(&self) -> SamplingRate {
        self.q
    }

    /// The records of a round in ascending order; possibly none. `step` and `attempt` choose the stream, `round` the group ([`crate::ledger::Charge::round`]).
    pub fn batch(&self, source: &RandomSource, step: u64, attempt: u64, round: u64) -> Vec<u32> {
        let group = &self.groups[(round % self.groups.len() as u64) as usize];
        if self.q.get() == 1.0 {
            return group.clone();
        }
        // Exact: scaling by a power of two only moves the exponent, and the cast truncates.
        let threshold = (self.q.get() * 18_446_744_073_709_551_616.0) as u64;
        let mut stream = source.stream(Purpose::Sampling, step, attempt).expect("sampling is open to callers");
        group.iter().copied().filter(|_| stream.word() < threshold).collect()
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
            let batch = sampler.batch(&source, step, 0, step);
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
        assert_ne!(sampler.batch(&source, 0, 0, 0), sampler.batch(&source, 0, 1, 0));
    }

    #[test]
    fn tiny_rates_give_empty_batches_and_rate_one_gives_everyone() {
        let source = RandomSource::reproducible(1);
        let rare = PoissonSampler::new(10, SamplingRate::new(1e-9).unwrap()).unwrap();
        assert!(rare.batch(&source, 0, 0, 0).is_empty());
        let all = PoissonSampler::new(10, SamplingRate::new(1.0).unwrap()).unwrap();
        assert_eq!(all.batch(&source, 0, 0, 0).len(), 10);
        assert!(PoissonSampler::new(0, SamplingRate::new(0.5).unwrap()).is_err());
    }

    #[test]
    fn cyclic_batches_take_every_record_in_its_turn_alone() {
        let hash = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let sampler = PoissonSampler::cyclic((0..1000).map(hash), SamplingRate::new(0.4).unwrap(), 5).unwrap();
        let (first, second) = (RandomSource::private().unwrap(), RandomSource::private().unwrap());
        let mut entered = [0; 1000];
        for round in 0..60_u64 {
            // The groups are the same whoever draws from them, as they must be after a restart.
            let source = if round < 30 { &first } else { &second };
            for record in sampler.batch(source, round, 0, round) {
                assert_eq!(hash(u64::from(record)) % 5, round % 5, "record {record} in round {round}");
                entered[record as usize] += 1;
            }
        }
        // Each has 12 turns and enters 0.4 of them.
        let (sum, deviation) = (entered.iter().sum::<i32>(), (12_000.0_f64 * 0.4 * 0.6).sqrt());
        assert!((f64::from(sum) - 4800.0).abs() < 6.0 * deviation, "{sum}");
        assert!(entered.iter().all(|n| *n <= 12) && entered.iter().any(|n| *n >= 7));
        let without: Vec<_> = (1..1000).map(hash).collect();
        let fewer = PoissonSampler::cyclic(without.into_iter(), SamplingRate::new(1.0).unwrap(), 5).unwrap();
        let more = PoissonSampler::cyclic((0..1000).map(hash), SamplingRate::new(1.0).unwrap(), 5).unwrap();
        for round in 0..5 {
            let all = more.batch(&first, round, 0, round);
            let left: Vec<u32> = all.into_iter().filter(|r| *r > 0).map(|r| r - 1).collect();
            assert_eq!(left, fewer.batch(&first, round, 0, round), "removing a record moves no other");
        }
        assert!(PoissonSampler::cyclic([].into_iter(), SamplingRate::new(0.4).unwrap(), 5).is_err());
        assert!(PoissonSampler::cyclic([1].into_iter(), SamplingRate::new(0.4).unwrap(), 0).is_err());
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

//! Which examples are classified, in which batches, with which programs.

use std::collections::BTreeMap;

use sprint_model::{Batch, BatchError, Example, buckets_by_length};
use sprint_mpc::ProgramSize;

/// One inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceJob {
    /// The program's number.
    pub program: u32,
    /// Validation rows, at most a batch of them.
    pub rows: Vec<usize>,
}

/// All inferences of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferencePlan {
    /// Every row that is classified, ascending.
    pub rows: Vec<usize>,
    /// Programs by number: one a padded length.
    pub sizes: Vec<ProgramSize>,
    /// In order of padded length.
    pub jobs: Vec<InferenceJob>,
}

impl InferencePlan {
    /// `samples` rows spread evenly over `examples`, in batches of one padded length, a multiple of `multiple` but never more than
    /// `most` (what the model's positions allow).
    pub fn new(examples: &[Example], samples: usize, batch: usize, multiple: usize, most: usize) -> Self {
        let count = samples.min(examples.len());
        let rows: Vec<usize> = (0..count).map(|i| i * examples.len() / count).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| examples[*row].ids.len()).collect();
        let buckets = buckets_by_length(&lengths, multiple, batch);
        let mut numbers = BTreeMap::new();
        let mut jobs = Vec::with_capacity(buckets.len());
        for bucket in buckets {
            // Up to the multiple also where nothing is longer: the longest message's own length is nobody's business.
            let tokens = bucket.tokens.next_multiple_of(multiple.max(1)).min(most);
            let next = numbers.len() as u32;
            let program = *numbers.entry(tokens).or_insert(next);
            jobs.push(InferenceJob { program, rows: bucket.rows.into_iter().map(|i| rows[i]).collect() });
        }
        let mut sizes: Vec<(u32, ProgramSize)> =
            numbers.into_iter().map(|(tokens, n)| (n, ProgramSize { batch, tokens })).collect();
        sizes.sort_by_key(|(n, _)| *n);
        Self { rows, sizes: sizes.into_iter().map(|(_, size)| size).collect(), jobs }
    }

    /// The padded batch of a job; one that is not full repeats its last example, whose further answers are dropped.
    pub fn batch(&self, job: &InferenceJob, examples: &[Example], pad_token: u32) -> Result<Batch, BatchError> {
        let size = self.sizes[job.program as usize];
        let last = job.rows.last().into_iter().cycle();
        let filled = job.rows.iter().chain(last).take(size.batch);
        Batch::new(filled.map(|row| &examples[*row]), size.tokens, pad_token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        lengths.iter().map(|n| Example { ids: vec![5; *n], type_ids: vec![0; *n], label: None }).collect()
    }

    #[test]
    fn every_sampled_row_is_classified_once_by_a_program_that_holds_it() {
        let examples = examples(&[3, 20, 9, 16, 17, 100, 128, 4, 4, 4]);
        for (samples, batch) in [(10, 1), (10, 4), (3, 2), (99, 3)] {
            let plan = InferencePlan::new(&examples, samples, batch, 16, 120);
            assert_eq!(plan.rows.len(), samples.min(10));
            let mut seen: Vec<usize> = plan.jobs.iter().flat_map(|j| j.rows.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, plan.rows);
            for job in &plan.jobs {
                let size = plan.sizes[job.program as usize];
                assert!(job.rows.len() <= size.batch && size.tokens <= 120);
                assert!(job.rows.iter().all(|r| examples[*r].ids.len().min(120) <= size.tokens));
            }
        }
    }

    #[test]
    fn a_sample_is_spread_over_the_split() {
        let plan = InferencePlan::new(&examples(&[8; 100]), 4, 1, 16, 512);
        assert_eq!(plan.rows, [0, 25, 50, 75]);
        assert_eq!(plan.sizes, [ProgramSize { batch: 1, tokens: 16 }]);
    }
}

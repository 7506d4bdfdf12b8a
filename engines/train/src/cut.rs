//! How a logical batch is cut into physical ones: which examples are computed together, and how far they are padded.
//!
//! Neither changes the result: gradients are per example, and clipped sums are of integers.

use sprint_model::{Bucket, buckets_by_length};

use crate::device::BackendKind;
use crate::eval::LENGTH_MULTIPLE;

/// The most padded tokens of one physical batch on the CPU. More would push a layer's activations out of the caches and its temporaries out of
/// the allocator's, fewer would pack the weights for too few rows: of 256, 384, 512, 768 and 1024 tokens the first two take the fewest processor
/// seconds, at 384 channels and at 768.
const CPU_TOKENS: usize = 384;

/// Physical batches of at most `rows` examples, longest first so that workers finish together.
///
/// On the CPU an example is padded to the longest of its batch, whose size follows from the length. Elsewhere lengths are multiples of
/// [`LENGTH_MULTIPLE`], because a GPU's kernels are tuned for every new shape.
pub(crate) fn cut(lengths: &[usize], rows: usize, backend: BackendKind) -> Vec<Bucket> {
    if backend != BackendKind::Flex {
        let mut cuts = buckets_by_length(lengths, LENGTH_MULTIPLE, rows);
        cuts.reverse();
        return cuts;
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    let mut cuts = Vec::new();
    let mut rest = &order[..];
    while let Some(longest) = rest.first().map(|row| lengths[*row].max(1)) {
        let most = (CPU_TOKENS / longest).clamp(1, rows.max(1)).min(rest.len());
        let (now, later) = rest.split_at(most);
        let mut rows_now = now.to_vec();
        rows_now.sort_unstable();
        cuts.push(Bucket { tokens: longest, rows: rows_now });
        rest = later;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::{CPU_TOKENS, cut};
    use crate::device::BackendKind;

    #[test]
    fn every_example_is_in_one_batch_within_both_limits() {
        let lengths: Vec<usize> = (0..500).map(|i| 1 + (i * 37) % 128).collect();
        for backend in [BackendKind::Flex, BackendKind::Wgpu] {
            for rows in [1, 3, 32] {
                let cuts = cut(&lengths, rows, backend);
                let mut seen: Vec<usize> = cuts.iter().flat_map(|c| c.rows.clone()).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..500).collect::<Vec<_>>());
                assert!(cuts.iter().all(|c| c.rows.len() <= rows && c.rows.iter().all(|r| lengths[*r] <= c.tokens)));
                assert!(cuts.windows(2).all(|w| w[0].tokens >= w[1].tokens), "longest first");
            }
        }
        let cpu = cut(&lengths, 1000, BackendKind::Flex);
        assert!(cpu.iter().all(|c| c.rows.len() == 1 || c.rows.len() * c.tokens <= CPU_TOKENS));
    }

    #[test]
    fn short_examples_of_mixed_lengths_are_hardly_padded() {
        let lengths: Vec<usize> = (0..512).map(|i| 3 + (i * i) % 29).collect();
        let padded: usize = cut(&lengths, 64, BackendKind::Flex).iter().map(|c| c.rows.len() * c.tokens).sum();
        let real: usize = lengths.iter().sum();
        assert!((padded as f64) < 1.1 * real as f64, "{padded} for {real}");
    }

    #[test]
    fn no_examples_are_no_batches_and_a_long_one_stands_alone() {
        assert!(cut(&[], 8, BackendKind::Flex).is_empty());
        assert_eq!(cut(&[4096, 4096], 8, BackendKind::Flex).len(), 2);
    }
}

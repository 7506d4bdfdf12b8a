//! How long real examples are.

/// Training phrases of SST-2 by their number of tokens under roberta-base's tokenizer, `<s>` and `</s>` included, from 0 tokens on.
/// 67,349 phrases, 13.36 tokens on average, counted from the GLUE release.
const SST2: [u32; 67] = [
    0, 0, 0, 492, 4487, 6851, 6118, 5122, 4374, 3780, 3354, 3051, 2665, 2362, 2181, 1925, 1843, 1674, 1516, 1364, 1264, 1187,
    1091, 1041, 897, 876, 799, 718, 610, 616, 553, 487, 466, 442, 366, 351, 343, 253, 240, 229, 194, 181, 134, 134, 99, 80, 85,
    82, 60, 45, 47, 32, 30, 36, 32, 16, 14, 9, 13, 9, 9, 11, 4, 2, 1, 0, 2,
];

/// `count` lengths distributed as SST-2's, at most `most`: the quantiles (i + ½)/count of the distribution, in an order that mixes short
/// and long.
pub(super) fn sst2(count: usize, most: usize) -> Vec<usize> {
    let total: u64 = SST2.iter().map(|n| u64::from(*n)).sum();
    let quantile = |i: usize| {
        let rank = (2 * i as u64 + 1) * total / (2 * count as u64);
        let mut below = 0;
        let found = SST2.iter().position(|n| {
            below += u64::from(*n);
            below > rank
        });
        found.unwrap_or(SST2.len() - 1).min(most)
    };
    // An odd step visits every quantile once only if it has no factor in common with the count.
    let step = (count / 2..).find(|s| gcd(*s, count) == 1).unwrap_or(1);
    (0..count).map(|i| quantile(i * step % count)).collect()
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_the_distributions_mean_and_every_quantile_once() {
        for count in [1, 2, 64, 512, 513] {
            let mut lengths = sst2(count, 128);
            assert_eq!(lengths.len(), count);
            lengths.sort_unstable();
            let expected: Vec<usize> = {
                let mut all: Vec<usize> =
                    SST2.iter().enumerate().flat_map(|(n, c)| std::iter::repeat_n(n, *c as usize)).collect();
                all.sort_unstable();
                (0..count).map(|i| all[(2 * i + 1) * all.len() / (2 * count)]).collect()
            };
            assert_eq!(lengths, expected);
        }
        let mean = sst2(4096, 128).iter().sum::<usize>() as f64 / 4096.0;
        assert!((mean - 13.36).abs() < 0.02, "{mean}");
        assert!(sst2(512, 16).iter().all(|n| *n <= 16));
    }
}

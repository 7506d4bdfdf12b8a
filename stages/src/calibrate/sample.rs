//! Random token sequences: texts that are nobody's.

use sprint_model::{Example, ModelSpec, TextEncoder};

/// How many different tokens a sequence draws from, in turn: real texts repeat words, some of them little else.
const POOLS: [usize; 4] = [usize::MAX, usize::MAX, 8, 2];
/// Every so many sequences is a pair, where the model tells sentences apart.
const PAIRS: usize = 4;

/// `count` sequences of up to `tokens` tokens, drawn uniformly from the vocabulary between the special tokens that `encoder` adds (none
/// without one), of all lengths: the first is as long as can be. The same arguments give the same sequences.
pub fn random_texts(spec: &ModelSpec, encoder: Option<&TextEncoder>, tokens: usize, count: usize, seed: u64) -> Vec<Example> {
    let mut stream =
        blake3::Hasher::new_derive_key("sprint-flow calibration sample v1").update(&seed.to_le_bytes()).finalize_xof();
    let mut below = |n: usize| {
        let mut bytes = [0; 8];
        stream.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % n.max(1) as u64) as usize
    };
    let frame = encoder.and_then(|e| e.encode("", None).ok()).map(|e| e.ids).unwrap_or_default();
    let (first, last) = frame.split_at(frame.len().min(1));
    (0..count)
        .map(|i| {
            let room = tokens.saturating_sub(frame.len()).max(1);
            let length = if i == 0 { room } else { 1 + below(room) };
            let pool: Vec<u32> = (0..POOLS[i % POOLS.len()].min(length)).map(|_| below(spec.vocab) as u32).collect();
            let mut inner: Vec<u32> = pool.clone();
            inner.extend((pool.len()..length).map(|_| pool[below(pool.len())]));
            let ids: Vec<u32> = [first, &inner[..], last].concat();
            let is_pair = spec.token_types > 1 && i % PAIRS == PAIRS - 1;
            let split = if is_pair { below(ids.len()) } else { ids.len() };
            Example { type_ids: (0..ids.len()).map(|at| u8::from(at >= split)).collect(), ids, label: None }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_reproducible_fill_the_length_and_keep_to_the_vocabulary() {
        let spec = ModelSpec::bert_tiny();
        let texts = random_texts(&spec, None, 24, 40, 7);
        assert_eq!(texts, random_texts(&spec, None, 24, 40, 7));
        assert_ne!(texts, random_texts(&spec, None, 24, 40, 8));
        assert_eq!(texts[0].ids.len(), 24);
        assert!(texts.iter().all(|t| (1..=24).contains(&t.ids.len()) && t.ids.iter().all(|id| (*id as usize) < spec.vocab)));
        assert!(texts.iter().all(|t| t.ids.len() == t.type_ids.len()));
        assert!(texts.iter().any(|t| t.type_ids.contains(&1)), "some are pairs");
    }
}

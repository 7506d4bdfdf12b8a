//! Examples and padded batches of them.

use crate::ModelSpec;

/// What an example is labelled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Label {
    /// A class, counted from 0.
    Class(u32),
    /// A number to be regressed.
    Score(f32),
}

/// The tokens of one example.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// One id a token, special tokens included.
    pub ids: Vec<u32>,
    /// One token type a token.
    pub type_ids: Vec<u8>,
    /// The label, if it is known.
    pub label: Option<Label>,
}

/// Why examples do not form a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// No examples.
    #[error("a batch needs at least one example")]
    Empty,
    /// An example without tokens: it would have no key to attend to and no token to pool.
    #[error("example {row} has no tokens")]
    NoTokens {
        /// Its row.
        row: usize,
    },
    /// An example longer than the batch.
    #[error("example {row} has {found} tokens, more than the {most} of the batch or model")]
    TooLong {
        /// Its row.
        row: usize,
        /// Its tokens.
        found: usize,
        /// The batch's tokens, or the model's.
        most: usize,
    },
    /// An example whose ids and types are not of one length.
    #[error("example {row} has {ids} token ids but {types} token types")]
    TypeCount {
        /// Its row.
        row: usize,
        /// Its ids.
        ids: usize,
        /// Its types.
        types: usize,
    },
    /// An id that a table has no row for.
    #[error("example {row} has {what} {found}, but the model has {rows}")]
    OutOfTable {
        /// Its row.
        row: usize,
        /// `token id` or `token type`.
        what: &'static str,
        /// The id.
        found: u32,
        /// Rows of the table.
        rows: usize,
    },
}

/// Examples padded on the right to one length.
///
/// # Shapes
/// Ids and types are `[size, tokens]`, row-major; `1 ≤ length ≤ tokens` for every row, and what lies beyond a row's length is
/// the padding token of type 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    tokens: usize,
    ids: Vec<u32>,
    type_ids: Vec<u8>,
    lengths: Vec<usize>,
    labels: Vec<Option<Label>>,
}

impl Batch {
    /// `examples` padded with `pad_token` to `tokens`.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>, tokens: usize, pad_token: u32) -> Result<Self, BatchError> {
        let mut batch = Self { tokens, ids: vec![], type_ids: vec![], lengths: vec![], labels: vec![] };
        for (row, example) in examples.into_iter().enumerate() {
            let length = example.ids.len();
            if length == 0 {
                return Err(BatchError::NoTokens { row });
            }
            if length > tokens {
                return Err(BatchError::TooLong { row, found: length, most: tokens });
            }
            if example.type_ids.len() != length {
                return Err(BatchError::TypeCount { row, ids: length, types: example.type_ids.len() });
            }
            batch.ids.extend_from_slice(&example.ids);
            batch.ids.resize((row + 1) * tokens, pad_token);
            batch.type_ids.extend_from_slice(&example.type_ids);
            batch.type_ids.resize((row + 1) * tokens, 0);
            batch.lengths.push(length);
            batch.labels.push(example.label);
        }
        if batch.lengths.is_empty() { Err(BatchError::Empty) } else { Ok(batch) }
    }

    /// `examples` padded to the longest of them.
    pub fn padded_to_longest(examples: &[Example], pad_token: u32) -> Result<Self, BatchError> {
        let tokens = examples.iter().map(|example| example.ids.len()).max().unwrap_or(0);
        Self::new(examples, tokens, pad_token)
    }

    /// Checks that `spec` has a table row for every id, type and position.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), BatchError> {
        if self.tokens > spec.max_tokens() {
            return Err(BatchError::TooLong { row: 0, found: self.tokens, most: spec.max_tokens() });
        }
        let row = |index: usize| index / self.tokens;
        if let Some((index, &found)) = self.ids.iter().enumerate().find(|(_, id)| **id as usize >= spec.vocab) {
            return Err(BatchError::OutOfTable { row: row(index), what: "token id", found, rows: spec.vocab });
        }
        if let Some((index, &found)) = self.type_ids.iter().enumerate().find(|(_, id)| **id as usize >= spec.token_types) {
            let (found, rows) = (u32::from(found), spec.token_types);
            return Err(BatchError::OutOfTable { row: row(index), what: "token type", found, rows });
        }
        Ok(())
    }

    /// Number of examples, at least 1.
    pub fn size(&self) -> usize {
        self.lengths.len()
    }

    /// Padded length, at least 1.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Token ids, `[size, tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token types, `[size, tokens]`.
    pub fn type_ids(&self) -> &[u8] {
        &self.type_ids
    }

    /// Each example's tokens without padding.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Each example's label.
    pub fn labels(&self) -> &[Option<Label>] {
        &self.labels
    }

    /// Whether each token is one of its example's rather than padding, `[size, tokens]`.
    pub fn key_mask(&self) -> Vec<bool> {
        self.lengths.iter().flat_map(|&length| (0..self.tokens).map(move |token| token < length)).collect()
    }
}

/// Examples that are padded to the same length together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The padded length.
    pub tokens: usize,
    /// Indices of the examples, ascending.
    pub rows: Vec<usize>,
}

/// Groups examples by length rounded up to a multiple of `multiple` (but at most the longest length), at most `size` a bucket.
///
/// Every index occurs in exactly one bucket; buckets are ordered by padded length, then by first index, so the result is a
/// function of the lengths. Zero for `multiple` or `size` counts as 1.
pub fn buckets_by_length(lengths: &[usize], multiple: usize, size: usize) -> Vec<Bucket> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let padded = |index: usize| lengths[index].next_multiple_of(multiple.max(1)).min(longest);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| padded(index));
    let groups = order.chunk_by(|&a, &b| padded(a) == padded(b));
    groups.flat_map(|g| g.chunks(size.max(1)).map(|rows| Bucket { tokens: padded(rows[0]), rows: rows.to_vec() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32]) -> Example {
        Example { ids: ids.to_vec(), type_ids: vec![0; ids.len()], label: Some(Label::Class(ids[0] % 2)) }
    }

    #[test]
    fn rows_are_padded_on_the_right_and_masked() {
        let batch = Batch::padded_to_longest(&[example(&[5]), example(&[6, 7, 8])], 9).expect("a batch");
        assert_eq!((batch.size(), batch.tokens()), (2, 3));
        assert_eq!(batch.ids(), [5, 9, 9, 6, 7, 8]);
        assert_eq!(batch.key_mask(), [true, false, false, true, true, true]);
        assert_eq!(batch.labels(), [Some(Label::Class(1)), Some(Label::Class(0))]);
    }

    #[test]
    fn what_is_no_batch_is_an_error_naming_the_row() {
        assert_eq!(Batch::padded_to_longest(&[], 0), Err(BatchError::Empty));
        let empty = Example::default();
        assert_eq!(Batch::new([&example(&[1]), &empty], 4, 0), Err(BatchError::NoTokens { row: 1 }));
        assert_eq!(Batch::new(&[example(&[1, 2])], 1, 0), Err(BatchError::TooLong { row: 0, found: 2, most: 1 }));
        let uneven = Example { type_ids: vec![0], ..example(&[1, 2]) };
        assert_eq!(Batch::new([&uneven], 2, 0), Err(BatchError::TypeCount { row: 0, ids: 2, types: 1 }));
        let spec = ModelSpec { token_types: 1, ..ModelSpec::bert_tiny_5k() };
        let unknown = Batch::padded_to_longest(&[example(&[1]), example(&[5_500])], 0).expect("a batch");
        assert!(matches!(unknown.check(&spec), Err(BatchError::OutOfTable { row: 1, what: "token id", found: 5_500, .. })));
        let typed = Example { type_ids: vec![1], ..example(&[1]) };
        let typed = Batch::padded_to_longest(&[typed], 0).expect("a batch");
        assert!(matches!(typed.check(&spec), Err(BatchError::OutOfTable { what: "token type", .. })));
        let long = Batch::new(&[example(&[1])], 129, 0).expect("a batch");
        assert!(matches!(long.check(&spec), Err(BatchError::TooLong { found: 129, most: 128, .. })));
    }

    #[test]
    fn buckets_hold_every_example_once_and_waste_less_than_the_multiple() {
        let lengths: Vec<usize> = (0..200).map(|i: usize| 1 + (i * 7919) % 61).collect();
        let buckets = buckets_by_length(&lengths, 8, 16);
        let mut seen: Vec<usize> = buckets.iter().flat_map(|bucket| bucket.rows.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        for bucket in &buckets {
            assert!(bucket.rows.len() <= 16 && bucket.rows.is_sorted());
            assert!(bucket.rows.iter().all(|&row| lengths[row] <= bucket.tokens && bucket.tokens - lengths[row] < 8));
        }
        assert!(buckets.iter().all(|bucket| bucket.tokens <= 61));
        assert!(buckets_by_length(&[], 0, 0).is_empty());
    }
}

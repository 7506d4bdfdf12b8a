//! From text to token ids and padded batches.

mod batch;
mod encoder;

pub use batch::{Batch, BatchError, Bucket, Example, Label, buckets_by_length};
pub use encoder::{Encoded, MAX_TOKENIZER_BYTES, TextEncoder, TextError};

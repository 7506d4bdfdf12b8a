//! WordPiece and byte-level BPE tokenizers, with Hugging Face's truncation.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::{Example, Label};
use crate::{Architecture, ModelSpec};

/// Largest `tokenizer.json` that is read, in bytes.
pub const MAX_TOKENIZER_BYTES: usize = 64 << 20;

/// Why a text has no token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Not a tokenizer this program can run.
    #[error("tokenizer.json: {0}")]
    Malformed(String),
    /// A maximal length that cannot be kept.
    #[error("max_length is {max_length}, but must be from {least} (the special tokens) to {most} (the model's positions)")]
    MaxLength {
        /// As given.
        max_length: usize,
        /// Special tokens of a pair, and one token.
        least: usize,
        /// The model's positions.
        most: usize,
    },
    /// The tokenizer gives ids that the model's word table does not have.
    #[error("the tokenizer gives token id {id}, but the model's vocabulary has {vocab}: they do not belong together")]
    Vocabulary {
        /// The id.
        id: u32,
        /// Rows of the word table.
        vocab: usize,
    },
    /// The tokenizer refused a text.
    #[error("tokenization failed: {0}")]
    Encode(String),
}

/// Token ids with special tokens, and the sentence (0 or 1) each belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// One id a token.
    pub ids: Vec<u32>,
    /// One token type a token; all 0 for RoBERTa.
    pub type_ids: Vec<u8>,
}

impl Encoded {
    /// The example of these tokens.
    pub fn into_example(self, label: Option<Label>) -> Example {
        Example { ids: self.ids, type_ids: self.type_ids, label }
    }
}

/// A tokenizer for one model and one maximal length.
///
/// Equals `AutoTokenizer(text, pair, truncation=True, max_length=…)` of the same `tokenizer.json`, whatever padding and truncation the
/// file itself asks for.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    architecture: Architecture,
    vocab: usize,
    max_length: usize,
    added: [usize; 2],
}

impl TextEncoder {
    /// The tokenizer of a `tokenizer.json` file.
    pub fn load(path: &Path, spec: &ModelSpec, max_length: usize) -> Result<Self, TextError> {
        let io = |source| TextError::Io { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(io)?.len();
        if length > MAX_TOKENIZER_BYTES as u64 {
            return Err(TextError::Malformed(format!("{length} bytes, more than {MAX_TOKENIZER_BYTES}")));
        }
        Self::from_bytes(&fs::read(path).map_err(io)?, spec, max_length)
    }

    /// The tokenizer of a `tokenizer.json` in memory. `max_length` counts special tokens.
    pub fn from_bytes(json: &[u8], spec: &ModelSpec, max_length: usize) -> Result<Self, TextError> {
        if json.len() > MAX_TOKENIZER_BYTES {
            return Err(TextError::Malformed(format!("{} bytes, more than {MAX_TOKENIZER_BYTES}", json.len())));
        }
        let tokenizer = parse(json)?;
        let count = |pair| tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair));
        let added = guarded(|| [false, true].map(count)).ok_or_else(|| TextError::Malformed(PANICKED.to_owned()))?;
        if added[0] == 0 {
            return Err(TextError::Malformed("no post-processor adds special tokens".to_owned()));
        }
        let (least, most) = (added[1] + 1, spec.max_tokens());
        if !(least..=most).contains(&max_length) {
            return Err(TextError::MaxLength { max_length, least, most });
        }
        let encoder = Self { tokenizer, architecture: spec.architecture, vocab: spec.vocab, max_length, added };
        // A template that names tokens it does not define shows only in use.
        match (encoder.encode("", None), encoder.encode("", Some(""))) {
            (Err(error @ TextError::Encode(_)), _) | (_, Err(error @ TextError::Encode(_))) => Err(error),
            _ => Ok(encoder),
        }
    }

    /// The tokens of a text or a pair of texts, at most `max_length`.
    pub fn encode(&self, text: &str, pair: Option<&str>) -> Result<Encoded, TextError> {
        guarded(|| self.encode_unguarded(text, pair)).unwrap_or_else(|| Err(TextError::Encode(PANICKED.to_owned())))
    }

    fn encode_unguarded(&self, text: &str, pair: Option<&str>) -> Result<Encoded, TextError> {
        let failed = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let mut first = self.tokenizer.encode(text, false).map_err(failed)?;
        let mut second = pair.map(|pair| self.tokenizer.encode(pair, false)).transpose().map_err(failed)?;
        let room = self.max_length - self.added[usize::from(pair.is_some())];
        let (a, b) = longest_first(first.len(), second.as_ref().map_or(0, tokenizers::Encoding::len), room);
        first.truncate(a, 0, TruncationDirection::Right);
        if let Some(second) = &mut second {
            second.truncate(b, 0, TruncationDirection::Right);
            // A sequence encoded by itself is of type 0; templates set types, but BERT's own post-processor keeps what it is given.
            second.set_type_ids(vec![1; second.len()]);
        }
        let whole = self.tokenizer.post_process(first, second, true).map_err(failed)?;
        self.finish(&whole)
    }

    /// The id of a token such as `[CLS]` or `<pad>`, if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The most tokens of one example, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    fn finish(&self, encoding: &tokenizers::Encoding) -> Result<Encoded, TextError> {
        let ids = encoding.get_ids().to_vec();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
            return Err(TextError::Vocabulary { id, vocab: self.vocab });
        }
        let type_ids = match self.architecture {
            Architecture::Bert => encoding.get_type_ids().iter().map(|&id| u8::from(id != 0)).collect(),
            Architecture::Roberta => vec![0; ids.len()],
        };
        Ok(Encoded { ids, type_ids })
    }
}

const PANICKED: &str = "the file contradicts itself";

/// What `f` gives, or `None` if it panicked.
///
/// The `tokenizers` crate indexes and unwraps by what a `tokenizer.json` says, and such a file comes from a stranger. It keeps no state but
/// caches behind locks, which refuse after a panic, so nothing half-changed is seen.
fn guarded<T>(f: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(f)).ok()
}

/// The tokenizer of a `tokenizer.json` without its padding, truncation and decoder, which have no use here.
fn parse(json: &[u8]) -> Result<Tokenizer, TextError> {
    let malformed = |error: &dyn fmt::Display| TextError::Malformed(error.to_string());
    let mut value: serde_json::Value = serde_json::from_slice(json).map_err(|e| malformed(&e))?;
    let Some(fields) = value.as_object_mut() else {
        return Err(TextError::Malformed("not an object".to_owned()));
    };
    for unused in ["padding", "truncation", "decoder"] {
        fields.insert(unused.to_owned(), serde_json::Value::Null);
    }
    let bytes = serde_json::to_vec(&value).map_err(|e| malformed(&e))?;
    let loaded = guarded(|| Tokenizer::from_bytes(bytes).map_err(|e| malformed(&e)));
    loaded.unwrap_or_else(|| Err(TextError::Malformed(PANICKED.to_owned())))
}

impl fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TextEncoder");
        shown.field("architecture", &self.architecture).field("vocab", &self.vocab).field("max_length", &self.max_length);
        shown.finish_non_exhaustive()
    }
}

/// Lengths after removing tokens from the longer of two sequences until both fit in `room` together.
///
/// Where both must shrink, the shorter keeps `⌊room/2⌋` and the longer the rest; the second counts as the longer of equals. Source: the
/// `tokenizers` crate's `truncate_encodings`, applied to the whole sequences as transformers' fast tokenizers did when the golden ids were
/// made; `encode` of `tokenizers` 0.23 cuts each sequence to `max_length` first, which moves the odd token of some pairs.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let short = first.min(second).min(room / 2);
    let long = room - short;
    if first > second { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests {
    use tokenizers::{TruncationParams, truncate_encodings};

    use super::*;

    const TOKENIZER: &[u8] = include_bytes!("../../../../workflows/quickstart/bert-tiny-5k/tokenizer.json");

    fn encoder(max_length: usize) -> TextEncoder {
        TextEncoder::from_bytes(TOKENIZER, &ModelSpec::bert_tiny_5k(), max_length).expect("the quickstart's tokenizer")
    }

    /// The tokenizer with its file's own padding and truncation on, as all-MiniLM-L6-v2's is.
    fn padded() -> Vec<u8> {
        let mut json: serde_json::Value = serde_json::from_slice(TOKENIZER).expect("JSON");
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
        json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        serde_json::to_vec(&json).expect("JSON")
    }

    #[test]
    fn the_files_own_padding_and_truncation_are_switched_off() {
        let text = "you have won a prize in the draw";
        let plain = encoder(128).encode(text, None).expect("tokens");
        let spec = ModelSpec::bert_tiny_5k();
        let other = TextEncoder::from_bytes(&padded(), &spec, 128).expect("tokenizer").encode(text, None).expect("tokens");
        assert_eq!(plain, other);
        assert_eq!((plain.ids[0], plain.ids.last()), (2, Some(&3)));
    }

    #[test]
    fn truncation_equals_the_tokenizers_crates_longest_first() {
        let words = |n: usize| vec!["the"; n].join(" ");
        for max_length in 4..12 {
            let ours = encoder(max_length);
            let plain = Tokenizer::from_bytes(TOKENIZER).expect("tokenizer");
            for (a, b) in (0..10).flat_map(|a| (0..10).map(move |b| (a, b))) {
                let (text, pair) = (words(a), words(b));
                let [first, second] = [&text, &pair].map(|text| plain.encode(text.as_str(), false).expect("tokens"));
                let params = TruncationParams { max_length: max_length - 3, ..TruncationParams::default() };
                let (first, second) = truncate_encodings(first, Some(second), &params).expect("truncation");
                let expected = plain.post_process(first, second, true).expect("special tokens");
                let found = ours.encode(&text, Some(&pair)).expect("tokens");
                assert_eq!(found.ids, expected.get_ids(), "{a} and {b} words in {max_length} tokens");
                let single = ours.encode(&text, None).expect("tokens");
                assert_eq!(single.ids.len(), max_length.min(a + 2));
            }
        }
    }

    #[test]
    fn lengths_that_cannot_be_kept_are_errors() {
        let spec = ModelSpec::bert_tiny_5k();
        for max_length in [0, 3, 129] {
            let error = TextEncoder::from_bytes(TOKENIZER, &spec, max_length).expect_err("does not fit");
            assert!(matches!(error, TextError::MaxLength { least: 4, most: 128, .. }), "{error}");
        }
    }

    #[test]
    fn a_tokenizer_of_another_vocabulary_is_an_error() {
        let spec = ModelSpec { vocab: 10, ..ModelSpec::bert_tiny_5k() };
        let encoder = TextEncoder::from_bytes(TOKENIZER, &spec, 128).expect("ids are seen when they occur");
        assert!(matches!(encoder.encode("the", None), Err(TextError::Vocabulary { vocab: 10, .. })));
    }

    #[test]
    fn malformed_tokenizers_are_errors() {
        let spec = ModelSpec::bert_tiny_5k();
        for bytes in [&b""[..], b"{}", b"[1, 2]", &TOKENIZER[..TOKENIZER.len() / 2]] {
            assert!(matches!(TextEncoder::from_bytes(bytes, &spec, 128), Err(TextError::Malformed(_))));
        }
    }

    /// A small tokenizer whose post-processor is a template, as most hub models' is.
    fn templated() -> serde_json::Value {
        let mut json: serde_json::Value = serde_json::from_slice(&padded()).expect("JSON");
        let vocab = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
        vocab.retain(|_, id| id.as_u64().is_some_and(|id| id < 60));
        let token = |token: &str, kind: u32| serde_json::json!({"SpecialToken": {"id": token, "type_id": kind}});
        let text = |name: &str, kind: u32| serde_json::json!({"Sequence": {"id": name, "type_id": kind}});
        let (cls, sep) = (token("[CLS]", 0), token("[SEP]", 0));
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [cls, text("A", 0), sep],
            "pair": [cls, text("A", 0), sep, text("B", 1), token("[SEP]", 1)],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
        });
        json
    }

    fn load_and_encode(json: &[u8]) -> Result<Encoded, TextError> {
        let encoder = TextEncoder::from_bytes(json, &ModelSpec::bert_tiny_5k(), 16)?;
        encoder.encode("a b [SEP] c\u{e9}!", Some("d"))
    }

    /// Every node outside the vocabulary, as a JSON pointer.
    fn pointers(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            serde_json::Value::Object(fields) if !at.ends_with("/vocab") => {
                fields.iter().for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), found));
            }
            serde_json::Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| pointers(value, &format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }

    #[test]
    fn no_byte_changed_in_a_tokenizer_makes_loading_or_encoding_panic() {
        let bytes = serde_json::to_vec(&templated()).expect("JSON");
        assert_eq!(load_and_encode(&bytes).expect("token ids").type_ids.last(), Some(&1));
        let mut noise = crate::conformance::Noise::new(3);
        let symbols = b"0123456789{}[]\",:-eEntf";
        let mut refused = 0;
        for _ in 0..3_000 {
            let mut mutated = bytes.clone();
            for _ in 0..=noise.below(2) {
                let at = noise.below(mutated.len());
                mutated[at] = symbols[noise.below(symbols.len())];
            }
            refused += usize::from(load_and_encode(&mutated).is_err());
        }
        assert!(refused > 300, "only {refused} of 3000 mutated tokenizers were refused");
    }

    #[test]
    fn no_value_changed_in_a_tokenizer_makes_loading_or_encoding_panic() {
        let json = templated();
        let mut places = Vec::new();
        pointers(&json, "", &mut places);
        let strange = serde_json::json!([null, true, 0, -1, 4_294_967_296_u64, 1e300, "", "x", "[CLS]", [], {}, [[]]]);
        let mut refused = 0;
        for place in &places {
            for value in strange.as_array().expect("a list") {
                let mut changed = json.clone();
                *changed.pointer_mut(place).expect("the place exists") = value.clone();
                refused += usize::from(load_and_encode(&serde_json::to_vec(&changed).expect("JSON")).is_err());
            }
        }
        assert!(refused > places.len(), "only {refused} changes at {} places were refused", places.len());
    }
}

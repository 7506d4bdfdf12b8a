//! The bytes of a split, little-endian:
//!
//! ```text
//! magic     8   "SPRINTDS"
//! version   u16 1
//! id bytes  u8  2 or 4, by the vocabulary
//! labels    u8  0 none, 1 classes, 2 scores
//! rows      u64
//! tokens    u64 of all rows
//! lengths   u16 × rows
//! ids       u16 or u32 × tokens
//! types     u8  × tokens
//! labels    u32 or f32 × rows
//! ```
//!
//! The reader takes no length on trust: the header decides the file's exact size, which is compared before anything is allocated.

use sprint_model::{Example, Label};

const MAGIC: &[u8; 8] = b"SPRINTDS";
const VERSION: u16 = 1;
const HEADER: usize = 28;

/// Why bytes are not a split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("it does not begin as one")]
    Magic,
    #[error("it has version {0}, this program reads {VERSION}")]
    Version(u16),
    #[error("a field of its header is out of range")]
    Header,
    #[error("it has {found} bytes in place of {want}")]
    Size { want: u64, found: u64 },
    #[error("row {row} has a length, token, type or label out of range")]
    Row { row: usize },
}

/// What a split's values are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) vocab: usize,
    pub(super) max_length: usize,
    pub(super) classes: usize,
}

/// The bytes of `examples`; all are labelled alike (the first decides), and none is longer than 65,535 tokens.
pub(super) fn write(examples: &[Example], vocab: usize) -> Vec<u8> {
    let wide = vocab > 1 << 16;
    let labels: u8 = match examples.first().and_then(|e| e.label) {
        None => 0,
        Some(Label::Class(_)) => 1,
        Some(Label::Score(_)) => 2,
    };
    let tokens: usize = examples.iter().map(|e| e.ids.len()).sum();
    let mut out = Vec::with_capacity(HEADER + examples.len() * 6 + tokens * 5);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[if wide { 4 } else { 2 }, labels]);
    out.extend_from_slice(&(examples.len() as u64).to_le_bytes());
    out.extend_from_slice(&(tokens as u64).to_le_bytes());
    for example in examples {
        let length = u16::try_from(example.ids.len()).expect("max_length is checked to be below 65,536");
        out.extend_from_slice(&length.to_le_bytes());
    }
    for id in examples.iter().flat_map(|e| &e.ids) {
        match u16::try_from(*id) {
            Ok(short) if !wide => out.extend_from_slice(&short.to_le_bytes()),
            _ => out.extend_from_slice(&id.to_le_bytes()),
        }
    }
    for example in examples {
        out.extend_from_slice(&example.type_ids);
    }
    for example in examples {
        match example.label {
            Some(Label::Class(class)) => out.extend_from_slice(&class.to_le_bytes()),
            Some(Label::Score(score)) => out.extend_from_slice(&score.to_le_bytes()),
            None => {}
        }
    }
    out
}

/// The examples in `bytes`.
pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Vec<Example>, CodecError> {
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err(CodecError::Magic);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let (id_bytes, label_kind) = (usize::from(bytes[10]), bytes[11]);
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (rows, tokens) = (long(12), long(20));
    if !matches!(id_bytes, 2 | 4) || label_kind > 2 {
        return Err(CodecError::Header);
    }
    let label_bytes: u64 = if label_kind == 0 { 0 } else { 4 };
    let per_row = rows.checked_mul(2 + label_bytes);
    let per_token = tokens.checked_mul(id_bytes as u64 + 1);
    let want =
        per_row.zip(per_token).and_then(|(r, t)| r.checked_add(t)?.checked_add(HEADER as u64)).ok_or(CodecError::Header)?;
    if want != bytes.len() as u64 {
        return Err(CodecError::Size { want, found: bytes.len() as u64 });
    }
    // Both fit memory: they were just found to be the file's own size.
    let (rows, tokens) = (rows as usize, tokens as usize);
    let (lengths, rest) = bytes[HEADER..].split_at(2 * rows);
    let (ids, rest) = rest.split_at(id_bytes * tokens);
    let (types, labels) = rest.split_at(tokens);
    let mut examples = Vec::with_capacity(rows);
    let mut at = 0;
    for (row, length) in lengths.chunks_exact(2).enumerate() {
        let bad = CodecError::Row { row };
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        if length == 0 || length > limits.max_length || length > tokens - at {
            return Err(bad);
        }
        let id = |b: &[u8]| {
            if id_bytes == 2 { u32::from(u16::from_le_bytes([b[0], b[1]])) } else { u32::from_le_bytes([b[0], b[1], b[2], b[3]]) }
        };
        let ids: Vec<u32> = ids[id_bytes * at..id_bytes * (at + length)].chunks_exact(id_bytes).map(id).collect();
        let type_ids = types[at..at + length].to_vec();
        at += length;
        let label = (label_kind > 0).then(|| <[u8; 4]>::try_from(&labels[4 * row..4 * row + 4]).expect("four bytes"));
        let label = label
            .map(|b| if label_kind == 1 { Label::Class(u32::from_le_bytes(b)) } else { Label::Score(f32::from_le_bytes(b)) });
        let label_fits = match label {
            Some(Label::Class(class)) => (class as usize) < limits.classes,
            Some(Label::Score(score)) => score.is_finite() && limits.classes == 0,
            None => true,
        };
        if !label_fits || ids.iter().any(|id| *id as usize >= limits.vocab) {
            return Err(bad);
        }
        examples.push(Example { ids, type_ids, label });
    }
    if at == tokens { Ok(examples) } else { Err(CodecError::Header) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { vocab: 100, max_length: 4, classes: 2 };

    fn examples(scores: bool) -> Vec<Example> {
        let label = |n: u32| Some(if scores { Label::Score(n as f32 / 2.0) } else { Label::Class(n) });
        vec![
            Example { ids: vec![2, 99, 3], type_ids: vec![0, 0, 0], label: label(1) },
            Example { ids: vec![2, 5, 3, 7], type_ids: vec![0, 0, 1, 1], label: label(0) },
        ]
    }

    #[test]
    fn examples_read_back() {
        assert_eq!(read(&write(&examples(false), 100), LIMITS), Ok(examples(false)));
        let scores = Limits { classes: 0, ..LIMITS };
        assert_eq!(read(&write(&examples(true), 100), scores), Ok(examples(true)));
        assert_eq!(read(&write(&[], 100), LIMITS), Ok(Vec::new()));
    }

    #[test]
    fn ids_beyond_sixteen_bits_are_kept() {
        let wide = vec![Example { ids: vec![70_000, 3], type_ids: vec![0, 0], label: None }];
        let limits = Limits { vocab: 70_001, ..LIMITS };
        assert_eq!(read(&write(&wide, limits.vocab), limits), Ok(wide));
    }

    #[test]
    fn no_damage_of_one_byte_gives_values_out_of_range_or_a_panic() {
        let good = write(&examples(false), 100);
        for at in 0..good.len() {
            for flip in [1_u8, 0x40, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                for example in read(&bytes, LIMITS).unwrap_or_default() {
                    assert!(example.ids.iter().all(|id| *id < 100) && example.ids.len() <= 4);
                    assert_eq!(example.ids.len(), example.type_ids.len());
                    assert!(matches!(example.label, None | Some(Label::Class(0 | 1))));
                }
            }
            assert!(read(&good[..at], LIMITS).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn announced_sizes_are_not_believed() {
        let mut bytes = write(&examples(false), 100);
        bytes[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(read(&bytes, LIMITS), Err(CodecError::Header));
        bytes[12..20].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(read(&bytes, LIMITS), Err(CodecError::Size { .. })));
    }
}

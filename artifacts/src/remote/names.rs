//! The names of a remote's objects.

use crate::digest::Digest;
use crate::records::{ActionKey, ResultId};

pub(super) fn blob(digest: &Digest) -> String {
    by_digest("v1/blobs", digest)
}

pub(super) fn sealed(digest: &Digest) -> String {
    by_digest("v1/sealed", digest)
}

fn by_digest(area: &str, digest: &Digest) -> String {
    let hex = digest.to_hex();
    format!("{area}/b3/{}/{hex}", &hex[..2])
}

pub(super) fn first(key: &ActionKey) -> String {
    format!("{}/first", results(key))
}

pub(super) fn alternative(key: &ActionKey, result: &ResultId) -> String {
    format!("{}/alt/{}", results(key), result.to_hex())
}

fn results(key: &ActionKey) -> String {
    let hex = key.to_hex();
    format!("v1/results/{}/{hex}", &hex[..2])
}

/// The folder of an action's checkpoints.
pub(super) fn checkpoints(key: &ActionKey) -> String {
    format!("v1/checkpoints/{}/", key.to_hex())
}

pub(super) fn checkpoint(key: &ActionKey, sequence: u64, digest: &Digest) -> String {
    format!("{}{sequence:010}-{}", checkpoints(key), digest.to_hex())
}

/// The sequence number and digest in a checkpoint's name.
pub(super) fn parse_checkpoint(key: &ActionKey, name: &str) -> Option<(u64, Digest)> {
    let (sequence, hex) = name.strip_prefix(&checkpoints(key))?.split_once('-')?;
    Some((sequence.parse().ok()?, Digest::from_hex(hex).ok()?))
}

/// The folder of an action's ledgers.
pub(super) fn ledgers(key: &ActionKey) -> String {
    format!("v1/ledgers/{}/", key.to_hex())
}

pub(super) fn base(key: &ActionKey, ledger: &str, length: u64) -> String {
    format!("{}{ledger}/base-{length:012}", ledgers(key))
}

pub(super) fn line(key: &ActionKey, ledger: &str, offset: u64) -> String {
    format!("{}{ledger}/at-{offset:012}", ledgers(key))
}

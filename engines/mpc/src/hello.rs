//! The handshake: both ends of every link prove that they are in the same session before any share moves.
//!
//! ```text
//! "SPRTFLOW"  version u32  me u8  peer u8  0 0   session[32]  model[32]  program[32]  batch[32]        (144 bytes)
//! ```
//!
//! Each end sends its own, compares the other's field by field, and sends a verdict: 0, or the number of the field that differs. All
//! fields are public, so both ends may name it.

use crate::error::{Field, RoleError};
use crate::net::{Kind, Link, What};
use crate::{BatchId, Digest, Role, SessionId};

const MAGIC: &[u8; 8] = b"SPRTFLOW";
/// Version of everything on the wire; a change of any format changes it.
pub(crate) const PROTOCOL_VERSION: u32 = 2;
const HELLO: usize = 16 + 4 * 32;

/// What all roles of a session must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The session.
    pub session: SessionId,
    /// The model.
    pub model: Digest,
    /// The programs, with ring and encodings.
    pub program: Digest,
    /// The supply of dealer material.
    pub batch: BatchId,
}

/// One field with its text for people.
type Row<'a> = (Field, &'a [u8], fn(&[u8]) -> String);

fn encode(binding: &Binding, me: Role, peer: Role) -> [u8; HELLO] {
    let mut hello = [0; HELLO];
    hello[..8].copy_from_slice(MAGIC);
    hello[8..12].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    (hello[12], hello[13]) = (me.code(), peer.code());
    let names = [binding.session.as_bytes(), binding.model.as_bytes(), binding.program.as_bytes(), binding.batch.as_bytes()];
    for (slot, name) in hello[16..].chunks_exact_mut(32).zip(names) {
        slot.copy_from_slice(name);
    }
    hello
}

fn rows(hello: &[u8; HELLO]) -> [Row<'_>; 7] {
    let version = |b: &[u8]| b.try_into().map(u32::from_le_bytes).map_or_else(|_| hex::encode(b), |v| v.to_string());
    [
        (Field::Protocol, &hello[..8], |b| String::from_utf8_lossy(b).into_owned()),
        (Field::Version, &hello[8..12], version),
        (Field::Role, &hello[12..16], |b| hex::encode(b)),
        (Field::Session, &hello[16..48], |b| hex::encode(b)),
        (Field::Model, &hello[48..80], |b| hex::encode(b)),
        (Field::Program, &hello[80..112], |b| hex::encode(b)),
        (Field::Batch, &hello[112..], |b| hex::encode(b)),
    ]
}

/// Runs the handshake on a fresh link.
pub(crate) async fn shake(link: &mut Link, me: Role, binding: &Binding) -> Result<(), RoleError> {
    let peer = link.peer();
    let ours = encode(binding, me, peer);
    let theirs = link.exchange(Kind::Hello, &ours, HELLO, What::Hello).await?;
    let theirs: [u8; HELLO] = theirs.try_into().expect("the link delivers the length asked for");
    // Seen from the other end, it is `peer` and we are the peer.
    let due = encode(binding, peer, me);
    let (due, theirs) = (rows(&due), rows(&theirs));
    let found = due.iter().zip(&theirs).position(|(d, t)| d.1 != t.1);
    let verdict = found.map_or(0, |i| i as u8 + 1);
    let answer = link.exchange(Kind::Verdict, &[verdict], 1, What::Hello).await?[0];
    let differs = found.or_else(|| (answer as usize).checked_sub(1).filter(|i| *i < due.len()));
    match differs {
        None if answer == 0 => Ok(()),
        None => Err(RoleError::Handshake { me, peer, field: Field::Protocol, ours: "0".into(), theirs: answer.to_string() }),
        Some(i) => {
            let (field, bytes, text) = due[i];
            Err(RoleError::Handshake { me, peer, field, ours: text(bytes), theirs: text(theirs[i].1) })
        }
    }
}

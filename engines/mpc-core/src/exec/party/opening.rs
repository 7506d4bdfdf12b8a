//! Openings: `x̂ = x + r` is exchanged in Z_2^n, and a share of `x` in a wider ring comes back.

use std::sync::Arc;

use sprint_kernel::{pack, packed_len, unpack};

use super::{MISSING, Party, Value};
use crate::exec::material::{blocks, node_bytes, take};
use crate::exec::randomness::{Purpose, low};
use crate::program::{NodeId, Op};
use crate::{MachineError, MaterialSource, PartyId};

/// One opening between this party's frame and the peer's.
pub(super) struct Pending {
    /// This party's masked words, as sent.
    masked: Vec<u64>,
    /// Its share of the mask; none for bits.
    mask: Vec<u64>,
    /// Material.
    correction: Vec<u8>,
}

impl Party {
    /// Masks every operand of an exchange and packs the frame.
    pub(super) fn mask(&mut self, opens: &[NodeId], material: &mut dyn MaterialSource) -> Result<Vec<u8>, MachineError> {
        let program = Arc::clone(&self.program);
        let mut frame = Vec::with_capacity(opens.iter().map(|id| program.frame_bytes(*id)).sum());
        let mut pending = Vec::with_capacity(opens.len());
        for id in opens {
            let node = program.node(*id);
            let correction = take(material, node_bytes(&program, node)[self.party.index()])?;
            let mut masked = self.pool.empty(node.len);
            let mut mask = Vec::new();
            match node.op {
                Op::Open { src, bits, lifted, .. } => {
                    let bias = if lifted && self.first() { 1u64 << (bits - 2) } else { 0 };
                    mask = self.pool.empty(node.len);
                    self.streams.fill(*id, Purpose::Mask, 0, 0, node.len, &mut mask);
                    let words = self.words(src)?.iter().zip(&mask);
                    masked.extend(words.map(|(x, r)| x.wrapping_add(*r).wrapping_add(bias) & low(bits)));
                }
                Op::OpenBits { src, .. } => {
                    let Some(Value::Bits(bits)) = &self.values[src.index()] else { return Err(MISSING) };
                    let mask = self.streams.bits(*id, node.len);
                    masked.extend(bits.iter().zip(&mask).map(|(b, t)| u64::from(*b) ^ t));
                }
                _ => return Err(MachineError::OutOfStep("only openings are exchanged")),
            }
            pack(program.open_bits(*id), &masked, &mut frame);
            pending.push(Pending { masked, mask, correction });
        }
        self.pending = Some(pending);
        Ok(frame)
    }

    /// Adds the peer's masked words to the own ones and derives shares of the opened values. The frame has the program's length.
    pub(super) fn unmask(&mut self, opens: &[NodeId], frame: &[u8]) -> Result<(), MachineError> {
        let pending = self.pending.take().ok_or(MachineError::OutOfStep("a frame came before one was sent"))?;
        let program = Arc::clone(&self.program);
        let mut rest = frame;
        for (id, own) in opens.iter().zip(pending) {
            let len = program.node(*id).len;
            let bits = program.open_bits(*id);
            let (part, after) = rest.split_at(program.frame_bytes(*id));
            rest = after;
            let mut theirs = self.pool.empty(len);
            unpack(bits, part, len, &mut theirs).map_err(|_| MachineError::OutOfStep("the peer's frame is not packed words"))?;
            let Pending { masked: mut hat, mask, correction } = own;
            let value = match program.node(*id).op {
                Op::Open { lifted, .. } => {
                    hat.iter_mut().zip(&theirs).for_each(|(a, b)| *a = a.wrapping_add(*b) & low(bits));
                    self.unmask_words(*id, hat, mask, bits, lifted, &correction)?
                }
                Op::OpenBits { bits: width, .. } => {
                    hat.iter_mut().zip(&theirs).for_each(|(a, b)| *a ^= b);
                    self.unmask_bits(*id, hat, width, &correction)?
                }
                _ => return Err(MachineError::OutOfStep("only openings are exchanged")),
            };
            self.pool.give(theirs);
            self.values[id.index()] = Some(value);
        }
        Ok(())
    }

    /// `hat` comes biased if lifted, `mask` becomes the share.
    fn unmask_words(
        &self,
        id: NodeId,
        mut hat: Vec<u64>,
        mut mask: Vec<u64>,
        bits: u32,
        lifted: bool,
        correction: &[u8],
    ) -> Result<Value, MachineError> {
        let public = if self.first() { u64::MAX } else { 0 };
        if !lifted {
            mask.iter_mut().zip(&hat).for_each(|(r, h)| *r = (h & public).wrapping_sub(*r));
            return Ok(Value::Opened { hat, share: mask });
        }
        let bias = 1u64 << (bits - 2);
        let mut rest = correction;
        for (from, len) in blocks(hat.len()) {
            let [carry, top] = self.carry_and_top(id, from, len, 64 - bits, &mut rest)?;
            let range = from..from + len;
            for (((h, r), carry), top) in hat[range.clone()].iter_mut().zip(&mut mask[range]).zip(&carry).zip(&top) {
                // x = biased - bias - (r_0 + r_1) + 2^n·(carry + k·top), k = 1 - msb of the biased opening.
                let k = (*h >> (bits - 1)).wrapping_sub(1);
                let wraps = carry.wrapping_add(top & k) << bits;
                let unbiased = h.wrapping_sub(bias);
                *r = (unbiased & public).wrapping_sub(*r & low(bits)).wrapping_add(wraps);
                *h = unbiased & low(bits);
            }
        }
        Ok(Value::Opened { hat, share: mask })
    }

    fn carry_and_top(
        &self,
        id: NodeId,
        from: usize,
        len: usize,
        bits: u32,
        rest: &mut &[u8],
    ) -> Result<[Vec<u64>; 2], MachineError> {
        if self.party == PartyId::P0 {
            return Ok([Purpose::Carry, Purpose::Top].map(|p| self.streams.words(id, p, 0, from, len)));
        }
        let size = packed_len(bits, len);
        let (both, after) = rest.split_at_checked(2 * size).unwrap_or_default();
        *rest = after;
        let (carry, top) = both.split_at_checked(size).unwrap_or_default();
        Ok([unpacked(bits, carry, len)?, unpacked(bits, top, len)?])
    }

    fn unmask_bits(&mut self, id: NodeId, hat: Vec<u64>, width: u32, correction: &[u8]) -> Result<Value, MachineError> {
        let first = self.first();
        let mut share = self.pool.empty(hat.len());
        match self.party {
            PartyId::P0 => self.streams.fill(id, Purpose::Carry, 0, 0, hat.len(), &mut share),
            PartyId::P1 => {
                let mut rest = correction;
                for (_, len) in blocks(hat.len()) {
                    let (part, after) = rest.split_at_checked(packed_len(width, len)).unwrap_or_default();
                    rest = after;
                    unpack(width, part, len, &mut share).map_err(material)?;
                }
            }
        }
        let public = if first { u64::MAX } else { 0 };
        // b = b̂ + t·(1 - 2b̂)
        share.iter_mut().zip(&hat).for_each(|(t, h)| *t = (h & public).wrapping_add(t.wrapping_mul(1u64.wrapping_sub(2 * h))));
        Ok(Value::OpenedBits { share, hat })
    }
}

pub(super) fn unpacked(bits: u32, bytes: &[u8], len: usize) -> Result<Vec<u64>, MachineError> {
    let mut out = Vec::with_capacity(len);
    unpack(bits, bytes, len, &mut out).map_err(material)?;
    Ok(out)
}

fn material(error: sprint_kernel::PackError) -> MachineError {
    MachineError::Material(error.to_string())
}

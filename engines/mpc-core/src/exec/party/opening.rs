//! Openings: `x̂ = x + r` is exchanged in Z_2^n, and a share of `x` in a wider ring comes back.

use std::sync::Arc;

use sprint_kernel::{pack, packed_len, unpack, words as kernel};

use super::{MISSING, Party, Value};
use crate::exec::material::{block_bytes, blocks, take};
use crate::exec::randomness::Purpose;
use crate::exec::wiped::Wiped;
use crate::program::{NodeId, Op};
use crate::{MachineError, MaterialSource, PartyId};

/// One opening between this party's frame and the peer's.
pub(super) struct Pending {
    /// This party's masked words, as sent.
    masked: Vec<u64>,
    /// Its share of the mask; none for bits.
    mask: Wiped<u64>,
    /// Material, by block.
    corrections: Vec<Vec<u8>>,
}

impl Party {
    /// Masks every operand of an exchange and packs the frame.
    pub(super) fn mask(&mut self, opens: &[NodeId], material: &mut dyn MaterialSource) -> Result<Vec<u8>, MachineError> {
        let program = Arc::clone(&self.program);
        let mut frame = Vec::with_capacity(opens.iter().map(|id| program.frame_bytes(*id)).sum());
        let mut pending = Vec::with_capacity(opens.len());
        for id in opens {
            let node = program.node(*id);
            let corrections =
                blocks(node.len).map(|(_, len)| take(material, block_bytes(&program, node, len)[self.party.index()]));
            let corrections = corrections.collect::<Result<Vec<_>, _>>()?;
            if node.op.is_private() {
                self.send_private(*id, node, &mut frame)?;
                pending.push(Pending { masked: Vec::new(), mask: Wiped::default(), corrections });
                continue;
            }
            let mut masked = self.pool.empty(node.len);
            let mut mask = Wiped::default();
            match node.op {
                Op::Open { src, bits, lifted, .. } => {
                    let bias = if lifted && self.first() { 1u64 << (bits - 2) } else { 0 };
                    mask = self.pool.empty(node.len).into();
                    self.streams.fill(*id, Purpose::Mask, 0, 0, node.len, &mut mask);
                    masked.extend_from_slice(self.words(src)?);
                    kernel::masked(&mut masked, &mask, bias, bits);
                }
                Op::OpenBits { src, .. } => {
                    let Some(Value::Bits(bits)) = &self.values[src.index()] else { return Err(MISSING) };
                    let mask = self.streams.bits(*id, node.len);
                    masked.extend(bits.iter().zip(mask.iter()).map(|(b, t)| u64::from(*b) ^ t));
                }
                _ => return Err(MachineError::OutOfStep("only openings are exchanged")),
            }
            pack(program.open_bits(*id), &masked, &mut frame);
            pending.push(Pending { masked, mask, corrections });
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
            if program.node(*id).op.is_private() {
                let out = self.pool.empty(len);
                let value = self.receive_private(*id, program.node(*id), part, &own.corrections, out)?;
                self.values[id.index()] = Some(value);
                continue;
            }
            let mut theirs = self.pool.empty(len);
            unpack(bits, part, len, &mut theirs).map_err(|_| MachineError::OutOfStep("the peer's frame is not packed words"))?;
            let Pending { masked: mut hat, mask, corrections } = own;
            let value = match program.node(*id).op {
                Op::Open { lifted, .. } => {
                    kernel::opened(&mut hat, &theirs, bits);
                    self.unmask_words(*id, hat, mask.keep(), bits, lifted, &corrections)?
                }
                Op::OpenBits { bits: width, .. } => {
                    hat.iter_mut().zip(&theirs).for_each(|(a, b)| *a ^= b);
                    self.unmask_bits(*id, hat, width, &corrections)?
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
        corrections: &[Vec<u8>],
    ) -> Result<Value, MachineError> {
        let public = if self.first() { u64::MAX } else { 0 };
        if !lifted {
            kernel::share(&mut mask, &hat, public);
            return Ok(Value::Opened { hat, share: mask });
        }
        let wide = self.program.share_bits(id);
        let mut parts = [Wiped::default(), Wiped::default()];
        for ((from, len), correction) in blocks(hat.len()).zip(corrections) {
            self.carry_and_top((id, from, len), wide - bits, correction, &mut parts)?;
            let range = from..from + len;
            kernel::lifted_share(&mut mask[range.clone()], &mut hat[range], &parts[0], &parts[1], bits, public);
        }
        Ok(Value::Opened { hat, share: mask })
    }

    /// Shares of the carry and of the top bit of a block's masks, in Z_2^bits.
    fn carry_and_top(
        &self,
        (id, from, len): (NodeId, usize, usize),
        bits: u32,
        correction: &[u8],
        parts: &mut [Wiped<u64>; 2],
    ) -> Result<(), MachineError> {
        let mut rest = correction;
        for (part, purpose) in parts.iter_mut().zip([Purpose::Carry, Purpose::Top]) {
            part.clear();
            part.reserve_exact(len);
            if self.party == PartyId::P0 {
                self.streams.fill(id, purpose, 0, from, len, part);
                continue;
            }
            let (packed, after) = rest.split_at_checked(packed_len(bits, len)).unwrap_or_default();
            rest = after;
            unpack(bits, packed, len, part).map_err(material)?;
        }
        Ok(())
    }

    fn unmask_bits(&mut self, id: NodeId, hat: Vec<u64>, width: u32, corrections: &[Vec<u8>]) -> Result<Value, MachineError> {
        let first = self.first();
        let mut share = self.pool.empty(hat.len());
        match self.party {
            PartyId::P0 => self.streams.fill(id, Purpose::Carry, 0, 0, hat.len(), &mut share),
            PartyId::P1 => {
                for ((_, len), correction) in blocks(hat.len()).zip(corrections) {
                    unpack(width, correction, len, &mut share).map_err(material)?;
                }
            }
        }
        let public = if first { u64::MAX } else { 0 };
        // b = b̂ + t·(1 - 2b̂)
        kernel::bit_share(&mut share, &hat, public);
        Ok(Value::OpenedBits { share, hat })
    }
}

pub(super) fn unpacked(bits: u32, bytes: &[u8], len: usize) -> Result<Vec<u64>, MachineError> {
    let mut out = Vec::with_capacity(len);
    unpack(bits, bytes, len, &mut out).map_err(material)?;
    Ok(out)
}

pub(super) fn material(error: sprint_kernel::PackError) -> MachineError {
    MachineError::Material(error.to_string())
}

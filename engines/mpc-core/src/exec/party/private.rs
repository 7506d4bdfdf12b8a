//! A party's side of scalar products of private vectors ([`crate::exec::private`]).

use sprint_kernel::{pack, packed_len, unpack, words as kernel};

use super::opening::material as unfit;
use super::{Party, Value};
use crate::exec::material::blocks;
use crate::exec::private::{self, blocks_of};
use crate::exec::randomness::{Purpose, low};
use crate::exec::wiped::Wiped;
use crate::program::{Choice, Node, NodeId, Op};
use crate::{MachineError, PartyId};

impl Party {
    /// The elements this party sends words for.
    fn sends(&self, node: &Node) -> (usize, usize) {
        match node.op {
            Op::Reshare { .. } => private::masked_by(node.len, self.party.index()),
            Op::Digits { .. } | Op::Translate { .. } => private::masked_by(node.len, self.party.peer().index()),
            _ => (0, node.len),
        }
    }

    /// The elements the other sends words for.
    fn receives(&self, node: &Node) -> (usize, usize) {
        match node.op {
            Op::Reshare { .. } => private::masked_by(node.len, self.party.peer().index()),
            Op::Digits { .. } | Op::Translate { .. } => private::masked_by(node.len, self.party.index()),
            _ => (0, node.len),
        }
    }

    /// Appends this party's masked vectors.
    pub(super) fn send_private(&self, id: NodeId, node: &Node, frame: &mut Vec<u8>) -> Result<(), MachineError> {
        let (widths, _) = private::lanes(&self.program, node);
        let end = frame.len() + self.program.frame_bytes(id);
        let mut mask = Wiped::default();
        for (from, len) in blocks_of(self.sends(node)) {
            let vectors = self.vectors(&node.op, from, len)?;
            for (lane, (mut words, bits)) in vectors.into_iter().zip(&widths).enumerate() {
                mask.clear();
                mask.reserve_exact(len);
                self.streams.fill(id, lane_purpose(&node.op), lane, from, len, &mut mask);
                if private::is_binary_lane(&node.op, lane) {
                    words.iter_mut().zip(mask.iter()).for_each(|(w, m)| *w ^= m);
                } else {
                    kernel::add(&mut words, &mask);
                }
                pack(*bits, &words, frame);
            }
        }
        frame.resize(end, 0);
        Ok(())
    }

    /// What this party knows of the factors of `len` elements, an array for each lane.
    fn vectors(&self, op: &Op, from: usize, len: usize) -> Result<Vec<Wiped<u64>>, MachineError> {
        let first = self.first();
        let block = |id: NodeId| Ok::<_, MachineError>(&self.words(id)?[from..from + len]);
        Ok(match op {
            Op::Reshare { src, .. } => vec![block(*src)?.to_vec().into()],
            Op::Digits { src, scales } => vec![private::digit_vectors(scales, block(*src)?)],
            Op::Translate { src, basis, .. } => private::of_opened(&self.program, basis, block(*src)?),
            Op::Boolean { src, formulas } => vec![private::factors(formulas, block(*src)?, first)],
            Op::Select { choices, .. } => {
                let mut out = Vec::new();
                for choice in choices {
                    out.extend(self.choice(choice, from, len)?);
                }
                out
            }
            Op::Extend { src, from: ring, bias, .. } => {
                let bias = if first { *bias } else { 0 };
                vec![block(*src)?.iter().map(|x| x.wrapping_add(bias) >> (ring - 1) & 1).collect()]
            }
            _ => Vec::new(),
        })
    }

    /// This party's bits of a choice, and its shares of the value with the sign `1 - 2b`.
    fn choice(&self, choice: &Choice, from: usize, len: usize) -> Result<[Wiped<u64>; 2], MachineError> {
        let (words, values) = (&self.words(choice.bits)?[from..from + len], &self.words(choice.value)?[from..from + len]);
        let bits: Wiped<u64> = words.iter().map(|w| private::chosen(choice, *w)).collect();
        let signed = values.iter().zip(bits.iter()).map(|(x, b)| x.wrapping_mul(1u64.wrapping_sub(2 * b))).collect();
        Ok([bits, signed])
    }

    /// The share of a node from the other's vectors and the dealer's corrections.
    pub(super) fn receive_private(
        &self,
        id: NodeId,
        node: &Node,
        part: &[u8],
        corrections: &[Vec<u8>],
        mut out: Vec<u64>,
    ) -> Result<Value, MachineError> {
        let (widths, _) = private::lanes(&self.program, node);
        let dealt = self.start(id, node, corrections, &mut out)?;
        let mut rest = part;
        let mut received: Vec<Vec<u64>> = vec![Vec::new(); widths.len()];
        for (from, len) in blocks_of(self.receives(node)) {
            for (words, bits) in received.iter_mut().zip(&widths) {
                let (packed, after) = rest.split_at_checked(packed_len(*bits, len)).unwrap_or_default();
                rest = after;
                words.clear();
                unpack(*bits, packed, len, words).map_err(unfit)?;
            }
            match &node.op {
                Op::Select { choices, .. } => {
                    self.select((id, choices), from, (&dealt, &received), &mut out[from..from + len])?;
                }
                Op::Extend { .. } => self.extend((id, &node.op), from, &received[0], &mut out[from..from + len])?,
                op => self.multiply((id, op), from, &received, &mut out[from..from + len])?,
            }
        }
        Ok(Value::Words(out))
    }

    /// What a party has before it hears from the other: dealt shares, and its own part. The dealt shares of a selection come apart.
    fn start(
        &self,
        id: NodeId,
        node: &Node,
        corrections: &[Vec<u8>],
        out: &mut Vec<u64>,
    ) -> Result<Vec<Wiped<u64>>, MachineError> {
        let (count, bits) = private::dealt(&node.op);
        let mut dealt: Vec<Wiped<u64>> = (0..count).map(|_| Vec::with_capacity(node.len).into()).collect();
        for (array, words) in dealt.iter_mut().enumerate() {
            match self.party {
                PartyId::P0 => {
                    let (purpose, at) = private::dealt_stream(&node.op, array);
                    self.streams.fill(id, purpose, at, 0, node.len, words);
                }
                PartyId::P1 => {
                    for ((_, len), bytes) in blocks(node.len).zip(corrections) {
                        let size = packed_len(bits, len);
                        unpack(bits, bytes.get(array * size..(array + 1) * size).unwrap_or_default(), len, words)
                            .map_err(unfit)?;
                    }
                }
            }
        }
        match dealt.as_slice() {
            [one] => out.extend(one.iter().map(|w| w & low(bits))),
            _ => out.resize(node.len, 0),
        }
        let first = self.first();
        let (start, count) = private::masked_by(node.len, self.party.index());
        match &node.op {
            // The holder of a mask has it from its own stream.
            Op::Reshare { bits, .. } => {
                let mask = self.streams.words(id, Purpose::Mask, 0, start, count);
                out[start..start + count].iter_mut().zip(mask.iter()).for_each(|(o, m)| *o = m & low(*bits));
            }
            Op::Digits { src, scales } => {
                let words = self.words(*src)?;
                for (holder, (from, len)) in private::halves(node.len, 0, node.len).into_iter().enumerate() {
                    let own = &words[from..from + len];
                    let holds_mask = holder == self.party.index();
                    let tops = if holds_mask { private::mask_tops(scales, own) } else { private::own_tops(scales, own) };
                    xor(&mut out[from..from + len], &tops);
                }
            }
            Op::Translate { basis, .. } if first => {
                let constant = private::constant(&self.program, basis);
                out.iter_mut().for_each(|o| *o = o.wrapping_add(constant));
            }
            Op::Boolean { src, formulas } => xor(out, &private::own_formulas(formulas, self.words(*src)?, first)),
            Op::Select { choices, .. } => {
                for choice in choices {
                    let pairs = self.words(choice.bits)?.iter().zip(self.words(choice.value)?);
                    let add = |(o, (w, x)): (&mut u64, (&u64, &u64))| {
                        *o = o.wrapping_add(private::chosen(choice, *w).wrapping_mul(*x));
                    };
                    out.iter_mut().zip(pairs).for_each(add);
                }
            }
            _ => {}
        }
        Ok(dealt)
    }

    /// Adds the product of this party's vectors, or of its masks, with those received.
    fn multiply(&self, (id, op): (NodeId, &Op), from: usize, received: &[Vec<u64>], out: &mut [u64]) -> Result<(), MachineError> {
        let len = out.len();
        let mask = |lane: usize| self.streams.words(id, lane_purpose(op), lane, from, len);
        match op {
            Op::Reshare { src, bits } => {
                let own = &self.words(*src)?[from..from + len];
                out.iter_mut().zip(own).zip(&received[0]).for_each(|((o, x), y)| *o = x.wrapping_add(*y) & low(*bits));
            }
            Op::Digits { src, scales } => {
                let own = &self.words(*src)?[from..from + len];
                xor(out, &private::fields(scales, own, &received[0]));
            }
            Op::Translate { src, basis, .. } => {
                let own = private::of_mask(&self.program, basis, &self.words(*src)?[from..from + len]);
                own.iter().zip(received).for_each(|(u, v)| kernel::add_products(out, u, v));
            }
            Op::Boolean { formulas, .. } => {
                let own = if self.first() { self.vectors(op, from, len)?.swap_remove(0) } else { mask(0) };
                xor(out, &private::by_formula(formulas, &own, &received[0]));
            }
            _ => {}
        }
        Ok(())
    }

    /// A choice's bit times the other's signed shares, and the other's bit times this party's: which choice is selected shows in neither.
    fn select(
        &self,
        (id, choices): (NodeId, &[Choice]),
        from: usize,
        (dealt, received): (&[Wiped<u64>], &[Vec<u64>]),
        out: &mut [u64],
    ) -> Result<(), MachineError> {
        let len = out.len();
        let own_array = self.party.index();
        for (at, choice) in choices.iter().enumerate() {
            let [bits, signed] = self.choice(choice, from, len)?;
            let masks = self.streams.words(id, Purpose::Product, 2 * at, from, len);
            let (their_bits, their_words) = (&received[2 * at], &received[2 * at + 1]);
            let own_dealt = &dealt[2 * at + own_array][from..from + len];
            let their_dealt = &dealt[2 * at + 1 - own_array][from..from + len];
            for (i, out) in out.iter_mut().enumerate() {
                let (c, theirs) = (masks[i] & 1, their_bits[i]);
                let own = bits[i] ^ c;
                let [own_sign, their_sign] = [own, theirs].map(|d| 1u64.wrapping_sub(2 * d));
                let by_own_bit = own_sign.wrapping_mul(c.wrapping_mul(their_words[i]).wrapping_sub(own_dealt[i]));
                let by_their_bit = theirs.wrapping_mul(signed[i]).wrapping_sub(their_sign.wrapping_mul(their_dealt[i]));
                *out = out.wrapping_add(by_own_bit).wrapping_add(by_their_bit);
            }
        }
        Ok(())
    }

    /// `x + bias = x_0 + x_1 - 2^from·(m_0 + m_1 - m_0·m_1)` with the top bits `m`; `out` comes with the dealt share of `c_0·c_1`.
    fn extend(&self, (id, op): (NodeId, &Op), from: usize, received: &[u64], out: &mut [u64]) -> Result<(), MachineError> {
        let Op::Extend { src, from: ring, bias, .. } = op else { return Ok(()) };
        let first = self.first();
        let bias = if first { *bias } else { 0 };
        let masks = self.streams.words(id, Purpose::Product, 0, from, out.len());
        let own = &self.words(*src)?[from..from + out.len()];
        for (i, out) in out.iter_mut().enumerate() {
            let x = own[i].wrapping_add(bias) & low(*ring);
            let (top, c, theirs) = (x >> (ring - 1), masks[i] & 1, received[i]);
            let d = top ^ c;
            let [sign, their_sign] = [d, theirs].map(|d| 1u64.wrapping_sub(2 * d));
            let both = out.wrapping_mul(sign).wrapping_mul(their_sign);
            let local = theirs.wrapping_mul(sign).wrapping_mul(c).wrapping_add(u64::from(first) * (d & theirs));
            let carries = both.wrapping_add(local).wrapping_sub(top);
            *out = x.wrapping_sub(bias).wrapping_add(carries << ring);
        }
        Ok(())
    }
}

fn xor(out: &mut [u64], words: &[u64]) {
    out.iter_mut().zip(words).for_each(|(o, w)| *o ^= w);
}

/// The stream of a lane's mask.
pub(in crate::exec) fn lane_purpose(op: &Op) -> Purpose {
    if matches!(op, Op::Reshare { .. }) { Purpose::Mask } else { Purpose::Product }
}

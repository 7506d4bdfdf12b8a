//! Products of opened values, by the algebra of [`crate::exec::monomial`].

use sprint_kernel::{gemm_add, gemm_nt_add, packed_len, unpack, words as kernel};

use super::opening::{material as unfit, unpacked};
use super::{MISSING, Party, Value};
use crate::exec::material::{blocks, product_bytes, take};
use crate::exec::monomial::{Expansion, Term};
use crate::exec::randomness::Purpose;
use crate::exec::wiped::Wiped;
use crate::program::{Form, Node, NodeId, Op, View};
use crate::{MachineError, MaterialSource, PartyId};

/// Elements whose factors stay in the first-level cache.
const CHUNK: usize = 512;

/// A form's opened words and share, not yet cut to a chunk.
struct Source<'a> {
    hat: &'a [u64],
    share: &'a [u64],
    view: View,
    kind: Kind,
}

/// What a form's public words mean.
#[derive(Clone, Copy)]
enum Kind {
    /// `x̂` of an opening used in its own ring.
    Plain,
    /// `x̂` of a lifted opening of so many bits.
    Lifted(u32),
    /// A masked bit, and whether its negation is meant.
    Bit { negated: bool },
}

/// A form's elements in a chunk. Term coefficients of `ρ`: `mask` is for bits (1 otherwise), `top` for lifted openings.
#[derive(Default)]
struct Factors<'a> {
    /// The source's own words, where they are the elements as they are; else they are in the field of that name.
    lent: Lent<'a>,
    public: Vec<u64>,
    share: Wiped<u64>,
    mask: Wiped<u64>,
    top: Wiped<u64>,
}

/// Words of a source that need no change.
#[derive(Default)]
struct Lent<'a> {
    public: Option<&'a [u64]>,
    share: Option<&'a [u64]>,
}

impl Party {
    /// This party's share of products of secret terms, from its stream, corrected by the dealer if it is party 1.
    pub(super) fn dealt(
        &self,
        id: NodeId,
        array: usize,
        from: usize,
        len: usize,
        bits: u32,
        bytes: &[u8],
    ) -> Result<Wiped<u64>, MachineError> {
        let mut out = Wiped::default();
        self.dealt_into((id, array), (from, len), bits, bytes, &mut out)?;
        Ok(out)
    }

    /// The same in the place of what `out` held.
    pub(super) fn dealt_into(
        &self,
        (id, array): (NodeId, usize),
        (from, len): (usize, usize),
        bits: u32,
        bytes: &[u8],
        out: &mut Vec<u64>,
    ) -> Result<(), MachineError> {
        out.clear();
        out.reserve_exact(len);
        match self.party {
            PartyId::P0 => self.streams.fill(id, Purpose::Product, array, from, len, out),
            PartyId::P1 => {
                let size = packed_len(bits, len);
                unpack(bits, bytes.get(array * size..(array + 1) * size).unwrap_or_default(), len, out).map_err(unfit)?;
            }
        }
        Ok(())
    }

    pub(super) fn product(
        &self,
        id: NodeId,
        node: &Node,
        forms: &[Form],
        bits: u32,
        material: &mut dyn MaterialSource,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        let expansion = Expansion::of(&self.program, forms);
        let sources = forms.iter().map(|f| self.source(f)).collect::<Result<Vec<_>, _>>()?;
        let mut factors: Vec<Factors<'_>> = forms.iter().map(|_| Factors::default()).collect();
        let mut rooms = [(); 2].map(|()| Wiped::zeros(CHUNK));
        let mut dealt: Vec<Wiped<u64>> = expansion.monomials.iter().map(|_| Wiped::default()).collect();
        for (from, len) in blocks(node.len) {
            let bytes = take(material, product_bytes(&expansion, bits, len)[self.party.index()])?;
            for (m, words) in dealt.iter_mut().enumerate() {
                self.dealt_into((id, m), (from, len), bits, &bytes, words)?;
            }
            for start in (0..len).step_by(CHUNK) {
                let count = CHUNK.min(len - start);
                sources.iter().zip(&mut factors).for_each(|(s, f)| f.load(s, self.first(), from + start, count));
                let at = out.len();
                own_part(&factors, self.first(), count, &mut rooms, &mut out);
                for summand in &expansion.summands {
                    let secret = &dealt[summand.monomial][start..start + count];
                    dealt_part(&factors, (&summand.choice, summand.negative), secret, &mut rooms[0], &mut out[at..]);
                }
            }
            material.reuse(bytes);
        }
        Ok(out)
    }

    fn source(&self, form: &Form) -> Result<Source<'_>, MachineError> {
        let view = form.view;
        if let Some(layer) = self.program.weight_of(form.open) {
            let (hat, share) = self.private.layer(layer).ok_or(MISSING)?;
            return Ok(Source { hat, share, view, kind: Kind::Plain });
        }
        match (&self.values[form.open.index()], &self.program.node(form.open).op) {
            (Some(Value::OpenedBits { hat, share }), _) => {
                Ok(Source { hat, share, view, kind: Kind::Bit { negated: form.negated } })
            }
            (Some(Value::Opened { hat, share }), Op::Open { bits, lifted, .. }) => {
                let kind = if *lifted { Kind::Lifted(*bits) } else { Kind::Plain };
                Ok(Source { hat, share, view, kind })
            }
            _ => Err(MISSING),
        }
    }

    pub(super) fn matmul(&self, id: NodeId, node: &Node, material: &mut dyn MaterialSource) -> Result<Vec<u64>, MachineError> {
        let Op::MatMul { a, b, batch, m, k, n, transposed, bits } = node.op else {
            return Err(MachineError::OutOfStep("not a product of matrices"));
        };
        let mut out = match self.party {
            PartyId::P0 => self.streams.words(id, Purpose::Product, 0, 0, node.len).keep(),
            PartyId::P1 => unpacked(bits, &take(material, packed_len(bits, node.len))?, node.len)?,
        };
        let (a_hat, a_share) = (self.hat(a)?, self.share(a)?);
        let (b_hat, b_share) = match self.program.weight_of(b) {
            Some(layer) => self.private.layer(layer).ok_or(MISSING)?,
            None => (self.hat(b)?, self.share(b)?),
        };
        let add = if transposed { gemm_nt_add } else { gemm_add };
        // ab = â·b + a·b̂ - â·b̂ + r_a·r_b; party 1 leaves out the public product.
        let mut left = Wiped::from(a_share.to_vec());
        if self.first() {
            kernel::subtract(&mut left, a_hat);
        }
        for i in 0..batch {
            let (a_at, b_at, o_at) = (i * m * k..(i + 1) * m * k, i * k * n..(i + 1) * k * n, i * m * n..(i + 1) * m * n);
            add(&left[a_at.clone()], &b_hat[b_at.clone()], m, k, n, &mut out[o_at.clone()]);
            add(&a_hat[a_at], &b_share[b_at], m, k, n, &mut out[o_at]);
        }
        Ok(out)
    }
}

impl<'a> Factors<'a> {
    fn load(&mut self, source: &Source<'a>, first: bool, from: usize, len: usize) {
        let Self { lent, public, share, mask, top } = self;
        [&mut *public, &mut **share, &mut **mask, &mut **top].into_iter().for_each(|list| {
            list.clear();
            list.reserve_exact(len);
        });
        let negated = matches!(source.kind, Kind::Bit { negated: true });
        let changed = negated || matches!(source.kind, Kind::Lifted(_));
        lent.public = source.view.stretch(source.hat, from, len).filter(|_| !changed);
        lent.share = source.view.stretch(source.share, from, len).filter(|_| !negated);
        if lent.public.is_none() {
            source.view.copy(source.hat, from, len, public);
        }
        if lent.share.is_none() {
            source.view.copy(source.share, from, len, share);
        }
        match source.kind {
            Kind::Plain => {}
            Kind::Lifted(bits) => {
                top.resize(len, 0);
                kernel::lifted_terms(public, top, bits);
            }
            Kind::Bit { negated } => {
                if negated {
                    public.iter_mut().for_each(|h| *h ^= 1);
                    share.iter_mut().for_each(|s| *s = u64::from(first).wrapping_sub(*s));
                }
                mask.extend(lent.public.unwrap_or(public).iter().map(|h| (2 * h).wrapping_sub(1)));
            }
        }
    }

    fn public(&self) -> &[u64] {
        self.lent.public.unwrap_or(&self.public)
    }

    fn share(&self) -> &[u64] {
        self.lent.share.unwrap_or(&self.share)
    }

    /// The words that a choice contributes; none if they are all 1.
    fn chosen(&self, choice: Option<Term>) -> Option<&[u64]> {
        match choice {
            None => Some(self.public()),
            Some(Term::Mask) if self.mask.is_empty() => None,
            Some(Term::Mask) => Some(&self.mask),
            Some(Term::Top) => Some(&self.top),
        }
    }
}

/// Appends `Σ_i x_i·Π_{j≠i} P_j`, and with the first party `(1-k)·Π P_i`.
fn own_part(factors: &[Factors<'_>], first: bool, len: usize, rooms: &mut [Wiped<u64>; 2], out: &mut Vec<u64>) {
    let at = out.len();
    out.resize(at + len, 0);
    let out = &mut out[at..];
    let [product, own] = rooms;
    for (i, form) in factors.iter().enumerate() {
        let others = factors.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, f)| f.public());
        if first && i > 0 {
            // (1-k)·Π P_i, one product with each form but the first.
            kernel::differences(&mut own[..len], form.share(), form.public());
            add_product(&own[..len], others, false, &mut product[..len], out);
        } else {
            add_product(form.share(), others, false, &mut product[..len], out);
        }
    }
}

/// Adds one summand: the dealer's monomial times the chosen coefficients.
fn dealt_part(
    factors: &[Factors<'_>],
    (choice, negative): (&[Option<Term>], bool),
    secret: &[u64],
    product: &mut [u64],
    out: &mut [u64],
) {
    let factors = factors.iter().zip(choice).filter_map(|(f, c)| f.chosen(*c));
    add_product(secret, factors, negative, &mut product[..secret.len()], out);
}

/// Adds `first·Π factors` to `out`, or takes it off; `room` is for what is between.
fn add_product<'a>(first: &[u64], factors: impl Iterator<Item = &'a [u64]>, negative: bool, room: &mut [u64], out: &mut [u64]) {
    let mut factors = factors;
    let Some(mut last) = factors.next() else {
        return if negative { kernel::subtract(out, first) } else { kernel::add(out, first) };
    };
    let mut begun = false;
    for next in factors {
        if begun {
            kernel::multiply(room, last);
        } else {
            kernel::products(room, first, last);
            begun = true;
        }
        last = next;
    }
    let product = if begun { &*room } else { first };
    if negative {
        kernel::subtract_products(out, product, last);
    } else {
        kernel::add_products(out, product, last);
    }
}

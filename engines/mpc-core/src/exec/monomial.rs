//! The algebra of products of opened values.
//!
//! An opened value is a *form* `x = P - ρ`: `P` is public, `ρ = Σ_t c_t·T_t` with public `c_t` and terms `T_t` that only the dealer knows.
//! - An arithmetic opening in Z_2^n: `P = x̂ - bias`, `ρ = r` (in Z_2^n), or lifted to Z_2^64 `ρ = r - 2^n·k·m` with `m = msb r` and the
//!   public bit `k = 1 - msb x̂`: the biased value `x + 2^{n-2}` is below `2^{n-1}`, so `x̂` wrapped exactly if `m·k = 1`.
//! - A private weight, opened before the inference, is an arithmetic opening in its own ring.
//! - A bit `b = b̂ ⊕ t`: `P = b̂`, `ρ = (2b̂ - 1)·t`. Its negation is the bit with `b̂ ⊕ 1`, under the same mask.
//!
//! The product of forms is
//! `Π x_i = (1-k)·Π P_i + Σ_i x_i·Π_{j≠i} P_j + Σ_{|S|≥2} (-1)^|S| Π_{i∉S} P_i · Π_{i∈S} ρ_i`,
//! where the first part needs the parties' shares of `x_i` alone and the last the dealer's shares of products of terms, the *monomials*.

use crate::program::{Form, Op, Program};

/// A secret term of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Term {
    /// The mask (or the masking bit).
    Mask,
    /// The mask's top bit.
    Top,
}

/// A product of terms of distinct forms, as `(form, term)` in order; idempotent bits appear once.
pub(crate) type Monomial = Vec<(usize, Term)>;

/// One summand: which terms its forms contribute (`None`: the public part), and which monomial that is.
#[derive(Debug, Clone)]
pub(crate) struct Summand {
    pub(crate) choice: Vec<Option<Term>>,
    pub(crate) monomial: usize,
    pub(crate) negative: bool,
}

/// All summands with at least two terms, and the distinct monomials they need.
#[derive(Debug, Clone)]
pub(crate) struct Expansion {
    pub(crate) monomials: Vec<Monomial>,
    pub(crate) summands: Vec<Summand>,
}

impl Expansion {
    pub(crate) fn of(program: &Program, forms: &[Form]) -> Self {
        let mut this = Self { monomials: Vec::new(), summands: Vec::new() };
        let options: Vec<Vec<Option<Term>>> = forms.iter().map(|f| options(program, f)).collect();
        let mut choice = Vec::new();
        this.expand(program, forms, &options, &mut choice);
        this
    }

    fn expand(&mut self, program: &Program, forms: &[Form], options: &[Vec<Option<Term>>], choice: &mut Vec<Option<Term>>) {
        let Some((head, rest)) = options.split_first() else {
            let chosen = choice.iter().flatten().count();
            if chosen >= 2 {
                let monomial = canonical(program, forms, choice);
                let monomial = self.monomials.iter().position(|m| *m == monomial).unwrap_or_else(|| {
                    self.monomials.push(monomial);
                    self.monomials.len() - 1
                });
                self.summands.push(Summand { choice: choice.clone(), monomial, negative: chosen % 2 == 1 });
            }
            return;
        };
        for option in head {
            choice.push(*option);
            self.expand(program, forms, rest, choice);
            choice.pop();
        }
    }
}

fn options(program: &Program, form: &Form) -> Vec<Option<Term>> {
    match program.node(form.open).op {
        Op::Open { lifted: true, .. } => vec![None, Some(Term::Mask), Some(Term::Top)],
        _ => vec![None, Some(Term::Mask)],
    }
}

/// Equal forms share one index, and a bit times itself is itself.
fn canonical(program: &Program, forms: &[Form], choice: &[Option<Term>]) -> Monomial {
    let same = |f: &Form, g: &Form| f.open == g.open && f.view == g.view;
    let first = |i: usize| forms.iter().position(|f| same(f, &forms[i])).unwrap_or(i);
    let mut list: Monomial = choice.iter().enumerate().filter_map(|(i, t)| t.map(|t| (first(i), t))).collect();
    list.sort_unstable();
    let is_bit = |(i, t): &(usize, Term)| *t == Term::Top || matches!(program.node(forms[*i].open).op, Op::OpenBits { .. });
    let mut out: Monomial = Vec::new();
    for factor in list {
        if !(is_bit(&factor) && out.last() == Some(&factor)) {
            out.push(factor);
        }
    }
    out
}

//! From a gate program to its form for three servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::{Compare, Dealt, Factor, Gate, GateId, GateNode, ReplicatedProgram, Step, communicates, dealt_bytes};
use super::server::Server;
use crate::CompileError;
use crate::program::{Form, Interval, NodeId, Op, Program, View, operands};

/// Bits of a block of a comparison: its tables fit a word.
const BLOCK: u32 = 6;

/// Bits that a choice in a small ring must save, over all elements, for the round that it takes more.
const CHOICE: usize = 1 << 22;

impl ReplicatedProgram {
    /// Translates a program.
    pub fn new(program: Arc<Program>) -> Result<Self, CompileError> {
        if program.alarms > 0 || program.calibration.is_some() {
            return Err(unsupported("mode calibrated"));
        }
        let mut plan = Translation::of(program);
        let program = Arc::clone(&plan.out.program);
        let needed = plan.needed();
        plan.bit_rings = bit_rings(&program, &needed);
        for (at, node) in program.nodes.iter().enumerate().filter(|(at, _)| needed[*at]) {
            plan.translate(NodeId(at as u32), &node.op)?;
        }
        let mut out = plan.out;
        out.output = out.additive[program.output.index()].ok_or_else(|| unsupported("a program whose output is an opening"))?;
        out.steps = schedule(&out.gates, &out.additive, &program, out.output);
        let form = format!("{:?} {:?} {:?} {:?}", out.gates, out.compares, out.steps, out.output);
        out.digest = blake3::derive_key("sprint-flow replicated program v2", &[&program.digest()[..], form.as_bytes()].concat());
        Ok(out)
    }
}

fn unsupported(what: &str) -> CompileError {
    CompileError::Unsupported {
        what: format!("{what} on three servers"),
        fix: "use mode exact, or two servers and a dealer".into(),
    }
}

struct Translation {
    out: ReplicatedProgram,
    /// Replicated values of openings in their own ring, and in a larger one.
    narrow: BTreeMap<NodeId, GateId>,
    wide: BTreeMap<NodeId, GateId>,
    /// Lifted openings, additive.
    lifted: BTreeMap<NodeId, GateId>,
    /// Opened bits as additive and as replicated words.
    words: BTreeMap<NodeId, (GateId, Option<GateId>)>,
    /// The ring that the words of opened bits are read in.
    bit_rings: BTreeMap<NodeId, u32>,
    /// Interval bits, replicated.
    bits: BTreeMap<NodeId, GateId>,
    /// Bytes that each owner deals so far.
    dealt: [usize; 3],
    /// The node being translated.
    node: NodeId,
}

impl Translation {
    fn of(program: Arc<Program>) -> Self {
        let additive = vec![None; program.nodes.len()];
        let (gates, compares, steps) = (Vec::new(), Vec::new(), Vec::new());
        let out = ReplicatedProgram { program, gates, compares, additive, steps, output: GateId(0), digest: [0; 32] };
        let none = BTreeMap::new;
        let (narrow, wide, lifted) = (none(), none(), none());
        Self {
            out,
            narrow,
            wide,
            lifted,
            words: BTreeMap::new(),
            bit_rings: BTreeMap::new(),
            bits: none(),
            dealt: [0; 3],
            node: NodeId(0),
        }
    }

    /// The nodes that lead to the output.
    fn needed(&self) -> Vec<bool> {
        let program = &self.out.program;
        let mut needed = vec![false; program.nodes.len()];
        let mut stack = vec![program.output];
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut needed[id.index()], true) {
                stack.extend(operands(&program.node(id).op));
            }
        }
        needed
    }

    fn push(&mut self, gate: Gate, len: usize) -> GateId {
        let operands = gate_operands(&gate, &self.out.additive, &self.out.program);
        let level = operands.iter().map(|id| self.ready(*id)).max().unwrap_or(0);
        let id = GateId(self.out.gates.len() as u32);
        self.out.gates.push(GateNode { gate, len, node: self.node, level });
        id
    }

    /// Messages after which a gate's value is there.
    fn ready(&self, id: GateId) -> u32 {
        let node = self.out.gate(id);
        node.level + u32::from(communicates(&node.gate))
    }

    fn len(&self, id: GateId) -> usize {
        self.out.gate(id).len
    }

    /// A deal in the round of the reshare of its operand, by whoever has dealt the least so far.
    fn deal(&mut self, src: GateId, what: Dealt, len: usize) -> GateId {
        let (root, owner) = self.out.root(src);
        let owner = owner.unwrap_or_else(|| {
            let least = *Server::ALL.iter().min_by_key(|s| self.dealt[s.index()]).expect("three servers");
            if let Gate::Reshare { owner, .. } | Gate::ReshareBits { owner, .. } = &mut self.out.gates[root.index()].gate {
                *owner = Some(least);
            }
            least
        });
        self.dealt[owner.index()] += dealt_bytes(&self.out.dealt_widths(what), len);
        let id = self.push(Gate::Deal { src, what, owner }, len);
        self.out.gates[id.index()].level = self.out.gate(root).level;
        id
    }

    fn translate(&mut self, id: NodeId, op: &Op) -> Result<(), CompileError> {
        self.node = id;
        let program = Arc::clone(&self.out.program);
        let len = program.node(id).len;
        let made = match op {
            // Made when somebody reads them.
            Op::PrivateWeight(_) | Op::OpenBits { .. } => return Ok(()),
            Op::Open { src, bits, .. } => {
                let src = self.additive(*src)?;
                let gate = self.push(Gate::Reshare { src, bits: *bits, owner: None }, len);
                self.narrow.insert(id, gate);
                return Ok(());
            }
            Op::Differences { src, count, pairs } => {
                let src = self.opened(*src, 0)?;
                let gate = self.push(Gate::Differences { src, count: *count, pairs: pairs.clone() }, len);
                self.narrow.insert(id, gate);
                return Ok(());
            }
            Op::Intervals { src, drop, intervals } => {
                let signs = self.intervals(*src, *drop, intervals)?;
                self.bits.insert(id, signs);
                return Ok(());
            }
            Op::Lift(src) => match program.node(*src).op {
                Op::OpenBits { .. } => self.bit_words(*src)?,
                Op::Open { lifted: true, .. } => self.lifted(*src)?,
                _ => {
                    let src = self.opened(*src, 0)?;
                    self.push(Gate::Own(src), len)
                }
            },
            Op::Product { forms, bits } => self.product(forms, *bits, len)?,
            Op::MatMul { a, b, bits, .. } => {
                let a = self.opened(*a, *bits)?;
                let b = match program.weight_of(*b) {
                    Some(layer) => self.push(Gate::Weight(layer), program.node(*b).len),
                    None => self.opened(*b, *bits)?,
                };
                self.push(Gate::MatMul { a, b, node: id }, len)
            }
            Op::Series { src, .. } => {
                let src = self.opened(*src, 0)?;
                let dealt = self.deal(src, Dealt::Series(id), len);
                self.push(Gate::Series { src, dealt }, len)
            }
            Op::Piecewise { src, .. } => {
                let src = self.opened(*src, 0)?;
                let dealt = self.deal(src, Dealt::Keys(id), self.len(src));
                self.push(Gate::Piecewise { src, dealt }, len)
            }
            Op::Polynomial { src, coefficients } => self.polynomial(*src, coefficients, len)?,
            Op::Alarm { .. } | Op::LiftCheck { .. } => return Err(unsupported("mode calibrated")),
            op if op.is_private() => return Err(unsupported("mode lean")),
            _ => self.push(Gate::Linear(id), len),
        };
        self.out.additive[id.index()] = Some(made);
        Ok(())
    }

    fn additive(&self, id: NodeId) -> Result<GateId, CompileError> {
        self.out.additive[id.index()].ok_or_else(|| unsupported("a linear operation on an opening"))
    }

    /// An opened value, replicated in at least `bits` bits.
    fn opened(&mut self, id: NodeId, bits: u32) -> Result<GateId, CompileError> {
        let own = *self.narrow.get(&id).ok_or_else(|| unsupported("an operand that is not opened"))?;
        if bits <= self.out.ring(own) {
            return Ok(own);
        }
        if let Some(wide) = self.wide.get(&id) {
            return Ok(*wide);
        }
        let src = self.lifted(id)?;
        let wide = self.push(Gate::Reshare { src, bits: self.out.program.share_bits(id), owner: None }, self.len(own));
        self.wide.insert(id, wide);
        Ok(wide)
    }

    /// A lifted opening, additive.
    fn lifted(&mut self, id: NodeId) -> Result<GateId, CompileError> {
        if let Some(lifted) = self.lifted.get(&id) {
            return Ok(*lifted);
        }
        let Op::Open { bits, lifted: true, share, .. } = self.out.program.node(id).op else {
            return Err(unsupported("a product in a ring larger than its operand's"));
        };
        let src = self.opened(id, 0)?;
        let len = self.len(src);
        let lifted = if share > bits {
            let dealt = self.deal(src, Dealt::Top { from: bits, to: share }, len);
            self.push(Gate::Lift { src, dealt }, len)
        } else {
            self.push(Gate::Own(src), len)
        };
        self.lifted.insert(id, lifted);
        Ok(lifted)
    }

    /// Bits that were to be opened, as additive words.
    fn bit_words(&mut self, id: NodeId) -> Result<GateId, CompileError> {
        if let Some((words, _)) = self.words.get(&id) {
            return Ok(*words);
        }
        let Op::OpenBits { src, .. } = self.out.program.node(id).op else {
            return Err(unsupported("a bit that is not opened"));
        };
        let planes = *self.bits.get(&src).ok_or_else(|| unsupported("bits of anything but intervals"))?;
        let len = self.out.program.node(id).len;
        let bits = self.bit_rings.get(&id).copied().unwrap_or(64);
        let dealt = self.deal(planes, Dealt::Bit { bits }, len);
        let words = self.push(Gate::Arithmetic { src: planes, dealt }, len);
        self.words.insert(id, (words, None));
        Ok(words)
    }

    fn factor(&mut self, form: &Form, bits: u32) -> Result<Factor, CompileError> {
        let gate = match self.out.program.node(form.open).op {
            Op::OpenBits { .. } => {
                let src = self.bit_words(form.open)?;
                let ring = self.bit_rings.get(&form.open).copied().unwrap_or(64);
                if let Some(gate) = self.words.get(&form.open).and_then(|w| w.1) {
                    gate
                } else {
                    let gate = self.push(Gate::Reshare { src, bits: ring, owner: None }, self.len(src));
                    self.words.insert(form.open, (src, Some(gate)));
                    gate
                }
            }
            Op::PrivateWeight(layer) => self.push(Gate::Weight(layer), self.out.program.node(form.open).len),
            _ => self.opened(form.open, bits)?,
        };
        Ok(Factor { gate, view: form.view, negated: form.negated })
    }

    /// A product; where bits choose one value of a small ring, in that ring, and lifted after.
    fn product(&mut self, forms: &[Form], bits: u32, len: usize) -> Result<GateId, CompileError> {
        let Some(own) = choice(&self.out.program, forms, bits, len) else { return self.products(forms, bits, len) };
        let src = self.products(forms, own, len)?;
        let src = self.push(Gate::Reshare { src, bits: own, owner: None }, len);
        let dealt = self.deal(src, Dealt::Top { from: own, to: bits }, len);
        Ok(self.push(Gate::Lift { src, dealt }, len))
    }

    /// A tree of products, of what is there first.
    fn products(&mut self, forms: &[Form], bits: u32, len: usize) -> Result<GateId, CompileError> {
        let mut factors = forms.iter().map(|f| self.factor(f, bits)).collect::<Result<Vec<_>, _>>()?;
        loop {
            // The last two are there first.
            factors.sort_by_key(|f| std::cmp::Reverse(self.ready(f.gate)));
            let (Some(a), Some(b)) = (factors.pop(), factors.pop()) else {
                return Err(unsupported("a product of one factor"));
            };
            let product = self.push(Gate::Multiply(a, b), len);
            if factors.is_empty() {
                return Ok(product);
            }
            let gate = self.push(Gate::Reshare { src: product, bits, owner: None }, len);
            factors.push(Factor { gate, view: View::ALL, negated: false });
        }
    }

    /// Powers by halves, and their combination.
    fn polynomial(&mut self, src: NodeId, coefficients: &[i64], len: usize) -> Result<GateId, CompileError> {
        let x = self.opened(src, 64)?;
        let whole = |gate| Factor { gate, view: View::ALL, negated: false };
        let degree = coefficients.len().saturating_sub(1);
        let mut powers = vec![x];
        let mut terms = Vec::new();
        for (p, coefficient) in coefficients.iter().enumerate().skip(1) {
            let own = if p == 1 {
                self.push(Gate::Own(x), len)
            } else {
                let (a, b) = (powers[p / 2 - 1], powers[p - p / 2 - 1]);
                let own = self.push(Gate::Multiply(whole(a), whole(b)), len);
                if 2 * p <= degree + 1 {
                    powers.push(self.push(Gate::Reshare { src: own, bits: 64, owner: None }, len));
                }
                own
            };
            terms.push((own, *coefficient));
        }
        Ok(self.push(Gate::Combination { terms, constant: coefficients.first().copied().unwrap_or(0) }, len))
    }

    /// Replicated planes of interval bits: `x ≥ c` is 1 less the top bit of `x - c`, for values and bounds in half of the range.
    fn intervals(&mut self, src: NodeId, drop: u32, intervals: &[Interval]) -> Result<GateId, CompileError> {
        let src = self.opened(src, 0)?;
        let bits = self.out.ring(src);
        let elements = self.len(src);
        let compare = compare(bits, drop, intervals, elements)?;
        let (planes, blocks, bounds) = (compare.plane(), compare.blocks.len(), compare.bounds.len());
        let at = self.out.compares.len();
        self.out.compares.push(compare);
        let dealt = self.deal(src, Dealt::Tables(at), elements);
        let mut carries = self.push(Gate::Blocks { src, dealt }, bounds * Compare::planes(blocks) * planes);
        let mut left = blocks;
        while left > 1 {
            let shared = self.push(Gate::ReshareBits { src: carries, owner: None }, self.len(carries));
            let next = left.div_ceil(2);
            let len = bounds * Compare::planes(next) * planes;
            carries = self.push(Gate::Combine { src: shared, compare: at, blocks: left }, len);
            left = next;
        }
        let signs = self.push(Gate::Signs { src, dealt, carries }, intervals.len() * planes);
        Ok(self.push(Gate::ReshareBits { src: signs, owner: None }, intervals.len() * planes))
    }
}

/// The ring of the one value that the other factors, which are bits, choose, if it is enough smaller: the value is a lifted opening, so where it is chosen
/// it is in half of its range, as 0 is.
fn choice(program: &Program, forms: &[Form], bits: u32, len: usize) -> Option<u32> {
    let is_bit = |f: &&Form| matches!(program.node(f.open).op, Op::OpenBits { .. });
    let mut values = forms.iter().filter(|f| !is_bit(f));
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    match program.node(value.open).op {
        Op::Open { bits: own, lifted: true, .. } if bits > own && len * (bits - own) as usize >= CHOICE => Some(own),
        _ => None,
    }
}

/// The ring that the words of each opened bit are read in.
fn bit_rings(program: &Program, needed: &[bool]) -> BTreeMap<NodeId, u32> {
    let mut rings = BTreeMap::new();
    let mut read = |id: NodeId, ring: u32| {
        if matches!(program.node(id).op, Op::OpenBits { .. }) {
            rings.entry(id).and_modify(|r: &mut u32| *r = ring.max(*r)).or_insert(ring);
        }
    };
    for node in program.nodes.iter().zip(needed).filter(|(_, needed)| **needed).map(|(node, _)| node) {
        match &node.op {
            Op::Product { forms, bits } => {
                let ring = choice(program, forms, *bits, node.len).unwrap_or(*bits);
                forms.iter().for_each(|f| read(f.open, ring));
            }
            Op::Lift(src) => {
                if let Op::OpenBits { bits, .. } = program.node(*src).op {
                    read(*src, bits);
                }
            }
            _ => {}
        }
    }
    rings
}

fn compare(bits: u32, drop: u32, intervals: &[Interval], elements: usize) -> Result<Compare, CompileError> {
    let width = bits.saturating_sub(drop);
    let limit = 1i64 << width.saturating_sub(2);
    let mut bounds = Vec::new();
    let mut at = |bound: i64| {
        bounds.iter().position(|b| *b == bound).unwrap_or_else(|| {
            bounds.push(bound);
            bounds.len() - 1
        })
    };
    let intervals = intervals.iter().map(|i| (i.lo.map(&mut at), i.hi.map(&mut at))).collect();
    if width < 3 || bounds.iter().any(|b| *b >= limit || *b <= -limit) {
        return Err(unsupported("an interval whose bounds are not in half of its range"));
    }
    let low = width - 1;
    let count = low.div_ceil(BLOCK).next_power_of_two();
    let blocks = (0..count).map(|j| low / count + u32::from(j < low % count)).collect();
    Ok(Compare { bits, drop, bounds, intervals, blocks, elements })
}

/// The gates that a gate reads.
pub(super) fn gate_operands(gate: &Gate, additive: &[Option<GateId>], program: &Program) -> Vec<GateId> {
    match gate {
        Gate::Linear(node) => operands(&program.node(*node).op).iter().filter_map(|id| additive[id.index()]).collect(),
        // A deal reads keys alone.
        Gate::Weight(_) | Gate::Deal { .. } => Vec::new(),
        Gate::Reshare { src, .. }
        | Gate::Own(src)
        | Gate::Differences { src, .. }
        | Gate::Combine { src, .. }
        | Gate::ReshareBits { src, .. } => vec![*src],
        Gate::Multiply(a, b) => vec![a.gate, b.gate],
        Gate::MatMul { a, b, .. } => vec![*a, *b],
        Gate::Lift { src, dealt }
        | Gate::Series { src, dealt }
        | Gate::Piecewise { src, dealt }
        | Gate::Blocks { src, dealt }
        | Gate::Arithmetic { src, dealt } => vec![*src, *dealt],
        Gate::Signs { src, dealt, carries } => vec![*src, *dealt, *carries],
        Gate::Combination { terms, .. } => terms.iter().map(|t| t.0).collect(),
    }
}

/// As soon as possible, level by level, without gates that do not lead to the output.
fn schedule(gates: &[GateNode], additive: &[Option<GateId>], program: &Program, output: GateId) -> Vec<Step> {
    let operands = |id: GateId| gate_operands(&gates[id.index()].gate, additive, program);
    let mut needed = vec![false; gates.len()];
    let mut stack = vec![output];
    while let Some(id) = stack.pop() {
        if !std::mem::replace(&mut needed[id.index()], true) {
            stack.extend(operands(id));
        }
    }
    let levels = gates.iter().map(|g| g.level as usize + 1).max().unwrap_or(1);
    let mut by_level = vec![(Vec::new(), Vec::new()); levels];
    for (at, node) in gates.iter().enumerate().filter(|(at, _)| needed[*at]) {
        let (local, exchanged) = &mut by_level[node.level as usize];
        if communicates(&node.gate) { exchanged } else { local }.push(GateId(at as u32));
    }
    let mut steps = Vec::new();
    for (local, exchanged) in by_level {
        steps.extend(local.into_iter().map(|gate| Step::Run { gate, last: Vec::new() }));
        if !exchanged.is_empty() {
            steps.push(Step::Exchange { gates: exchanged, last: Vec::new() });
        }
    }
    let mut seen = vec![false; gates.len()];
    seen[output.index()] = true;
    for step in steps.iter_mut().rev() {
        let (made, last) = match step {
            Step::Run { gate, last } => (vec![*gate], last),
            Step::Exchange { gates, last } => (gates.clone(), last),
        };
        for id in made.into_iter().flat_map(operands) {
            if !std::mem::replace(&mut seen[id.index()], true) {
                last.push(id);
            }
        }
    }
    steps
}

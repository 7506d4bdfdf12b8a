//! Appends nodes, giving equal nodes one id and every node its level.

use std::collections::BTreeMap;

use sprint_model::Calibration;

use super::{Form, Fourier, Input, Node, NodeId, Op, Pieces, Program, Recipe, Vector};

/// Collects a program. Equal operations on equal operands become one node, so a value that several gates need opened is opened once.
pub(crate) struct Builder {
    nodes: Vec<Node>,
    memo: BTreeMap<String, NodeId>,
    labels: Vec<String>,
    label: u32,
    pub(crate) public: Vec<Recipe>,
    pub(crate) private: Vec<Recipe>,
    vectors: Vec<Vector>,
    fits: Vec<Fourier>,
    pieces: Vec<Pieces>,
    inputs: Vec<Input>,
}

/// What a finished program says besides its nodes.
pub(crate) struct Finish {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
    pub(crate) outputs: usize,
    pub(crate) input_bits: u32,
    pub(crate) output_bits: u32,
    pub(crate) output_ring: u32,
    pub(crate) output: NodeId,
    pub(crate) key_mask: f64,
    pub(crate) alarms: usize,
    pub(crate) calibration: Option<Calibration>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            memo: BTreeMap::new(),
            labels: vec![String::from("input")],
            label: 0,
            public: Vec::new(),
            private: Vec::new(),
            vectors: Vec::new(),
            fits: Vec::new(),
            pieces: Vec::new(),
            inputs: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, part: &str) {
        self.label = self.labels.len() as u32;
        self.labels.push(part.to_owned());
    }

    pub(crate) fn len(&self, id: NodeId) -> usize {
        self.nodes[id.index()].len
    }

    pub(crate) fn op(&self, id: NodeId) -> &Op {
        &self.nodes[id.index()].op
    }

    pub(crate) fn push(&mut self, op: Op, len: usize) -> NodeId {
        let name = format!("{op:?}");
        if let Some(id) = self.memo.get(&name) {
            return *id;
        }
        let communicates = |id: &NodeId| self.nodes[id.index()].op.communicates();
        let level = operands(&op).iter().map(|id| self.nodes[id.index()].level + u32::from(communicates(id))).max().unwrap_or(0);
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { op, len, label: self.label, level });
        self.memo.insert(name, id);
        id
    }

    pub(crate) fn input(&mut self, input: Input, len: usize) -> NodeId {
        if !self.inputs.contains(&input) {
            self.inputs.push(input);
            self.inputs.sort_unstable();
        }
        self.push(Op::Input(input), len)
    }

    pub(crate) fn vector(&mut self, vector: Vector) -> u32 {
        intern(&mut self.vectors, vector)
    }

    pub(crate) fn fit(&mut self, fit: Fourier) -> u32 {
        intern(&mut self.fits, fit)
    }

    pub(crate) fn pieces(&mut self, pieces: Pieces) -> u32 {
        intern(&mut self.pieces, pieces)
    }

    pub(crate) fn public_recipe(&mut self, recipe: Recipe) -> u32 {
        intern(&mut self.public, recipe)
    }

    pub(crate) fn private_recipe(&mut self, recipe: Recipe) -> u32 {
        intern(&mut self.private, recipe)
    }

    pub(crate) fn finish(self, finish: Finish) -> Program {
        let program = Program {
            version: 3,
            batch: finish.batch,
            tokens: finish.tokens,
            hidden: finish.hidden,
            outputs: finish.outputs,
            input_bits: finish.input_bits,
            output_bits: finish.output_bits,
            output_ring: finish.output_ring,
            key_mask: finish.key_mask,
            alarms: finish.alarms,
            calibration: finish.calibration,
            nodes: self.nodes,
            output: finish.output,
            labels: self.labels,
            public: self.public,
            private: self.private,
            vectors: self.vectors,
            fits: self.fits,
            pieces: self.pieces,
            inputs: self.inputs,
            read: Vec::new(),
            steps: Vec::new(),
            digest: [0; 32],
            weights_digest: [0; 32],
        };
        program.sealed()
    }
}

fn intern<T: PartialEq>(list: &mut Vec<T>, item: T) -> u32 {
    let at = list.iter().position(|x| *x == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    });
    at as u32
}

/// The nodes an operation reads.
pub(crate) fn operands(op: &Op) -> Vec<NodeId> {
    match op {
        Op::Input(_) | Op::PrivateWeight(_) | Op::PrivateBias(_) => Vec::new(),
        Op::Add(a, b)
        | Op::Sub(a, b)
        | Op::MatMul { a, b, .. }
        | Op::Alarm { src: a, coins: b, .. }
        | Op::LiftCheck { wide: a, open: b, .. } => vec![*a, *b],
        Op::Scale(src, _) | Op::Shift(src, _) | Op::Lift(src) => vec![*src],
        Op::Concat(list) => list.clone(),
        Op::Product { forms, .. } => forms.iter().map(|f: &Form| f.open).collect(),
        Op::Truncate { src, .. }
        | Op::Gather { src, .. }
        | Op::ShiftGroups { src, .. }
        | Op::SumGroups { src, .. }
        | Op::Centre { src, .. }
        | Op::MulColumns { src, .. }
        | Op::AddColumns { src, .. }
        | Op::CentreColumns { src, .. }
        | Op::Differences { src, .. }
        | Op::PublicLinear { src, .. }
        | Op::Open { src, .. }
        | Op::OpenBits { src, .. }
        | Op::Intervals { src, .. }
        | Op::Series { src, .. }
        | Op::Polynomial { src, .. }
        | Op::Piecewise { src, .. }
        | Op::Reshare { src, .. }
        | Op::Digits { src, .. }
        | Op::Boolean { src, .. }
        | Op::Extend { src, .. }
        | Op::Translate { src, .. } => vec![*src],
        Op::Select { choices, .. } => choices.iter().flat_map(|c| [c.bits, c.value]).collect(),
    }
}

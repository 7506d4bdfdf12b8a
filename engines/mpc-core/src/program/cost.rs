//! What a program costs, from the program alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Op, Program, Step};
use crate::exec::material::node_bytes;

/// Rounds and bytes of one inference, exact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Exchanges between the parties.
    pub rounds: u32,
    /// Bytes each party sends the other.
    pub online_bytes: u64,
    /// Bytes of one-time material for each party, seeds not counted.
    pub dealer_bytes: [u64; 2],
    /// The same by kind of gate.
    pub by_gate: BTreeMap<String, KindCost>,
    /// The same by part of the model.
    pub by_layer: BTreeMap<String, KindCost>,
    /// Bytes of each exchange.
    pub frames: Vec<u64>,
}

/// The share of one kind of gate, or of one part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KindCost {
    /// Nodes.
    pub gates: u64,
    /// Elements.
    pub elements: u64,
    /// Bytes each party sends.
    pub online_bytes: u64,
    /// Bytes of material for both parties.
    pub dealer_bytes: u64,
}

impl Program {
    /// What one inference costs.
    pub fn cost(&self) -> Cost {
        let mut cost = Cost::default();
        for step in &self.steps {
            match step {
                Step::Run { node, .. } => self.count(&mut cost, *node, 0),
                Step::Exchange { opens, .. } => {
                    cost.rounds += 1;
                    let sizes: Vec<usize> = opens.iter().map(|id| self.frame_bytes(*id)).collect();
                    opens.iter().zip(&sizes).for_each(|(id, bytes)| self.count(&mut cost, *id, *bytes));
                    cost.frames.push(sizes.iter().sum::<usize>() as u64);
                }
            }
        }
        cost
    }

    fn count(&self, cost: &mut Cost, id: super::NodeId, online: usize) {
        let node = self.node(id);
        let dealer = node_bytes(self, node);
        cost.online_bytes += online as u64;
        cost.dealer_bytes[0] += dealer[0] as u64;
        cost.dealer_bytes[1] += dealer[1] as u64;
        let layer = self.labels[node.label as usize].clone();
        for entry in [cost.by_gate.entry(kind(&node.op).to_owned()).or_default(), cost.by_layer.entry(layer).or_default()] {
            entry.gates += 1;
            entry.elements += node.len as u64;
            entry.online_bytes += online as u64;
            entry.dealer_bytes += (dealer[0] + dealer[1]) as u64;
        }
    }
}

pub(super) fn kind(op: &Op) -> &'static str {
    match op {
        Op::Open { .. } => "open",
        Op::OpenBits { .. } => "open_bits",
        Op::Product { .. } => "product",
        Op::MatMul { .. } => "matmul",
        Op::Intervals { .. } => "interval",
        Op::Series { .. } => "series",
        Op::Polynomial { .. } => "polynomial",
        Op::Piecewise { .. } => "piecewise",
        Op::Alarm { .. } | Op::LiftCheck { .. } => "alarm",
        Op::PublicLinear { .. } => "public_linear",
        Op::Reshare { .. } => "reshare",
        Op::Digits { .. } => "digits",
        Op::Boolean { .. } => "boolean",
        Op::Select { .. } => "select",
        Op::Extend { .. } => "extend",
        Op::Translate { .. } => "translate",
        _ => "local",
    }
}

//! What a program for three servers costs, from the program alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Dealt, Gate, GateId, ReplicatedProgram, Step};
use super::server::Server;

/// Rounds and bytes of one inference, exact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicatedCost {
    /// Exchanges.
    pub rounds: u32,
    /// Bytes that each server sends.
    pub online_bytes: [u64; 3],
    /// Bytes that all servers send, by kind of gate.
    pub by_gate: BTreeMap<String, u64>,
    /// Bytes that all servers send, by part of the model.
    pub by_layer: BTreeMap<String, u64>,
}

impl ReplicatedProgram {
    /// What one inference costs.
    pub fn cost(&self) -> ReplicatedCost {
        let mut cost = ReplicatedCost::default();
        for step in &self.steps {
            let Step::Exchange { gates, .. } = step else { continue };
            cost.rounds += 1;
            gates.iter().for_each(|id| self.count(&mut cost, *id));
        }
        cost
    }

    fn count(&self, cost: &mut ReplicatedCost, id: GateId) {
        let node = self.gate(id);
        let mut total = 0;
        for server in Server::ALL {
            let (before, after) = self.message_bytes(id, server);
            cost.online_bytes[server.index()] += (before + after) as u64;
            total += (before + after) as u64;
        }
        let layer = self.program.labels[self.program.node(node.node).label as usize].clone();
        *cost.by_gate.entry(kind(&node.gate).to_owned()).or_default() += total;
        *cost.by_layer.entry(layer).or_default() += total;
    }
}

fn kind(gate: &Gate) -> &'static str {
    match gate {
        Gate::Reshare { .. } => "reshare",
        Gate::ReshareBits { .. } => "reshare_bits",
        Gate::Deal { what, .. } => match what {
            Dealt::Top { .. } => "lift",
            Dealt::Series(_) => "series",
            Dealt::Keys(_) => "look_up",
            Dealt::Tables(_) => "interval",
            Dealt::Bit { .. } => "bit",
        },
        _ => "local",
    }
}

//! What a program for three servers costs, from the program alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Dealt, Gate, GateId, ReplicatedProgram, Step};
use super::server::Server;
use crate::KindCost;

/// Rounds and bytes of one inference, exact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicatedCost {
    /// Exchanges.
    pub rounds: u32,
    /// Bytes that each server sends.
    pub online_bytes: [u64; 3],
    /// Messages by kind; bytes are those of all three servers.
    pub by_gate: BTreeMap<String, KindCost>,
    /// The same by part of the model.
    pub by_layer: BTreeMap<String, KindCost>,
}

/// An exchange's sizes, and what it is for: of its largest message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicatedRound {
    /// Bytes that each server sends to the one before it and to the one after it.
    pub bytes: [(usize, usize); 3],
    /// The part of the model.
    pub part: String,
    /// The kind of gate.
    pub gate: &'static str,
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

    /// The exchanges in order.
    pub fn rounds(&self) -> Vec<ReplicatedRound> {
        let exchanges = self.steps.iter().filter_map(|step| match step {
            Step::Exchange { gates, .. } => Some(gates),
            Step::Run { .. } => None,
        });
        let rounds = exchanges.map(|gates| {
            let sent = |server: Server| self.frame_bytes(gates, server);
            let size = |id: &GateId| {
                let sums = Server::ALL.map(|server| self.message_bytes(*id, server));
                sums.iter().map(|(a, b)| a + b).sum::<usize>()
            };
            let most = *gates.iter().max_by_key(|id| size(id)).expect("an exchange has gates");
            ReplicatedRound { bytes: Server::ALL.map(sent), part: self.part(most).to_owned(), gate: kind(&self.gate(most).gate) }
        });
        rounds.collect()
    }

    /// The part of the model that a gate is of.
    fn part(&self, id: GateId) -> &str {
        &self.program.labels[self.program.node(self.gate(id).node).label as usize]
    }

    fn count(&self, cost: &mut ReplicatedCost, id: GateId) {
        let node = self.gate(id);
        let mut total = 0;
        for server in Server::ALL {
            let (before, after) = self.message_bytes(id, server);
            cost.online_bytes[server.index()] += (before + after) as u64;
            total += (before + after) as u64;
        }
        let layer = self.part(id).to_owned();
        for entry in [cost.by_gate.entry(kind(&node.gate).to_owned()).or_default(), cost.by_layer.entry(layer).or_default()] {
            entry.gates += 1;
            entry.elements += node.len as u64;
            entry.online_bytes += total;
        }
    }
}

fn kind(gate: &Gate) -> &'static str {
    match gate {
        Gate::Reshare { .. } => "reshare",
        Gate::ReshareBits { .. } => "reshare_bits",
        Gate::Deal { what, .. } => match what {
            Dealt::Top { .. } => "lift",
            Dealt::Series(_) => "series",
            Dealt::Keys(_) => "piecewise",
            Dealt::Tables(_) => "interval",
            Dealt::Bit { .. } => "bit",
        },
        _ => "local",
    }
}

//! What an inference will cost, from its program alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sprint_mpc_core::{KindCost, PartyId, Program, ReplicatedProgram, ReplicatedRound, ReplicatedWeights, Server};

use crate::gates::{GateError, GateSetup};
use crate::net::{LinkShape, wire_len};
use crate::party::{BEGIN, TRANSCRIPT};
use crate::workload::ProgramShape;

/// The declared cost of one inference. What the meters measure is held to it: an inference whose rounds, opened bytes or material
/// differ releases no output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Dependent rounds of openings.
    pub rounds: u32,
    /// Frames between the parties, session frames included.
    pub flushes: u64,
    /// Bytes of openings that each party sends; of messages, where there are three.
    pub opened_bytes: Vec<u64>,
    /// The same on the wire: with frame headers, TLS records and session frames. A socket that takes a write in pieces adds a few
    /// records.
    pub online_bytes_sent: Vec<u64>,
    /// Bytes of openings that each party sends once in a session, before the first request: the private weights.
    pub session_opened_bytes: u64,
    /// Bytes of material for each party.
    pub dealer_bytes: Vec<u64>,
    /// Seconds that the link alone costs between the parties: half a round trip a frame, and the bytes at its rate.
    pub link_s: f64,
    /// By part of the model.
    pub by_layer: Vec<PredictedShare>,
    /// By kind of gate.
    pub by_gate: Vec<PredictedShare>,
}

/// The declared cost of a part of the model, or of a kind of gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedShare {
    /// Its name.
    pub name: String,
    /// Rounds in which it has the most bytes.
    pub rounds: u64,
    /// Bytes of openings that each party sends.
    pub bytes_sent: u64,
    /// Bytes of material for both parties together.
    pub dealer_bytes: u64,
    /// Elements computed.
    pub elements: u64,
}

impl GateSetup {
    /// What one inference with program number `program` costs over `link`.
    pub fn predict(&self, program: usize, link: LinkShape) -> Result<Prediction, GateError> {
        let missing = || sprint_mpc_core::MachineError::Input(format!("program {program} does not exist"));
        Ok(self.predict_all(link)?.into_iter().nth(program).ok_or_else(missing)?)
    }

    /// The same for each program.
    pub fn predict_all(&self, link: LinkShape) -> Result<Vec<Prediction>, GateError> {
        let compiled = self.compile()?;
        if !compiled.plans.is_empty() {
            return Ok(compiled.plans.iter().map(|plan| predict_three(plan, link)).collect());
        }
        let each = compiled.shapes.iter().zip(&compiled.programs);
        Ok(each.map(|(shape, source)| predict(shape, source, link)).collect())
    }
}

fn predict(shape: &ProgramShape, program: &Program, link: LinkShape) -> Prediction {
    let cost = program.cost();
    let wire = |me: PartyId| {
        let rounds: u64 = shape.rounds.iter().map(|r| wire_len(r.bytes[me.index()])).sum();
        rounds + wire_len(BEGIN) + wire_len(TRANSCRIPT)
    };
    let online_bytes_sent = [wire(PartyId::P0), wire(PartyId::P1)];
    let flushes = shape.rounds.len() as u64 + 2;
    let air = link.mbit.map_or(0.0, |rate| online_bytes_sent[0] as f64 * 8e-6 / rate);
    Prediction {
        rounds: shape.rounds.len() as u32,
        flushes,
        opened_bytes: vec![shape.sent_bytes(PartyId::P0), shape.sent_bytes(PartyId::P1)],
        online_bytes_sent: online_bytes_sent.to_vec(),
        session_opened_bytes: program.weight_frame_bytes() as u64,
        dealer_bytes: shape.dealer_bytes.to_vec(),
        link_s: flushes as f64 * link.rtt_ms / 2e3 + air,
        by_layer: shares(&cost.by_layer, shape.rounds.iter().map(|r| &r.part)),
        by_gate: shares(&cost.by_gate, shape.rounds.iter().map(|r| &r.gate)),
    }
}

/// Of three servers: each sends to both others, over a link each.
fn predict_three(plan: &ReplicatedProgram, link: LinkShape) -> Prediction {
    let (cost, rounds) = (plan.cost(), plan.rounds());
    // A link that carries something in either direction carries a frame in both.
    let frames = |r: &ReplicatedRound, me: Server| {
        let ((back, on), before, after) = (r.bytes[me.index()], r.bytes[me.previous().index()].1, r.bytes[me.next().index()].0);
        [(back, before), (on, after)].into_iter().filter(|(a, b)| a + b > 0).map(|(sent, _)| sent).collect::<Vec<_>>()
    };
    let session = 2 * (wire_len(crate::three::BEGIN) + wire_len(crate::three::TRANSCRIPT));
    let wire = |me: Server| session + rounds.iter().flat_map(|r| frames(r, me)).map(wire_len).sum::<u64>();
    let flushes = rounds.iter().map(|r| frames(r, Server::S0).len() as u64).sum::<u64>() + 4;
    let longest = |r: &ReplicatedRound| r.bytes.iter().map(|(a, b)| wire_len(*a.max(b))).max().unwrap_or_default();
    let air = link.mbit.map_or(0.0, |rate| rounds.iter().map(longest).sum::<u64>() as f64 * 8e-6 / rate);
    let thirds = |costs: &BTreeMap<String, KindCost>| -> BTreeMap<String, KindCost> {
        costs.iter().map(|(name, c)| (name.clone(), KindCost { online_bytes: c.online_bytes / 3, ..*c })).collect()
    };
    Prediction {
        rounds: cost.rounds,
        flushes,
        opened_bytes: cost.online_bytes.to_vec(),
        online_bytes_sent: Server::ALL.map(wire).to_vec(),
        session_opened_bytes: ReplicatedWeights::frame_bytes(plan.program()) as u64,
        dealer_bytes: vec![0; 3],
        link_s: (rounds.len() + 2) as f64 * link.rtt_ms / 2e3 + air,
        by_layer: shares(&thirds(&cost.by_layer), rounds.iter().map(|r| &r.part)),
        by_gate: shares(&thirds(&cost.by_gate), rounds.iter().map(|r| r.gate.to_owned()).collect::<Vec<_>>().iter()),
    }
}

fn shares<'a>(costs: &BTreeMap<String, KindCost>, rounds: impl Iterator<Item = &'a String>) -> Vec<PredictedShare> {
    let mut counts = BTreeMap::new();
    rounds.for_each(|name| *counts.entry(name).or_insert(0) += 1);
    let share = |(name, cost): (&String, &KindCost)| PredictedShare {
        name: name.clone(),
        rounds: counts.get(name).copied().unwrap_or(0),
        bytes_sent: cost.online_bytes,
        dealer_bytes: cost.dealer_bytes,
        elements: cost.elements,
    };
    costs.iter().map(share).collect()
}

//! What each exchange is for, by name: what meters put a round's time to.

use std::collections::BTreeMap;

use super::builder::operands;
use super::cost::kind;
use super::{Program, Step};

/// An exchange's size and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundName {
    /// Bytes each party sends.
    pub bytes: u64,
    /// The part of the model with the most bytes in it.
    pub part: String,
    /// The kind of gate that reads the most of its bytes.
    pub gate: &'static str,
}

impl Program {
    /// The exchanges in order.
    pub fn rounds(&self) -> Vec<RoundName> {
        let mut readers = vec![Vec::new(); self.nodes.len()];
        for node in &self.nodes {
            operands(&node.op).into_iter().for_each(|id| readers[id.index()].push(kind(&node.op)));
        }
        let exchanges = self.steps.iter().filter_map(|step| match step {
            Step::Exchange { opens, .. } => Some(opens),
            Step::Run { .. } => None,
        });
        let names = exchanges.map(|opens| {
            let (mut parts, mut gates, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
            for id in opens {
                let node = self.node(*id);
                let size = self.frame_bytes(*id) as u64;
                bytes += size;
                *parts.entry(node.label).or_insert(0) += size;
                let reader = readers[id.index()].iter().find(|k| !matches!(**k, "local" | "open"));
                let own = kind(&node.op);
                let gate = if node.op.is_private() { own } else { *reader.unwrap_or(&own) };
                *gates.entry(gate).or_insert(0) += size;
            }
            let part = largest(&parts).map_or_else(String::new, |label| self.labels[label as usize].clone());
            RoundName { bytes, part, gate: largest(&gates).unwrap_or("open") }
        });
        names.collect()
    }
}

fn largest<K: Copy>(sizes: &BTreeMap<K, u64>) -> Option<K> {
    sizes.iter().max_by_key(|(_, size)| **size).map(|(key, _)| *key)
}

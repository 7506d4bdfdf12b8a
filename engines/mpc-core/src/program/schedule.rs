//! The order all roles walk a program in.

use super::builder::operands;
use super::{Node, NodeId};

/// One step of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Compute a local node, then forget `last`: values no later step reads.
    Run { node: NodeId, last: Vec<NodeId> },
    /// Exchange one frame with all these openings, then forget `last`.
    Exchange { opens: Vec<NodeId>, last: Vec<NodeId> },
}

/// As soon as possible: level by level, local nodes in the order they were made, then all openings of the level. Nodes that do not
/// lead to the output are left out.
pub(super) fn schedule(nodes: &[Node], output: NodeId) -> Vec<Step> {
    let needed = needed(nodes, output);
    let levels = nodes.iter().map(|n| n.level).max().unwrap_or(0);
    let mut by_level = vec![(Vec::new(), Vec::new()); levels as usize + 1];
    for (i, node) in nodes.iter().enumerate().filter(|(i, _)| needed[*i]) {
        let (local, opens) = &mut by_level[node.level as usize];
        let list = if node.op.communicates() { opens } else { local };
        list.push(NodeId(i as u32));
    }
    let mut steps = Vec::new();
    for (local, opens) in by_level {
        steps.extend(local.into_iter().map(|node| Step::Run { node, last: Vec::new() }));
        if !opens.is_empty() {
            steps.push(Step::Exchange { opens, last: Vec::new() });
        }
    }
    mark_last_uses(nodes, output, &mut steps);
    steps
}

fn needed(nodes: &[Node], output: NodeId) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    let mut stack = vec![output];
    while let Some(id) = stack.pop() {
        if !std::mem::replace(&mut needed[id.index()], true) {
            stack.extend(operands(&nodes[id.index()].op));
        }
    }
    needed
}

fn mark_last_uses(nodes: &[Node], output: NodeId, steps: &mut [Step]) {
    let mut seen = vec![false; nodes.len()];
    seen[output.index()] = true;
    for step in steps.iter_mut().rev() {
        let (made, last) = match step {
            Step::Run { node, last } => (vec![*node], last),
            Step::Exchange { opens, last } => (opens.clone(), last),
        };
        for id in made.iter().flat_map(|m| operands(&nodes[m.index()].op)) {
            if !std::mem::replace(&mut seen[id.index()], true) {
                last.push(id);
            }
        }
    }
}

//! One level of the tree, shared by the point functions with XOR and with arithmetic payload.
//!
//! A node is one word: the seed in bits 2..128, the control bit in bit 0, bit 1 zero.

/// The bits of a node that are its seed.
pub(crate) const SEED: u128 = !3;

/// The correction word of one level.
#[derive(Clone, Copy)]
pub(crate) struct Level(pub(crate) u128);

impl Level {
    /// The correction of a left child: seed and left control bit.
    pub(crate) fn left(self) -> u128 {
        self.0 & !2
    }

    /// The correction of a right child: seed and right control bit.
    pub(crate) fn right(self) -> u128 {
        self.0 & SEED | self.0 >> 1 & 1
    }
}

/// All ones if the low bit of `x` is set, else zero; no branch.
pub(crate) fn mask(x: u128) -> u128 {
    (x & 1).wrapping_neg()
}

/// The inputs of the hash that give the left and the right child of `node`.
pub(crate) fn open_node(node: u128) -> [u128; 2] {
    [node & SEED, node & SEED | 1]
}

/// The dealer's step: given both parties' nodes on the path and their hashed children `[left, right]`, finds the
/// correction word and the parties' next nodes towards `direction` (0 or 1).
pub(crate) fn step(nodes: [u128; 2], children: [[u128; 2]; 2], direction: u128) -> (Level, [u128; 2]) {
    let right = mask(direction);
    let [[left0, right0], [left1, right1]] = children;
    let lose = (left0 ^ left1) & right | (right0 ^ right1) & !right;
    let left_control = (left0 ^ left1 ^ direction ^ 1) & 1;
    let right_control = (right0 ^ right1 ^ direction) & 1;
    let level = Level(lose & SEED | left_control | right_control << 1);
    let correction = level.left() & !right | level.right() & right;
    let next = |node: u128, [left, right_child]: [u128; 2]| {
        let keep = left & !right | right_child & right;
        (keep & !2) ^ (correction & mask(node))
    };
    (level, [next(nodes[0], children[0]), next(nodes[1], children[1])])
}

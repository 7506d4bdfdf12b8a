//! The three servers and what each is to another's deal.

use serde::{Deserialize, Serialize};

/// One of the three servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Server {
    /// Adds public constants.
    S0,
    /// The one after it.
    S1,
    /// The one before server 0.
    S2,
}

impl Server {
    /// In order.
    pub const ALL: [Self; 3] = [Self::S0, Self::S1, Self::S2];

    /// 0, 1 or 2.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Server `i+1`, which holds this one's second word.
    #[must_use]
    pub fn next(self) -> Self {
        Self::ALL[(self.index() + 1) % 3]
    }

    /// Server `i-1`, to which this one's first word goes.
    #[must_use]
    pub fn previous(self) -> Self {
        Self::ALL[(self.index() + 2) % 3]
    }

    /// What this server is to a deal of `owner`.
    pub(crate) fn role(self, owner: Self) -> Role {
        if self == owner {
            Role::Owner
        } else if self == owner.next() {
            Role::After
        } else {
            Role::Before
        }
    }
}

/// What a server is to a deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Knows `b`, and deals.
    Owner,
    /// Knows `a`, and receives a half.
    After,
    /// Knows `a`, and makes a half from the key it has with the owner.
    Before,
}

//! Memory of secret temporaries.

use std::ops::{Deref, DerefMut};

/// A vector that is overwritten before its memory goes back to the allocator.
///
/// Filling a word at a time by volatile writes, as `zeroize` does, would cost as much as the gates' own work; here the optimiser is told instead that somebody looks
/// at the memory after it was filled. A vector that grows leaves a copy behind where it was, so it is given its room at the start.
#[derive(Default)]
pub(crate) struct Wiped<T: Copy + Default>(Vec<T>);

impl<T: Copy + Default> Wiped<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Self(vec![T::default(); len])
    }

    /// The vector, which is now the caller's to wipe.
    pub(crate) fn keep(mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }
}

impl<T: Copy + Default> Drop for Wiped<T> {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl<T: Copy + Default> From<Vec<T>> for Wiped<T> {
    fn from(words: Vec<T>) -> Self {
        Self(words)
    }
}

impl<T: Copy + Default> FromIterator<T> for Wiped<T> {
    fn from_iter<I: IntoIterator<Item = T>>(words: I) -> Self {
        Self(words.into_iter().collect())
    }
}

impl<T: Copy + Default> Deref for Wiped<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Copy + Default> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

/// Overwrites all that a vector has room for: it is so many zeros then.
pub(crate) fn wipe<T: Copy + Default>(words: &mut Vec<T>) {
    words.clear();
    words.resize(words.capacity(), T::default());
    std::hint::black_box(&*words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wiping_reaches_all_that_a_vector_has_room_for() {
        let mut words: Vec<u64> = (1..=100).collect();
        let (at, room) = (words.as_ptr(), words.capacity());
        words.truncate(3);
        wipe(&mut words);
        assert!(words.as_ptr() == at && words.len() == room, "the same memory, all of it");
        assert!(words.iter().all(|w| *w == 0));
        let kept = Wiped::from(vec![1u64, 2, 3]).keep();
        assert_eq!(kept, [1, 2, 3], "what is kept is not wiped");
    }
}

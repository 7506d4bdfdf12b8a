//! Which elements of an array an operation reads.

use serde::Serialize;

/// Element `i` is `offset + i / repeat` of the source: a slice whose elements are each repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct View {
    pub(crate) offset: usize,
    pub(crate) repeat: usize,
}

impl View {
    /// The array itself.
    pub(crate) const ALL: Self = Self { offset: 0, repeat: 1 };

    pub(crate) fn at(offset: usize) -> Self {
        Self { offset, repeat: 1 }
    }

    pub(crate) fn rows(repeat: usize) -> Self {
        Self { offset: 0, repeat }
    }

    /// The source index of element `i`.
    pub(crate) fn index(self, i: usize) -> usize {
        self.offset + if self.repeat == 1 { i } else { i / self.repeat }
    }
}

/// A strided view: dimensions from the outermost, each a count and a stride in the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Strided {
    pub(crate) offset: usize,
    pub(crate) dims: Vec<(usize, usize)>,
}

impl Strided {
    pub(crate) fn new(offset: usize, dims: &[(usize, usize)]) -> Self {
        Self { offset, dims: dims.to_vec() }
    }

    pub(crate) fn len(&self) -> usize {
        self.dims.iter().map(|d| d.0).product()
    }

    /// Copies the selected elements.
    pub(crate) fn gather<T: Copy>(&self, src: &[T], out: &mut Vec<T>) {
        out.reserve(self.len());
        walk(self.offset, &self.dims, src, out);
    }
}

fn walk<T: Copy>(offset: usize, dims: &[(usize, usize)], src: &[T], out: &mut Vec<T>) {
    match dims {
        [] => out.push(src[offset]),
        [(count, 1)] => out.extend_from_slice(&src[offset..offset + count]),
        [(count, 0)] => out.extend(std::iter::repeat_n(src[offset], *count)),
        [(count, stride)] => out.extend((0..*count).map(|i| src[offset + i * stride])),
        [(count, stride), rest @ ..] => (0..*count).for_each(|i| walk(offset + i * stride, rest, src, out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposing_view_transposes() {
        let src: Vec<u64> = (0..6).collect();
        let mut out = Vec::new();
        Strided::new(0, &[(3, 1), (2, 3)]).gather(&src, &mut out);
        assert_eq!(out, [0, 3, 1, 4, 2, 5]);
    }
}

//! Which elements of an array an operation reads.

use serde::Serialize;

/// Element `i` is `offset + i / repeat` of the source: a slice whose elements are each repeated; or `i mod cycle`: a row under every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct View {
    pub(crate) offset: usize,
    pub(crate) repeat: usize,
    /// Only of views whose other fields are those of [`View::ALL`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cycle: Option<usize>,
}

impl View {
    /// The array itself.
    pub(crate) const ALL: Self = Self { offset: 0, repeat: 1, cycle: None };

    pub(crate) fn at(offset: usize) -> Self {
        Self { offset, ..Self::ALL }
    }

    pub(crate) fn rows(repeat: usize) -> Self {
        Self { repeat, ..Self::ALL }
    }

    /// A vector of `width` elements for every row of as many.
    pub(crate) fn columns(width: usize) -> Self {
        Self { cycle: Some(width), ..Self::ALL }
    }

    /// The source index of element `i`.
    pub(crate) fn index(self, i: usize) -> usize {
        match self.cycle {
            Some(cycle) => i % cycle,
            None => self.offset + if self.repeat == 1 { i } else { i / self.repeat },
        }
    }
}

impl View {
    /// Elements `from .. from + len` where they lie, if none is repeated.
    pub(crate) fn stretch<T>(self, src: &[T], from: usize, len: usize) -> Option<&[T]> {
        (self.repeat == 1 && self.cycle.is_none()).then(|| &src[self.offset + from..][..len])
    }

    /// Appends elements `from .. from + len`.
    pub(crate) fn copy<T: Copy>(self, src: &[T], from: usize, len: usize, out: &mut Vec<T>) {
        if let Some(stretch) = self.stretch(src, from, len) {
            out.extend_from_slice(stretch);
            return;
        }
        let mut at = from;
        if let Some(cycle) = self.cycle {
            while at < from + len {
                let run = (cycle - at % cycle).min(from + len - at);
                out.extend_from_slice(&src[at % cycle..][..run]);
                at += run;
            }
            return;
        }
        while at < from + len {
            let run = (self.repeat - at % self.repeat).min(from + len - at);
            out.extend(std::iter::repeat_n(src[self.offset + at / self.repeat], run));
            at += run;
        }
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
    fn copying_a_stretch_reads_the_same_elements_as_the_index() {
        let src: Vec<u64> = (0..40).collect();
        let both = View { offset: 2, repeat: 7, cycle: None };
        for view in [View::ALL, View::at(3), View::rows(4), both, View::columns(6), View::columns(1)] {
            for (from, len) in [(0, 5), (3, 20), (6, 1), (7, 0)] {
                let mut out = Vec::new();
                view.copy(&src, from, len, &mut out);
                let expected: Vec<u64> = (from..from + len).map(|i| src[view.index(i)]).collect();
                assert_eq!(out, expected);
            }
        }
    }

    #[test]
    fn a_transposing_view_transposes() {
        let src: Vec<u64> = (0..6).collect();
        let mut out = Vec::new();
        Strided::new(0, &[(3, 1), (2, 3)]).gather(&src, &mut out);
        assert_eq!(out, [0, 3, 1, 4, 2, 5]);
    }
}

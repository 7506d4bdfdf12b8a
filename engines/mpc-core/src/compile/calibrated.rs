//! One-round functions on public ranges, with alarms in place of guards.
//!
//! A smooth function on a known range is one masked opening and a Fourier series: no secret bit chooses between pieces. What a piece would
//! have caught, a value out of range, must then not pass for one in range. Every such opening therefore has two alarms:
//!
//! - *Window*: secret bits of `x mod 2^n` in cells of a half say whether each value is in the range that the series was fitted on, a cell
//!   more on either side included ([`crate::program::Op::Alarm`]).
//! - *Lift*: given that `x mod 2^n` is in the window, the lifted share of the opening is that of the representative in the window; it differs
//!   from `x` by a multiple of `2^n` that is 0 exactly if `x` itself is in the window ([`crate::program::Op::LiftCheck`]).
//!
//! Both are sums with random public coefficients over all elements of an example, local to the parties and added up over the
//! program, so they take no round. Only the client puts them together, beside its output, and refuses the output if they are not 0. The
//! coefficients are a hash of opened values, so they are independent of what they multiply: a window alarm is missed with
//! probability 2^-64. A lift alarm, for one value shared in Z_2^R that is off by `c·2^n`, is missed with probability `max(2^-8, 2^{v-(R-n)})^8`
//! with `2^v` the largest power of two in `c`: 2^-16 where `R - n` is 2, the least of all, and `c` is odd.

use sprint_model::{Calibration, Func, LayerRanges, Range, ScoreRange, WeightPolicy};

use super::act::Heads;
use super::{Attention, CompileError, Lowering, Precision, Val};
use crate::fit::{Fit, fourier_on};
use crate::program::{Fourier, NodeId, Op};

/// Highest frequency worth its material.
const FREQUENCIES: usize = 40;

/// Public constants of the calibrated softmax, the same in every layer but for the heads' ceilings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ceilings {
    /// Upper bound of the scores, `[layers][heads]`.
    high: Vec<Vec<f64>>,
    /// Whether the series serves a layer.
    served: Vec<bool>,
    /// Width of the widest range of scores.
    width: f64,
    /// `log2` of the opened ring in units of one; the series' period is half of it.
    ring: u32,
    /// How far below the others the scores of padding are.
    pub(crate) mask: f64,
    /// Bounds of the row sums.
    pub(crate) sum: (f64, f64),
    fit: Fourier,
}

/// An opened argument: its ring, as `log2` of its size in units of one, and where the window lies in it.
struct Window {
    ring: u32,
    /// Accepted cells, `lo ≤ cell < hi`.
    cells: Vec<(i64, i64)>,
}

impl Window {
    /// `log2` of the number of cells of a ring: each is a half, or less in a small ring.
    fn resolution(ring: u32) -> u32 {
        (ring + 1).max(6)
    }

    fn cell(ring: u32) -> f64 {
        f64::from(ring as i32 - Self::resolution(ring) as i32).exp2()
    }

    /// Values of `ranges`, upper bounds excluded. A truncated mask may move a value up by a cell.
    fn of(ranges: &[(f64, f64)], ring: u32) -> Self {
        let cell = Self::cell(ring);
        let cells = ranges.iter().map(|(a, b)| ((a / cell).floor() as i64, (b / cell).ceil() as i64 + 1));
        Self { ring, cells: cells.collect() }
    }

    /// What passes for being in the window.
    fn accepted(&self) -> Vec<(f64, f64)> {
        let cell = Self::cell(self.ring);
        self.cells.iter().map(|(lo, hi)| ((lo - 1) as f64 * cell, *hi as f64 * cell)).collect()
    }

    /// Whether all that is accepted lies in the half of the ring where lifting is exact.
    fn lifts(&self) -> bool {
        let quarter = f64::from(self.ring as i32 - 2).exp2();
        self.accepted().iter().all(|(lo, hi)| -quarter <= *lo && *hi <= quarter)
    }
}

impl Ceilings {
    /// For the layers whose ranges one series can serve; none if it can serve no layer.
    pub(crate) fn of(calibration: &Calibration) -> Option<Self> {
        /// Row sums below this are not exact enough, the ceiling being far above the row's own maximum.
        const LEAST: f64 = 1.0 / 256.0;
        let sum = |h: &ScoreRange, log: f64| (log - h.scores.high).exp();
        let width = |l: &LayerRanges| l.heads.iter().map(|h| h.scores.high - h.scores.low).fold(0.0, f64::max);
        let layers = calibration.layers();
        let exact_enough = |l: &LayerRanges| l.heads.iter().all(|h| sum(h, h.log_sums.low) >= LEAST);
        let mut served: Vec<bool> = layers.iter().map(exact_enough).collect();
        loop {
            let kept = || layers.iter().zip(&served).filter(|(_, s)| **s).map(|(l, _)| l);
            let heads = || kept().flat_map(|l| &l.heads);
            let widest = kept().map(width).reduce(f64::max)?;
            let least = heads().map(|h| sum(h, h.log_sums.low)).fold(f64::INFINITY, f64::min);
            let most = heads().map(|h| sum(h, h.log_sums.high)).fold(1.0, f64::max);
            let Some((ring, mask, fit)) = Self::fitted(widest, least) else {
                // A layer of widely spread scores leaves the series to the others.
                served.iter_mut().zip(layers).for_each(|(s, l)| *s &= width(l) < widest);
                continue;
            };
            let high = layers.iter().map(|l| l.heads.iter().map(|h| h.scores.high).collect()).collect();
            return Some(Self { high, served, width: widest, ring, mask, sum: (least, 1.02 * most), fit });
        }
    }

    /// Whether a layer's scores have ceilings; else its maxima are secret, as in mode `exact`.
    pub(crate) fn serve(&self, layer: usize) -> bool {
        self.served.get(layer).is_some_and(|served| *served)
    }

    /// The ring, the offset of padding, and one series that is `exp` on the scores' range and 0 on that of padding, exact enough for row sums
    /// from `least`.
    fn fitted(width: f64, least: f64) -> Option<(u32, f64, Fourier)> {
        const SIZE: f64 = 40.0;
        let error = (1e-3 * least).clamp(1e-5, 1e-4);
        let fit = |ring: u32, n: usize| {
            let (period, cell) = (f64::from(ring as i32 - 1).exp2(), Window::cell(ring));
            // Padding is put below the range by a third of what the period has to spare: the steep side needs the wider gap.
            let spare = period - 2.0 * width - 6.0 * cell;
            let mask = ((width + 3.0 * cell + 0.3 * spare) * 64.0).round() / 64.0;
            let (window, centre) = Self::window(width, mask, ring);
            let [kept, padding] = window.accepted()[..] else { return None };
            if spare < 1.0 || !window.lifts() {
                return None;
            }
            let exp = |x: f64| if x >= kept.0 { (x - centre).exp() } else { 0.0 };
            let fit = fourier_on(exp, &[kept, padding], period, n);
            (fit.max_error < error && fit.size() < SIZE).then_some((ring, mask, fit))
        };
        let tries = [6, 8, 10, 12, 14, 16, 20, 24, 32, FREQUENCIES];
        let (ring, mask, Fit { cos, sin, .. }) = tries.iter().find_map(|n| (3..8).find_map(|ring| fit(ring, *n)))?;
        Some((ring, mask, Fourier { period_bits: ring - 1 + Precision::EXP_ARGUMENT.0, multiplier: 1, cos, sin }))
    }

    /// Scores less their ceiling, and those of padding, moved by `centre` to the middle of the ring, the ceiling on a cell's edge.
    fn window(width: f64, mask: f64, ring: u32) -> (Window, f64) {
        let cell = Window::cell(ring);
        let centre = (f64::midpoint(width, mask) / cell).round() * cell;
        let ranges = [(centre - width, centre), (centre - width - mask, centre - mask)];
        (Window::of(&ranges, ring), centre)
    }
}

impl Lowering {
    /// `s` less its head's ceiling, in place of the row's maximum.
    pub(crate) fn below_ceiling(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        let f = Precision::EXP_ARGUMENT.0;
        let ceilings = self.ceilings()?;
        let (s, heads, rows, columns) = self.settle(s, f, ceilings.ring + f)?;
        let (_, centre) = Ceilings::window(ceilings.width, ceilings.mask, ceilings.ring);
        let high = ceilings.high.get(self.layer).ok_or_else(|| CompileError::Shape("a layer without calibration".into()))?;
        let by = high.iter().map(|high| ((centre - high) * f64::from(f).exp2()).round() as i64).collect();
        let len = self.len(s);
        let node = self.b.push(Op::ShiftGroups { src: s.node, group: rows * columns, by }, len);
        Ok(Heads::Value { val: Val { node, ..s }, heads, rows, columns })
    }

    /// `exp` of what [`Lowering::below_ceiling`] made, in one round.
    pub(crate) fn exponential_in_range(&mut self, x: Val) -> Result<Val, CompileError> {
        let ceilings = self.ceilings()?;
        let (window, _) = Ceilings::window(ceilings.width, ceilings.mask, ceilings.ring);
        let open = self.open_in_window(x, &window);
        let fine = self.attention.numerators - Attention::NUMERATORS;
        let bits = self.attention.operands.1 + 2 * super::SERIES + fine - self.attention.numerators;
        Ok(self.series(open, ceilings.fit, super::SERIES + fine, bits))
    }

    fn ceilings(&self) -> Result<Ceilings, CompileError> {
        self.ceilings.clone().ok_or_else(|| CompileError::Shape("a calibrated softmax without calibration".into()))
    }

    /// `x/2 + series(x)` on a layer's range, in one round; none if the range needs too many frequencies.
    pub(crate) fn gelu_in_range(&mut self, x: Val, func: Func) -> Option<Val> {
        const TRIG: u32 = 14;
        const RESULT: u32 = 18;
        const ERROR: f64 = 1e-4;
        let Range { low, high } = self.calibration.as_ref()?.layers().get(self.layer)?.activation;
        let f = Precision::ARGUMENT.0 - 1;
        let centre = ((low + high) * 32.0).round() / 64.0;
        let (size, fit, window) = (3..8).find_map(|size| {
            let window = Window::of(&[(low - centre, high - centre)], size);
            let accepted = window.accepted();
            let period = f64::from(size as i32 - 1).exp2();
            let (lo, hi) = accepted[0];
            let fits = window.lifts() && hi - lo < 0.9 * period;
            let rest = |x: f64| func.eval(x + centre) - 0.5 * x;
            let tries = fits.then_some([5, 6, 7, 8, 9, 10, 12, 14, 16, 20])?;
            let fit = tries.into_iter().map(|n| fourier_on(rest, &accepted, period, n)).find(|f| f.max_error < ERROR)?;
            Some((size, fit, window))
        })?;
        let x = self.fit(x, f, size + f);
        let x = self.shift(x, -centre);
        let open = self.open_in_window(x, &window);
        let fit = self.b.fit(Fourier { period_bits: size - 1 + f, multiplier: 1, cos: fit.cos, sin: fit.sin });
        let len = self.len(x);
        let op = Op::Series { src: open, fit, coefficient_bits: TRIG, trig_bits: TRIG, bits: 64 };
        let series = Val { node: self.b.push(op, len), ring: 64, f: 2 * TRIG };
        let series = self.rescale(series, RESULT);
        let half = self.lift(open, f + 1);
        let half = self.rescale(half, RESULT);
        Some(self.sum(series, half))
    }

    /// Opens `x` in its window's ring and raises an alarm for every value outside.
    fn open_in_window(&mut self, x: Val, window: &Window) -> NodeId {
        let bits = window.ring + x.f;
        let open = self.open(x, bits, true, false);
        let intervals = window.cells.iter().map(|(lo, hi)| crate::program::Interval { lo: Some(*lo), hi: Some(*hi) });
        let planes = window.cells.len();
        let op = Op::Intervals { src: open, drop: bits - Window::resolution(window.ring), intervals: intervals.collect() };
        let len = self.len(x);
        let inside = self.b.push(op, planes * len);
        self.raise_unless(inside, open, planes);
        let op = Op::LiftCheck { wide: x.node, open, ring: x.ring, examples: self.batch };
        let lift = self.b.push(op, Op::LIFT_LANES * self.batch);
        self.lift_checks.push(lift);
        open
    }

    /// Bits that an activation's argument has beyond the ring that its consumer wants, where a private layer's product would leave none: so many tell
    /// when it has left the ring that it is opened in.
    pub(crate) fn alarm_spare(&self) -> u32 {
        const SPARE: u32 = 4;
        let tight = self.calibration.is_some() && self.policy == WeightPolicy::AllPrivate;
        if tight { SPARE } else { 0 }
    }

    /// An alarm unless exactly one of `planes` bits of each element is set; `coins` is an opening that the coefficients are hashed from.
    fn raise_unless(&mut self, inside: NodeId, coins: NodeId, planes: usize) {
        let op = Op::Alarm { src: inside, coins, planes, examples: self.batch };
        let alarm = self.b.push(op, self.batch);
        self.alarms.push(alarm);
    }

    /// An alarm unless `lo ≤ v < hi`, both up to 2^-20 of `hi`; for few elements.
    pub(crate) fn require_between(&mut self, v: Val, (lo, hi): (f64, f64)) {
        const BITS: u32 = 24;
        // A quarter of the ring below and above what can be told apart.
        let unit = hi.log2().ceil() as i32 + 2 - BITS as i32;
        let coarse = self.rescale_to_unit(v, unit);
        let open = self.open(coarse, BITS, false, true);
        let bounds = [lo, hi].map(|b| Some(b * f64::from(-unit).exp2()));
        let inside = self.intervals(open, 0, 0, &[(bounds[0], bounds[1])]);
        self.raise_unless(inside, open, 1);
    }

    /// All alarms of each kind added up: `[batch]` window words and `[batch, lanes]` lift words.
    pub(crate) fn alarms(&mut self) -> Vec<NodeId> {
        let lists = [std::mem::take(&mut self.alarms), std::mem::take(&mut self.lift_checks)];
        let sums = lists.into_iter().filter_map(|list| {
            list.into_iter().reduce(|a, b| {
                let len = self.b.len(a);
                self.b.push(Op::Add(a, b), len)
            })
        });
        sums.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(fit: &Fourier, f: u32, x: f64) -> f64 {
        let omega = std::f64::consts::TAU / f64::from(fit.period_bits as i32 - f as i32).exp2();
        (0..=fit.frequencies()).map(|j| fit.pair(j)).enumerate().fold(0.0, |sum, (j, (a, b))| {
            let angle = j as f64 * omega * x;
            sum + a * angle.cos() + b * angle.sin()
        })
    }

    #[test]
    fn one_series_is_the_exponential_on_the_scores_and_nothing_on_padding() {
        for (width, least) in [(0.5, 0.5), (2.0, 0.1), (3.9, 0.02), (6.0, 0.1), (10.0, 0.01), (14.0, 0.01), (20.0, 0.1)] {
            let (ring, mask, fit) = Ceilings::fitted(width, least).expect("a fit");
            println!("width {width}: ring 2^{ring}, {} frequencies", fit.frequencies());
            let (_, centre) = Ceilings::window(width, mask, ring);
            for i in 0..=100 {
                let x = -width * f64::from(i) / 100.0;
                let (kept, padding) = (value(&fit, 12, x + centre), value(&fit, 12, x - mask + centre));
                assert!((kept - x.exp()).abs() < 1e-4 && padding.abs() < 1e-4, "width {width}: {kept} and {padding} at {x}");
            }
        }
    }

    #[test]
    fn a_window_accepts_its_range_and_at_most_two_cells_more() {
        let window = Window::of(&[(-3.1, 2.7)], 4);
        assert_eq!(window.cells, [(-13, 12)]);
        assert_eq!(window.accepted(), [(-3.5, 3.0)]);
        assert_eq!(Window::of(&[(-10.0, 3.0)], 6).accepted(), [(-10.5, 3.5)]);
        assert!(window.lifts());
        assert!(!Window::of(&[(-3.9, 3.9)], 4).lifts());
    }
}

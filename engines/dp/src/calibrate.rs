//! Calibration: the smallest stored σ whose accounted ε meets a target, and the plan that ties σ, q and steps together.
//!
//! σ is searched by bracketing on the accountant's own ε (which only rounds up), rounded **up** to four decimals, and its ε verified
//! against the target afterwards. A [`Plan`] is the only thing a trainer takes its steps, rate and noise from, and the only thing
//! that [`Plan::segment`] accounts: steps taken = steps calibrated = steps accounted by construction.

use crate::accountant::{self, AccountantError, SIGMA_MAX, SIGMA_MIN, Segment, pld, rdp};
use crate::budget::{BudgetError, Delta, Epsilon, NoiseMultiplier, SamplingRate, Steps};
use crate::mechanism::{self, Claim, GridBits, Strategy};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// σ is stored with four decimals.
const DECIMALS: f64 = 1e4;

/// Which accountant a calibration trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accountant {
    /// Privacy-loss distributions (the default for claims).
    Pld,
    /// Rényi differential privacy.
    Rdp,
}

impl Accountant {
    /// ε of the segments at δ by this accountant.
    pub fn epsilon(self, segments: &[Segment], delta: Delta) -> Result<f64, AccountantError> {
        match self {
            Self::Pld => pld::epsilon(segments, delta),
            Self::Rdp => Ok(rdp::epsilon(segments, delta)?.epsilon),
        }
    }
}

/// σ by both accountants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigmaReport {
    /// By the privacy-loss distribution.
    pub pld: NoiseMultiplier,
    /// By RDP.
    pub rdp: NoiseMultiplier,
}

/// σ for a fresh run by both accountants.
pub fn sigma_all(epsilon: Epsilon, delta: Delta, q: SamplingRate, steps: Steps) -> Result<SigmaReport, AccountantError> {
    Ok(SigmaReport {
        pld: sigma(Accountant::Pld, &[], epsilon, delta, q, steps)?,
        rdp: sigma(Accountant::Rdp, &[], epsilon, delta, q, steps)?,
    })
}

/// The smallest four-decimal σ such that `spent` followed by `steps` at rate `q` meets (`epsilon`, `delta`).
///
/// Domain: an answer in [0.05, 10⁶]. Error: at most 2·10⁻⁴ of σ plus one stored decimal above the accountant's own optimum, never below it.
pub fn sigma(
    by: Accountant,
    spent: &[Segment],
    epsilon: Epsilon,
    delta: Delta,
    q: SamplingRate,
    steps: Steps,
) -> Result<NoiseMultiplier, AccountantError> {
    let unreachable = || AccountantError::Unreachable { epsilon: epsilon.get(), low: SIGMA_MIN, high: SIGMA_MAX };
    let with = |sigma: f64| -> Result<Vec<Segment>, AccountantError> {
        let mut all = spent.to_vec();
        all.push(Segment { q, sigma: NoiseMultiplier::new(sigma)?, steps });
        Ok(all)
    };
    let known = RefCell::new(BTreeMap::new());
    let exact = |ticks: u64| -> Result<f64, AccountantError> {
        if let Some(value) = known.borrow().get(&ticks) {
            return Ok(*value);
        }
        let value = by.epsilon(&with(ticks as f64 / DECIMALS)?, delta)?;
        known.borrow_mut().insert(ticks, value);
        Ok(value)
    };
    let start = guess(&with, epsilon.get(), delta.get())?;
    let ticks = |sigma: f64| (sigma * DECIMALS).ceil() as u64;
    let (least, most) = (ticks(SIGMA_MIN), ticks(SIGMA_MAX));

    // Bracket [low, high] around the guess, in units of the last stored decimal, with ε(low) > target ≥ ε(high).
    let (mut low, mut high, mut factor) = (None, None, 1.002_f64);
    let mut at = approach(&exact, epsilon.get(), ticks(start).clamp(least, most), least, most)?;
    while low.is_none() || high.is_none() {
        let value = exact(at)?;
        if value <= epsilon.get() {
            high = Some((at, value));
            if at == least {
                break;
            }
            at = ((at as f64 / factor) as u64).min(at - 1).max(least);
        } else {
            low = Some((at, value));
            if at == most {
                return Err(unreachable());
            }
            at = ((at as f64 * factor) as u64).max(at + 1).min(most);
        }
        factor = factor.powi(3).min(16.0);
    }
    let Some(mut best) = high else { return Err(unreachable()) };
    if let Some(mut below) = low {
        shrink(&exact, epsilon.get(), &mut below, &mut best)?;
    }
    Ok(NoiseMultiplier::new(best.0 as f64 / DECIMALS)?)
}

/// Steps from the guess towards the target along a power law ε ∝ σ^{−s}, the exponent taken from the last two points.
fn approach(
    exact: &dyn Fn(u64) -> Result<f64, AccountantError>,
    target: f64,
    mut at: u64,
    least: u64,
    most: u64,
) -> Result<u64, AccountantError> {
    let (mut exponent, mut previous) = (1.5, None::<(f64, f64)>);
    for _ in 0..4 {
        let value = exact(at)?;
        if value <= 0.0 || (value / target - 1.0).abs() < 2e-3 {
            break;
        }
        let here = ((at as f64).ln(), value.ln());
        if let Some(last) = previous.filter(|last| (last.0 - here.0).abs() > 1e-9) {
            exponent = (-(here.1 - last.1) / (here.0 - last.0)).clamp(0.3, 60.0);
        }
        previous = Some(here);
        at = ((at as f64 * (value / target).powf(1.0 / exponent)).round() as u64).clamp(least, most);
    }
    Ok(at)
}

/// Narrows (below, best] by regula falsi with bisection as a guard, to one stored decimal or 10⁻⁴ of σ.
fn shrink(
    exact: &dyn Fn(u64) -> Result<f64, AccountantError>,
    target: f64,
    below: &mut (u64, f64),
    best: &mut (u64, f64),
) -> Result<(), AccountantError> {
    for round in 0..60 {
        let gap = best.0 - below.0;
        if gap <= 1 || (gap as f64) <= 1e-4 * best.0 as f64 {
            break;
        }
        let line = (below.1 - target) / (below.1 - best.1);
        let share = if round % 3 == 2 || !line.is_finite() { 0.5 } else { line };
        // Lean past the crossing so that both ends close in.
        let lean = (2e-5 * best.0 as f64).ceil() as u64;
        let at = (below.0 + (gap as f64 * share) as u64 + lean).clamp(below.0 + 1, best.0 - 1);
        let value = exact(at)?;
        if value <= target { *best = (at, value) } else { *below = (at, value) }
    }
    Ok(())
}

/// A σ near the answer from the saddle-point estimate (bisection in ln σ).
fn guess(with: &dyn Fn(f64) -> Result<Vec<Segment>, AccountantError>, target: f64, delta: f64) -> Result<f64, AccountantError> {
    accountant::check(&with(1.0)?)?;
    let (mut low, mut high) = (SIGMA_MIN.ln(), SIGMA_MAX.ln());
    for _ in 0..24 {
        let middle = 0.5 * (low + high);
        if pld::estimate(&with(middle.exp())?, delta) > target { low = middle } else { high = middle }
    }
    Ok(high.exp())
}

/// What a private run is allowed and obliged to do: N₀ records, rate q, T steps, noise σ, and the claim it was calibrated for.
///
/// Invariant: ε of `steps` steps of the discrete mechanism at (q, σ) and δ is at most `epsilon` by the named accountant; checked again
/// when read from a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanFields", into = "PlanFields")]
pub struct Plan {
    fields: PlanFields,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFields {
    records: u64,
    expected_batch: u64,
    q: SamplingRate,
    steps: Steps,
    sigma: NoiseMultiplier,
    epsilon: Epsilon,
    delta: Delta,
    dimension: u64,
    accountant: Accountant,
    #[serde(default, skip_serializing_if = "Strategy::is_independent")]
    strategy: Strategy,
}

impl PlanFields {
    fn segment(&self) -> Segment {
        Segment { q: self.q, sigma: self.sigma, steps: compositions(self.steps, self.strategy.bands()) }
    }

    /// ε of the discrete mechanism on the default grid.
    fn claim(&self) -> Result<Claim, AccountantError> {
        let dimension = usize::try_from(self.dimension).unwrap_or(usize::MAX);
        mechanism::claim(self.accountant, &[self.segment()], self.delta, dimension, GridBits::default())
    }
}

/// What the user asks of a run, before calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// N₀, the public nominal number of records.
    pub records: u64,
    /// B, the expected logical batch; also the divisor of every noisy sum.
    pub expected_batch: u64,
    /// Passes over the data, possibly fractional.
    pub epochs: f64,
    /// Target ε.
    pub epsilon: Epsilon,
    /// Target δ.
    pub delta: Delta,
    /// Trainable coordinates, for the discrete mechanism's own cost; 1 where it is not known yet.
    pub dimension: u64,
    /// Bands of the noise's strategy; 1 for independent noise (DP-SGD).
    pub bands: u32,
}

/// The most rounds that one record can enter: each of `steps` with independent noise, one in b with b bands.
pub fn compositions(steps: Steps, bands: u32) -> Steps {
    Steps::new(steps.get().div_ceil(u64::from(bands.max(1)))).unwrap_or(steps)
}

/// The strategy of so many bands, if `steps` all but fill them.
///
/// Up to a sixteenth more bands than steps leave a run of one turn each room to repeat steps after a crash without giving any record a second turn;
/// records whose turn comes after the last step are never used.
pub fn strategy_for(bands: u32, steps: Steps) -> Result<Strategy, BudgetError> {
    match Strategy::new(bands) {
        Ok(strategy) if u64::from(bands) <= steps.get() + steps.get() / 16 => Ok(strategy),
        _ => Err(BudgetError {
            field: "bands",
            value: f64::from(bands),
            fix: "give 1 to 256 bands, and at most a sixteenth more than steps",
        }),
    }
}

/// q: B/N, or with b bands B over a group's ⌊N/b⌋ records.
pub fn rate_for(records: u64, expected_batch: u64, bands: u32) -> Result<SamplingRate, BudgetError> {
    let group = records / u64::from(bands.max(1));
    if bands > 1 && expected_batch > group {
        let fix = "bands · batch exceeds the number of records: give fewer bands or a smaller batch";
        return Err(BudgetError { field: "bands", value: f64::from(bands), fix });
    }
    SamplingRate::from_batch(expected_batch, group)
}

/// T = ⌊epochs·N/B⌋ but at least 1: whole logical batches, as SPRINT's loader takes them (32 on SST-2 for one epoch at B = 2048).
pub fn steps_for(records: u64, expected_batch: u64, epochs: f64) -> Result<Steps, BudgetError> {
    SamplingRate::from_batch(expected_batch, records)?;
    let whole_epochs = epochs.trunc() as u64;
    if !(epochs.is_finite() && epochs > 0.0 && epochs < 1e9) {
        return Err(BudgetError { field: "epochs", value: epochs, fix: "give a number of epochs above 0" });
    }
    let per_epoch = (records / expected_batch).max(1);
    let rest = (epochs.fract() * per_epoch as f64).round() as u64;
    Steps::new((whole_epochs.saturating_mul(per_epoch) + rest).max(1))
}

impl Plan {
    /// Derives q and T from the request and calibrates σ.
    pub fn calibrate(request: Request, by: Accountant) -> Result<Self, AccountantError> {
        let q = rate_for(request.records, request.expected_batch, request.bands)?;
        let steps = steps_for(request.records, request.expected_batch, request.epochs)?;
        let strategy = strategy_for(request.bands, steps)?;
        let sigma = sigma(by, &[], request.epsilon, request.delta, q, compositions(steps, request.bands))?;
        let mut fields = PlanFields {
            records: request.records,
            expected_batch: request.expected_batch,
            q,
            steps,
            sigma,
            epsilon: request.epsilon,
            delta: request.delta,
            dimension: request.dimension.max(1),
            accountant: by,
            strategy,
        };
        // The discretisation costs millionths of ε: at most a few stored decimals of σ.
        for _ in 0..1000 {
            if fields.claim()?.epsilon <= fields.epsilon.get() {
                return Ok(Self { fields });
            }
            let ticks = (fields.sigma.get() * DECIMALS).round() + (1e-4 * fields.sigma.get() * DECIMALS).ceil();
            fields.sigma = NoiseMultiplier::new(ticks / DECIMALS)?;
        }
        Err(AccountantError::Unreachable { epsilon: request.epsilon.get(), low: SIGMA_MIN, high: SIGMA_MAX })
    }

    /// Trainable coordinates the plan was made for.
    pub fn dimension(&self) -> u64 {
        self.fields.dimension
    }

    /// The public number of records N₀.
    pub fn records(&self) -> u64 {
        self.fields.records
    }

    /// The expected batch B, the divisor of every noisy sum.
    pub fn expected_batch(&self) -> u64 {
        self.fields.expected_batch
    }

    /// The sampling rate of every step.
    pub fn q(&self) -> SamplingRate {
        self.fields.q
    }

    /// How many noisy steps the plan pays for.
    pub fn steps(&self) -> Steps {
        self.fields.steps
    }

    /// The noise multiplier of every step.
    pub fn sigma(&self) -> NoiseMultiplier {
        self.fields.sigma
    }

    /// The target ε.
    pub fn epsilon(&self) -> Epsilon {
        self.fields.epsilon
    }

    /// The target δ.
    pub fn delta(&self) -> Delta {
        self.fields.delta
    }

    /// How the noise of successive steps is correlated.
    pub fn strategy(&self) -> Strategy {
        self.fields.strategy
    }

    /// The whole plan as one accounted segment.
    pub fn segment(&self) -> Segment {
        self.fields.segment()
    }
}

impl TryFrom<PlanFields> for Plan {
    type Error = AccountantError;

    fn try_from(fields: PlanFields) -> Result<Self, AccountantError> {
        let least = rate_for(fields.records, fields.expected_batch, fields.strategy.bands())?;
        if fields.q < least {
            let fix = "the sampling rate is below batch/records: calibrate the plan again";
            return Err(BudgetError { field: "q", value: fields.q.get(), fix }.into());
        }
        if fields.claim()?.epsilon > fields.epsilon.get() {
            let fix = "sigma does not meet the plan's own epsilon: calibrate the plan again";
            return Err(BudgetError { field: "sigma", value: fields.sigma.get(), fix }.into());
        }
        Ok(Self { fields })
    }
}

impl From<Plan> for PlanFields {
    fn from(plan: Plan) -> Self {
        plan.fields
    }
}

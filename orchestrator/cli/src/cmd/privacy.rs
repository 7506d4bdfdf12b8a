//! `privacy epsilon|sigma|rdp`; `privacy audit` is a module of its own.

use serde_json::json;
use sprint_dp::accountant::{self, AccountantError, Segment};
use sprint_dp::budget::{BudgetError, Delta, Epsilon, NoiseMultiplier, SamplingRate, Steps};

use crate::args::PrivacyCommand;
use crate::failure::{Code, Failure};
use crate::ui::out;

pub(super) fn run(command: PrivacyCommand) -> Result<Code, Failure> {
    match command {
        PrivacyCommand::Epsilon { q, sigma, steps, bands, delta, json } => {
            let (q, sigma) = (field(SamplingRate::new(q))?, field(NoiseMultiplier::new(sigma))?);
            epsilon(Segment { q, sigma, steps: compositions(steps, bands)? }, field(Delta::new(delta))?, json)
        }
        PrivacyCommand::Sigma { epsilon, delta, q, steps, bands, json } => sigma(
            field(Epsilon::new(epsilon))?,
            field(Delta::new(delta))?,
            field(SamplingRate::new(q))?,
            compositions(steps, bands)?,
            json,
        ),
        PrivacyCommand::Rdp { q, sigma, order, json } => rdp(q, sigma, order, json),
        PrivacyCommand::Audit { plant, quick, json } => super::audit::run(plant, quick, json),
    }
}

fn field<T>(value: Result<T, BudgetError>) -> Result<T, Failure> {
    value.map_err(|e| Failure::from_error(Code::USAGE, &e))
}

fn accounted<T>(value: Result<T, AccountantError>) -> Result<T, Failure> {
    value.map_err(|e| Failure::from_error(Code::USAGE, &e))
}

fn compositions(steps: u64, bands: u32) -> Result<Steps, Failure> {
    Ok(sprint_dp::calibrate::compositions(field(Steps::new(steps))?, bands))
}

fn epsilon(segment: Segment, delta: Delta, as_json: bool) -> Result<Code, Failure> {
    let r = accounted(accountant::epsilon_all(&[segment], delta))?;
    if as_json {
        let prv = json!({"lower": r.prv.lower, "estimate": r.prv.estimate, "upper": r.prv.upper});
        out::line(json!({"epsilon": {"pld": r.pld, "rdp": r.rdp, "prv": prv, "exact": r.exact}, "rdp_order": r.rdp_order}))?;
        return Ok(Code::DONE);
    }
    out::line(format_args!("epsilon at delta = {}, add or remove one record:", delta.get()))?;
    out::line(format_args!("  pld    {:>12.6}   upper bound; the one to claim", r.pld))?;
    out::line(format_args!("  rdp    {:>12.6}   upper bound, at order {}", r.rdp, r.rdp_order))?;
    out::line(format_args!(
        "  prv    {:>12.6}   between {:.6} and {:.6}; an independent check",
        r.prv.estimate, r.prv.lower, r.prv.upper
    ))?;
    if let Some(exact) = r.exact {
        out::line(format_args!("  exact  {exact:>12.6}   closed form for q = 1"))?;
    }
    Ok(Code::DONE)
}

fn sigma(epsilon: Epsilon, delta: Delta, q: SamplingRate, steps: Steps, as_json: bool) -> Result<Code, Failure> {
    let found = accounted(sprint_dp::calibrate::sigma_all(epsilon, delta, q, steps))?;
    let (pld, rdp) = (found.pld.get(), found.rdp.get());
    if as_json {
        out::line(json!({"sigma": {"pld": pld, "rdp": rdp}}))?;
    } else {
        out::line(format_args!("noise multiplier for epsilon = {} at delta = {}, rounded up:", epsilon.get(), delta.get()))?;
        out::line(format_args!("  pld  {pld}"))?;
        out::line(format_args!("  rdp  {rdp}"))?;
    }
    Ok(Code::DONE)
}

fn rdp(q: f64, sigma: f64, order: f64, as_json: bool) -> Result<Code, Failure> {
    let (q, sigma) = (field(SamplingRate::new(q))?, field(NoiseMultiplier::new(sigma))?);
    let value = accounted(accountant::rdp::rdp_step(q, sigma, order))?;
    if as_json {
        out::line(json!({"rdp": value}))?;
    } else {
        out::line(value)?;
    }
    Ok(Code::DONE)
}

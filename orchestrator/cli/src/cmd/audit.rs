//! `privacy audit`: the mechanism on made-up gradients, then the whole trainer on a small model with canaries.

use std::fmt::Display;

use serde_json::{Value, json};
use sprint_dp::audit::{AuditConfig, AuditOutcome, Defect, GridStep, PlantedStep, StepUnderTest, audit};
use sprint_dp::budget::{ClipNorm, Delta, NoiseMultiplier};
use sprint_dp::mechanism::{GridBits, GridConfig, Strategy};
use sprint_dp::randomness::{Purpose, RandomSource};
use sprint_train::{TrainerAudit, TrainerAuditConfig, audit_trainer};

use crate::args::PlantedDefect;
use crate::failure::{Code, Failure};
use crate::ui::out;

/// Coordinates of the mechanism's step, and its expected batch.
const DIMENSION: usize = 500;
const BATCH: u64 = 16;

impl From<PlantedDefect> for Defect {
    fn from(defect: PlantedDefect) -> Self {
        match defect {
            PlantedDefect::SigmaHalved => Self::SigmaHalved,
            PlantedDefect::NoClipping => Self::NoClipping,
            PlantedDefect::NoiseReused => Self::NoiseReused,
            PlantedDefect::WrongDivisor => Self::WrongDivisor,
            PlantedDefect::PublicSeed => Self::PublicSeed,
        }
    }
}

pub(super) fn run(plant: Option<PlantedDefect>, quick: bool, as_json: bool) -> Result<Code, Failure> {
    let plant = plant.map(Defect::from);
    let mechanism = mechanism(plant, quick)?;
    let full = TrainerAuditConfig::default();
    let size = if quick { TrainerAuditConfig { steps: full.steps / 4, canaries: full.canaries / 4, ..full } } else { full };
    let trainer = audit_trainer(size, plant).map_err(failed)?;
    let passed = mechanism.passed() && trainer.outcome.passed();
    if as_json {
        out::line(document(plant, &mechanism, &trainer, passed))?;
    } else {
        show(plant, &mechanism, &trainer, passed)?;
    }
    Ok(if passed { Code::DONE } else { Code::FAILED })
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::from_error(Code::FAILED, &error)
}

fn mechanism(plant: Option<Defect>, quick: bool) -> Result<AuditOutcome, Failure> {
    let clip = ClipNorm::new(0.3).map_err(failed)?;
    let sigma = NoiseMultiplier::new(0.8).map_err(failed)?;
    let grid = GridConfig { clip, sigma, bits: GridBits::default(), strategy: Strategy::default() };
    let mut sound;
    let mut planted;
    let step: &mut dyn StepUnderTest = match plant {
        None => {
            sound = GridStep::new(grid, DIMENSION, BATCH).map_err(failed)?;
            &mut sound
        }
        Some(defect) => {
            planted = PlantedStep::new(defect, grid, DIMENSION, BATCH).map_err(failed)?;
            &mut planted
        }
    };
    let quarter = if quick { 4 } else { 1 };
    let delta = Delta::new(1e-5).map_err(failed)?;
    let config = AuditConfig { steps: 400 / quarter, trials: 4000 / quarter, alpha: 0.01, delta };
    let source = RandomSource::private().map_err(failed)?;
    let mut coins = source.stream(Purpose::Audit, 0, 0).expect("only noise is kept from callers");
    audit(step, config, &mut coins).map_err(failed)
}

fn document(plant: Option<Defect>, mechanism: &AuditOutcome, trainer: &TrainerAudit, passed: bool) -> Value {
    json!({
        "version": 1,
        "verdict": if passed { "not_refuted" } else { "refuted" },
        "passed": passed,
        "planted": plant,
        "caught": plant.map(|_| !passed),
        "failures": mechanism.failures().into_iter().chain(trainer.outcome.failures()).collect::<Vec<_>>(),
        "mechanism": mechanism.checks,
        "trainer": {
            "checks": trainer.outcome.checks,
            "parameters": trainer.parameters,
            "claimed_epsilon": trainer.claimed_epsilon,
            "one_run": trainer.one_run,
        },
    })
}

fn show(plant: Option<Defect>, mechanism: &AuditOutcome, trainer: &TrainerAudit, passed: bool) -> Result<(), Failure> {
    let heading = |text: &dyn Display| out::line(format_args!("{text}"));
    for (name, outcome) in [("mechanism", mechanism), ("trainer", &trainer.outcome)] {
        heading(&name)?;
        for check in &outcome.checks {
            let (word, meaning) = if check.passed { ("ok  ", "") } else { ("FAIL", check.meaning.as_str()) };
            out::line(format_args!(
                "  {word} {:<30} {:>9.3} of {:>7.3}  {meaning}",
                check.name, check.statistic, check.threshold
            ))?;
        }
    }
    let found = trainer.one_run;
    out::line(format_args!(
        "canaries: {} of {} guesses right, so epsilon is at least {:.2}; claimed {}",
        found.right, found.guesses, found.epsilon_lower, trainer.claimed_epsilon
    ))?;
    match (plant, passed) {
        (None, true) => heading(&"nothing refutes the claims (an audit cannot prove them)"),
        (None, false) => heading(&"the claims are refuted: this build must not be used on private data"),
        (Some(defect), false) => out::line(format_args!("{defect:?} was planted and caught")),
        (Some(defect), true) => out::line(format_args!("{defect:?} was planted and NOT caught: the audit lacks power")),
    }
}

//! `bench train`: fine-tuning steps on random weights.

use sprint_train::{BenchRequest, BenchResult, HeadConfig, TrainConfig, TrainError, bench_train};

use super::clocks::Clocks;
use super::{Subject, lengths, published_head};
use crate::args::{BenchTrainArgs, HeadName, Lengths, TrainMode};
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out, seconds};

pub(super) fn run(args: &BenchTrainArgs) -> Result<Code, Failure> {
    let subject = Subject::find(&args.model)?;
    let (seq, most) = (args.seq.get(), subject.spec().max_tokens());
    if seq > most {
        return Err(Failure::usage(format!("--seq {seq}: the model has positions for {most} tokens")));
    }
    let microbatch = args.microbatch.get();
    let lengths = match args.lengths {
        Lengths::Fixed => vec![seq; args.batch.map_or(2 * microbatch, std::num::NonZero::get)],
        Lengths::Sst2 => lengths::sst2(args.batch.map_or(16 * microbatch, std::num::NonZero::get), seq),
    };
    let head = match args.head {
        HeadName::Published => published_head(),
        HeadName::Linear => HeadConfig::default(),
    };
    let recipe = TrainConfig { head, ..TrainConfig::default() };
    let privacy = recipe.privacy.filter(|_| args.mode == TrainMode::Private);
    let request = BenchRequest {
        base: subject.spec().clone(),
        config: TrainConfig { privacy, microbatch, ..recipe },
        lengths,
        steps: args.steps.get(),
    };
    let result = bench_train(&request, &Clocks::start()).map_err(|e| match &e {
        TrainError::Config(_) => Failure::from_error(Code::USAGE, &e),
        other => Failure::from_error(Code::FAILED, other),
    })?;
    if args.json {
        out::line(serde_json::to_string(&result).expect("a result is numbers"))?;
    } else {
        show(&result)?;
    }
    Ok(Code::DONE)
}

fn show(r: &BenchResult) -> Result<(), Failure> {
    out::line(format_args!(
        "{:.2} samples/s, {:.0} tokens/s on {} threads of {}",
        r.samples_per_s, r.tokens_per_s, r.threads, r.backend
    ))?;
    out::line(format_args!("{} of CPU a sample, {} at most resident", seconds(r.cpu_s_per_sample), bytes(r.peak_rss)))?;
    out::line(format_args!("{} trained parameters, {} examples a step, {:.1} Gflop/s", r.trained_parameters, r.batch, r.gflops))?;
    out::line(format_args!(
        "matrix products alone reach {:.0} Gflop a CPU-second here; the step spends {:.0} % of that rate on the frozen matrices",
        r.gemm_peak_gflops,
        100.0 * r.gemm_share
    ))
}

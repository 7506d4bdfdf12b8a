//! Times one private inference of a published shape with random weights, dealer and both parties in one process, no network.
//!
//! Arguments: shape (`roberta-base`), tokens (128), batch (1), mode (`exact`; `calibrated` measures ranges on random inputs first), private weights
//! (`lora`: those of low-rank updates and head; `all`: of a model without updates). CPU seconds are those of the process between calls, so each role's share is exact; with
//! `RAYON_NUM_THREADS=1` they are also its wall time on an idle machine.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use sprint_clear::float::{self, Margin, calibrate};
use sprint_model::{
    Batch, Calibration, Checkpoint, Example, HeadSpec, LoraSpec, ModelSpec, Pooling, TargetModules, WeightPolicy,
};
use sprint_mpc_core::{
    Advance, Dealer, DealerMachine, InMemory, Inputs, KindCost, MachineError, MaterialSource, Mode, OpenedWeights, Options,
    Party, PartyId, PartyMachine, PrivateWeights, Program, PublicWeights, WeightMasks, WeightOpening, compile, decode_logits,
    encode_inputs, os_randomness,
};

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Hands out material as the dealer makes it, and keeps the dealer's time apart.
struct Feed {
    dealer: Dealer,
    queues: [VecDeque<Vec<u8>>; 2],
    offset: [usize; 2],
    party: usize,
    dealer_cpu: f64,
}

impl Feed {
    /// Lets the dealer work until there is something for a party.
    fn fill(&mut self, party: usize) -> Result<(), MachineError> {
        let start = cpu_seconds();
        while self.queues[party].is_empty() {
            let chunk = self.dealer.next_chunk()?.ok_or_else(|| MachineError::Material("the dealer has no more".into()))?;
            self.queues.iter_mut().zip(chunk.to_party).filter(|(_, c)| !c.is_empty()).for_each(|(q, c)| q.push_back(c));
        }
        self.dealer_cpu += cpu_seconds() - start;
        Ok(())
    }
}

impl MaterialSource for Feed {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
        let mut out = Vec::with_capacity(bytes);
        let at = self.party;
        self.fill(at)?;
        if self.offset[at] == 0 && self.queues[at].front().is_some_and(|c| c.len() == bytes) {
            return Ok(self.queues[at].pop_front().unwrap_or_default());
        }
        while out.len() < bytes {
            self.fill(at)?;
            let Some(front) = self.queues[at].front() else { continue };
            let wanted = (bytes - out.len()).min(front.len() - self.offset[at]);
            out.extend_from_slice(&front[self.offset[at]..self.offset[at] + wanted]);
            self.offset[at] += wanted;
            if self.offset[at] == front.len() {
                self.queues[at].pop_front();
                self.offset[at] = 0;
            }
        }
        Ok(out)
    }
}

fn model(name: &str, policy: WeightPolicy) -> Result<Checkpoint, Box<dyn Error>> {
    let mut spec = ModelSpec::named(name).ok_or("no such shape")?;
    let lora = LoraSpec::new(16, 16.0, TargetModules::default());
    spec.lora = (policy != WeightPolicy::AllPrivate).then_some(lora);
    spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 });
    Ok(Checkpoint::random(spec, 7)?)
}

/// Ranges on eight random inputs, one of them padded.
fn ranges(model: &Checkpoint, tokens: usize) -> Result<Calibration, Box<dyn Error>> {
    let batches = (0..8u32).map(|row| {
        let length = if row == 0 { tokens / 2 } else { tokens };
        let ids = (0..length as u32).map(|i| 5 + (i * i * 31 + i * (37 + 2 * row) + row * 977) % 20_000).collect();
        let example = Example { ids, type_ids: vec![0; length], label: None };
        Batch::new(&[example], tokens, model.spec().pad_token)
    });
    Ok(calibrate(model, &batches.collect::<Result<Vec<_>, _>>()?, Margin::default())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("roberta-base", String::as_str);
    let tokens: usize = args.get(1).map_or(Ok(128), |t| t.parse())?;
    let size: usize = args.get(2).map_or(Ok(1), |t| t.parse())?;
    let all = args.get(4).is_some_and(|weights| weights == "all");
    let policy = if all { WeightPolicy::AllPrivate } else { WeightPolicy::PublicBase { public_a: true } };
    let model = model(name, policy)?;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| 5 + i * 37 % 1000).collect();
    let examples: Vec<Example> =
        (0..size).map(|_| Example { ids: ids.clone(), type_ids: vec![0; tokens], label: None }).collect();
    let batch = Batch::new(&examples, tokens, model.spec().pad_token)?;
    let mode: Mode = serde_json::from_value(args.get(3).map_or("exact", String::as_str).into())?;
    let calibration = if mode == Mode::Calibrated { Some(ranges(&model, tokens)?) } else { None };
    let options = Options::new(mode, policy, size, tokens).with_calibration(calibration);

    let start = cpu_seconds();
    let program = Arc::new(compile(model.spec(), &options)?);
    println!("compile {:.2} s, digest {:02x?}", cpu_seconds() - start, &program.digest()[..4]);
    print_cost(&program);
    let start = cpu_seconds();
    let public = Arc::new(PublicWeights::prepare(&program, &model)?);
    let private = PrivateWeights::share(&program, &model, &mut os_randomness)?.map(Arc::new);
    println!("weights {:.2} s", cpu_seconds() - start);
    let embedded = float::embed_only(&model, &batch)?;
    let expected = float::run_logits(&model, &batch)?;
    let input = encode_inputs(&program, &batch, embedded.data())?;
    let again = PrivateWeights::share(&program, &model, &mut os_randomness)?;
    drop(model);
    let simulated = InMemory::new(Arc::clone(&program), Arc::clone(&public), again).simulate(&input)?;
    println!("simulation off by {:.1e}", largest(&simulated, &expected));
    let weight_seeds = [[3u8; 32], [4; 32]];
    let masks = Arc::new(WeightMasks::new(&program, [&weight_seeds[0], &weight_seeds[1]]));
    let mut openings = Vec::new();
    for (at, id) in [PartyId::P0, PartyId::P1].into_iter().enumerate() {
        openings.push(WeightOpening::new(&program, Arc::clone(&private[at]), id, &weight_seeds[at])?);
    }
    let frames: Vec<Vec<u8>> = openings.iter().map(WeightOpening::frame).collect();
    println!("private weights opened once, {:.1} MB per party", frames[0].len() as f64 / 1e6);
    let opened = openings.into_iter().zip([&frames[1], &frames[0]]).map(|(o, peer)| o.finish(peer).map(Arc::new));
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    for _ in 0..2 {
        one(&program, &public, (&masks, &opened), &input.share(&mut os_randomness), &expected)?;
    }
    Ok(())
}

fn one(
    program: &Arc<Program>,
    public: &Arc<PublicWeights>,
    (masks, opened): (&Arc<WeightMasks>, &[Arc<OpenedWeights>]),
    shares: &[Vec<u8>; 2],
    expected: &[Vec<f32>],
) -> Result<(), Box<dyn Error>> {
    let seeds = [[1u8; 32], [2; 32]];
    let dealer = Dealer::new(Arc::clone(program), Arc::clone(masks), [&seeds[0], &seeds[1]]);
    let mut feed = Feed { dealer, queues: Default::default(), offset: [0; 2], party: 0, dealer_cpu: 0.0 };
    let wall = Instant::now();
    let mut party_cpu = [0.0; 2];
    let mut parties = Vec::new();
    for id in [PartyId::P0, PartyId::P1] {
        let at = id.index();
        let inputs = Inputs::from_bytes(program, &shares[at])?;
        let (program, public, private) = (Arc::clone(program), Arc::clone(public), Arc::clone(&opened[at]));
        parties.push(Party::new(program, public, private, id, &seeds[at], inputs));
    }
    let mut outputs = [Vec::new(), Vec::new()];
    loop {
        let mut frames = [Vec::new(), Vec::new()];
        let mut finished = false;
        for (at, party) in parties.iter_mut().enumerate() {
            feed.party = at;
            let (start, dealer) = (cpu_seconds(), feed.dealer_cpu);
            match party.advance(&mut feed)? {
                Advance::Exchange { frame, .. } => frames[at] = frame,
                Advance::Finished { output } => (finished, outputs[at]) = (true, output),
            }
            party_cpu[at] += cpu_seconds() - start - (feed.dealer_cpu - dealer);
        }
        if finished {
            break;
        }
        for (at, party) in parties.iter_mut().enumerate() {
            let start = cpu_seconds();
            party.absorb(&frames[1 - at])?;
            party_cpu[at] += cpu_seconds() - start;
        }
    }
    let logits = decode_logits(program, [&outputs[0], &outputs[1]])?;
    let worst = largest(&logits, expected);
    println!(
        "dealer {:.2} CPU-s, p0 {:.2} CPU-s, p1 {:.2} CPU-s, wall {:.2} s, logits off by {worst:.1e}",
        feed.dealer_cpu,
        party_cpu[0],
        party_cpu[1],
        wall.elapsed().as_secs_f64()
    );
    Ok(())
}

fn largest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn print_cost(program: &Program) {
    let cost = program.cost();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "rounds {}, online {:.1} MB per party, dealer {:.1} and {:.1} MB",
        cost.rounds,
        mb(cost.online_bytes),
        mb(cost.dealer_bytes[0]),
        mb(cost.dealer_bytes[1])
    );
    let row = |name: &str, k: &KindCost| {
        println!(
            "{name:>28} {:>6} gates {:>12} elements {:>8.2} MB online {:>9.2} MB dealt",
            k.gates,
            k.elements,
            mb(k.online_bytes),
            mb(k.dealer_bytes)
        );
    };
    cost.by_gate.iter().for_each(|(name, k)| row(name, k));
    cost.by_layer.iter().take(12).for_each(|(name, k)| row(name, k));
}

//! Durability, restart, damage and limits of the ledger.

use super::super::{FileSink, MemorySink};
use super::*;

fn terms(run: &str, sigma: f64, planned: u64) -> RunTerms {
    RunTerms {
        run: RunId::new(run).unwrap(),
        q: SamplingRate::new(0.02).unwrap(),
        config: GridConfig {
            clip: ClipNorm::new(1.0).unwrap(),
            sigma: NoiseMultiplier::new(sigma).unwrap(),
            bits: GridBits::default(),
            strategy: Strategy::default(),
        },
        dimension: 1000,
        planned,
    }
}

fn charged(steps: u64) -> (MemorySink, LedgerHead) {
    let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
    ledger.begin_run(terms("r", 1.0, 10), &RandomSource::reproducible(1)).unwrap();
    for step in 0..steps {
        let charge = ledger.charge(step).unwrap();
        assert_eq!((charge.step(), charge.attempt()), (step, 0));
    }
    let head = ledger.head();
    (ledger.into_sink(), head)
}

/// A sink that dies after `bytes` more bytes, keeping what was written.
struct Dying {
    inner: MemorySink,
    bytes: usize,
}

impl LedgerSink for Dying {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.inner.read()
    }
    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kept = bytes.len().min(self.bytes);
        self.bytes -= kept;
        self.inner.append_durably(&bytes[..kept])?;
        if kept < bytes.len() { Err(io::Error::other("power lost")) } else { Ok(()) }
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.inner.truncate(length)
    }
}

#[test]
fn restart_counts_every_attempt_and_numbers_the_next() {
    let (sink, _) = charged(5);
    let mut ledger = Ledger::open(sink, "data").unwrap();
    assert_eq!(ledger.charges(), 5);
    ledger.begin_run(terms("r", 1.0, 10), &RandomSource::reproducible(2)).unwrap();
    let again = ledger.charge(4).unwrap();
    assert_eq!(again.attempt(), 1);
    assert_eq!(ledger.segments()[0].steps.get(), 6);
    assert_eq!(ledger.trials(), 1);
}

/// With 4 bands an example enters one round in four, so charges cost a quarter of the compositions, rounded up for each run; rounds count on through
/// restarts, whatever step they repeat.
#[test]
fn bands_count_rounds_through_restarts_and_cost_a_band_th_of_the_compositions() {
    let banded = |run: &str| {
        let plain = terms(run, 1.0, 10);
        RunTerms { config: GridConfig { strategy: Strategy::new(4).unwrap(), ..plain.config }, ..plain }
    };
    let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
    ledger.begin_run(banded("a"), &RandomSource::reproducible(1)).unwrap();
    let rounds: Vec<u64> = (0..6).map(|step| ledger.charge(step).unwrap().round()).collect();
    assert_eq!(rounds, [0, 1, 2, 3, 4, 5]);
    let mut ledger = Ledger::open(ledger.into_sink(), "data").unwrap();
    ledger.begin_run(banded("a"), &RandomSource::reproducible(2)).unwrap();
    let again = ledger.charge(3).unwrap();
    assert_eq!((again.round(), again.attempt(), again.strategy().bands()), (6, 1, 4));
    ledger.begin_run(banded("b"), &RandomSource::reproducible(3)).unwrap();
    assert_eq!(ledger.charge(0).unwrap().round(), 0);
    ledger.begin_run(terms("c", 1.0, 10), &RandomSource::reproducible(4)).unwrap();
    assert_eq!(ledger.charge(0).unwrap().round(), 0);
    // ⌈7/4⌉ of a, ⌈1/4⌉ of b, and one of c with independent noise.
    assert_eq!(ledger.segments().iter().map(|s| s.steps.get()).collect::<Vec<_>>(), [4]);
    let sink = ledger.into_sink();
    assert!(String::from_utf8_lossy(sink.bytes()).contains(r#""strategy":4"#));
    let torn = [sink.bytes(), b"torn"].concat();
    let reopened = Ledger::open(MemorySink::holding(torn), "data").unwrap();
    assert_eq!((reopened.charges(), reopened.segments()[0].steps.get()), (10, 5));
}

#[test]
fn the_limit_counts_bands() {
    let plain = terms("r", 1.2, 500);
    let most = |bands: u32| {
        let strategy = Strategy::new(bands).unwrap();
        let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
        ledger.limit(Limit { epsilon: Epsilon::new(1.0).unwrap(), delta: Delta::new(1e-5).unwrap() });
        let config = GridConfig { strategy, ..plain.config };
        ledger.begin_run(RunTerms { config, ..plain.clone() }, &RandomSource::reproducible(1)).unwrap();
        (0..2000).take_while(|step| ledger.charge(*step).is_ok()).count()
    };
    let independent = most(1);
    assert!(independent > 3 && most(4) == 4 * independent, "{independent} {}", most(4));
}

#[test]
fn a_crash_at_any_byte_loses_no_returned_charge() {
    let reference = charged(3).0.bytes().len();
    for survived in 0..=reference {
        let mut returned = 0;
        let attempt = Ledger::open(Dying { inner: MemorySink::default(), bytes: survived }, "data");
        let mut kept = MemorySink::default();
        if let Ok(mut ledger) = attempt {
            if ledger.begin_run(terms("r", 1.0, 10), &RandomSource::reproducible(1)).is_ok() {
                for step in 0..3 {
                    match ledger.charge(step) {
                        Ok(_) => returned += 1,
                        Err(_) => assert!(matches!(ledger.charge(9), Err(LedgerError::Poisoned))),
                    }
                }
            }
            kept = ledger.into_sink().inner;
        }
        let torn = kept.bytes().last().is_some_and(|b| *b != b'\n');
        let reopened = Ledger::open(kept, "data").unwrap();
        assert!(reopened.charges() >= returned, "cut at {survived}");
        assert!(reopened.charges() <= returned + 1);
        let opened = reopened.runs.len() == 1;
        assert_eq!(reopened.charges(), returned + u64::from(torn && opened), "cut at {survived}");
        assert_eq!(Ledger::open(reopened.into_sink(), "data").unwrap().charges(), returned + u64::from(torn && opened));
    }
}

#[test]
fn damage_in_the_middle_is_an_error_and_never_silently_skipped() {
    let (sink, _) = charged(4);
    let bytes = sink.bytes().to_vec();
    let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i).collect();
    for at in (0..bytes.len() - 1).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x04;
        let result = Ledger::open(MemorySink::holding(damaged), "data");
        assert!(matches!(result, Err(LedgerError::Damaged { .. })), "byte {at}");
    }
    let without_a_line: Vec<u8> = bytes[..=ends[2]].iter().chain(&bytes[ends[3] + 1..]).copied().collect();
    assert!(matches!(Ledger::open(MemorySink::holding(without_a_line), "data"), Err(LedgerError::Damaged { line: 4, .. })));
    assert!(matches!(Ledger::open(sink, "other"), Err(LedgerError::Dataset { .. })));
}

#[test]
fn a_rolled_back_ledger_is_refused_and_an_old_checkpoint_is_not() {
    let (short, early) = charged(2);
    let (long, late) = charged(5);
    let long = Ledger::open(long, "data").unwrap();
    long.verify(&early).unwrap();
    long.verify(&late).unwrap();
    let short = Ledger::open(short, "data").unwrap();
    assert!(matches!(short.verify(&late), Err(LedgerError::RolledBack { .. })));
    let forged = LedgerHead { digest: "00".repeat(32), ..early };
    assert!(matches!(long.verify(&forged), Err(LedgerError::RolledBack { .. })));
}

#[test]
fn the_limit_is_never_exceeded_even_by_crashing_and_starting_again() {
    let limit = Limit { epsilon: Epsilon::new(1.5).unwrap(), delta: Delta::new(1e-5).unwrap() };
    let mut sink = MemorySink::default();
    let mut total = 0;
    for crash in 0..50 {
        let mut ledger = Ledger::open(sink, "data").unwrap();
        ledger.limit(limit);
        ledger.begin_run(terms("r", 0.8, 500), &RandomSource::reproducible(crash)).unwrap();
        let mut refused = false;
        for step in 0..40 {
            match ledger.charge(step) {
                Ok(_) => total += 1,
                Err(LedgerError::BudgetExceeded { epsilon, .. }) => {
                    assert!(epsilon > 1.5);
                    refused = true;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let spent = ledger.spent(limit.delta).unwrap().unwrap();
        assert!(spent.epsilon <= 1.5, "{spent:?}");
        assert_eq!(ledger.charges(), total);
        if refused {
            assert!(spent.epsilon > 1.4, "the limit is used, not only respected: {spent:?}");
            return;
        }
        sink = ledger.into_sink();
    }
    panic!("the limit was never reached");
}

#[test]
fn runs_of_different_noise_compose_and_mark_the_ledger() {
    let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
    ledger.begin_run(terms("a", 1.0, 10), &RandomSource::private().unwrap()).unwrap();
    let _ = ledger.charge(0).unwrap();
    assert!(ledger.is_private());
    ledger.begin_run(terms("b", 2.0, 10), &RandomSource::reproducible(1)).unwrap();
    let _ = ledger.charge(0).unwrap();
    assert_eq!((ledger.segments().len(), ledger.trials()), (2, 2));
    assert!(!ledger.is_private());
}

#[test]
fn a_ledger_file_survives_reopening_and_admits_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("privacy-ledger");
    let mut ledger = Ledger::open(FileSink::open(&path).unwrap(), "data").unwrap();
    assert_eq!(FileSink::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    ledger.begin_run(terms("r", 1.0, 10), &RandomSource::private().unwrap()).unwrap();
    let _ = ledger.charge(0).unwrap();
    let head = ledger.head();
    drop(ledger);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{}", &text[..40])).unwrap();
    let ledger = Ledger::open(FileSink::open(&path).unwrap(), "data").unwrap();
    assert_eq!((ledger.charges(), ledger.recovered()), (2, 1));
    ledger.verify(&head).unwrap();
}

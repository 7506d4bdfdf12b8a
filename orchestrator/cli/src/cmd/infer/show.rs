//! Answers and costs, for people and machines.

use serde_json::json;
use sprint_mpc::{FleetMeter, InferenceMeter};
use sprint_mpc_core::Mode;

use crate::args::InferArgs;
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out, seconds};

/// What one text was answered with.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// Of the text.
    pub(super) tokens: usize,
    /// Padded tokens, which the parties see.
    pub(super) padded: usize,
    /// Of the inference it was in.
    pub(super) online_s: f64,
}

/// Logits, or why there are none.
pub(super) enum Verdict {
    Logits(Vec<f32>),
    /// A value left a calibrated range: what came out means nothing.
    OutOfRange,
    /// The line is no text.
    Unreadable(String),
}

impl Answer {
    pub(super) fn unreadable(why: String) -> Self {
        Self { verdict: Verdict::Unreadable(why), tokens: 0, padded: 0, online_s: 0.0 }
    }

    pub(super) fn is_refused(&self) -> bool {
        !matches!(self.verdict, Verdict::Logits(_))
    }
}

/// The exit code of a command that refused so many texts.
pub(super) fn code(refused: usize) -> Code {
    if refused == 0 { Code::DONE } else { Code::PARTIAL }
}

/// The class of the largest logit; none for a regression.
fn label(logits: &[f32]) -> Option<usize> {
    let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);
    largest.filter(|_| logits.len() > 1)
}

/// One line: what text number `row`, from 0, was answered with.
pub(super) fn answer(args: &InferArgs, row: usize, answer: &Answer) -> Result<(), Failure> {
    let Answer { verdict, tokens, padded, online_s } = answer;
    let (logits, refused) = match verdict {
        Verdict::Logits(logits) => (Some(logits), None),
        Verdict::OutOfRange => (None, Some("out_of_range")),
        Verdict::Unreadable(_) => (None, Some("unreadable")),
    };
    let label = logits.and_then(|l| label(l));
    if args.served.json {
        return out::line(json!({"text": row, "label": label, "logits": logits, "refused": refused, "tokens": tokens,
            "padded": padded, "online_s": online_s}));
    }
    let number = row + 1;
    match verdict {
        Verdict::Logits(logits) => {
            let values = logits.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(" ");
            let label = label.map_or_else(|| "score".to_owned(), |class| format!("class {class}"));
            out::line(format_args!("text {number}: {label}  ({values})  {tokens} tokens, {}", seconds(*online_s)))
        }
        Verdict::OutOfRange => {
            out::line(format_args!("text {number}: refused, for a value left its calibrated range; --mode exact has none"))
        }
        Verdict::Unreadable(why) => out::line(format_args!("text {number}: refused: {why}")),
    }
}

/// The last line: what the session cost.
pub(super) fn cost(args: &InferArgs, mode: Mode, meter: &FleetMeter) -> Result<(), Failure> {
    let [p0, p1] = &meter.parties;
    let sums = |f: fn(&InferenceMeter) -> u64| meter.servers().map(|p| p.inferences.iter().map(f).sum()).collect();
    let (sent, dealt): (Vec<u64>, Vec<u64>) = (sums(|m| m.wire_bytes_sent), sums(|m| m.material_bytes));
    let rounds = p0.inferences.iter().map(|m| m.rounds).max().unwrap_or(0);
    let online: f64 = p0.inferences.iter().zip(&p1.inferences).map(|(a, b)| a.online_s.max(b.online_s)).sum();
    let offline: f64 = meter.dealer.offline_s.iter().sum();
    if args.served.json {
        let mut cpu = json!({"p0": p0.cpu_s, "p1": p1.cpu_s, "dealer": meter.dealer.cpu_s});
        if let Some(third) = &meter.third {
            cpu["p2"] = json!(third.cpu_s);
        }
        return out::line(json!({"event": "cost", "mode": mode, "inferences": p0.inferences.len(), "rounds": rounds,
            "online_bytes_sent": sent, "dealer_bytes": dealt, "online_s": online, "offline_s": offline,
            "cpu_s": cpu}));
    }
    let (count, sent, dealt) = (p0.inferences.len(), bytes(sent[0]), bytes(dealt.iter().sum()));
    crate::ui::out::note(format_args!(
        "{count} inferences of {rounds} rounds: {sent} sent by each party, {dealt} from the dealer, {} online",
        seconds(online)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_the_largest_logit_and_a_regression_has_none() {
        assert_eq!(label(&[0.1, 3.0, -1.0]), Some(1));
        assert_eq!(label(&[0.7]), None);
    }
}

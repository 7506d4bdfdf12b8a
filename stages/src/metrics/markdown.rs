//! The table for people, in Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::table::{Measured, Row, Table};
use crate::glue::Metric;

/// The table, and a line about each row's costs.
pub(super) fn render(table: &Table) -> String {
    let axes: BTreeSet<&str> = table.rows.iter().flat_map(|r| r.axes.keys().map(String::as_str)).collect();
    let metrics: BTreeSet<Metric> = table.rows.iter().flat_map(|r| r.clear.scores.keys().copied()).collect();
    let mut head: Vec<String> = if axes.contains("task") { Vec::new() } else { vec!["task".to_owned()] };
    head.extend(axes.iter().map(|a| (*a).to_owned()));
    for metric in &metrics {
        head.extend([format!("{} clear", metric.name()), format!("{} MPC", metric.name())]);
    }
    let fixed = [
        "n clear",
        "n MPC",
        "same labels",
        "max logit diff",
        "ε spent",
        "δ",
        "σ",
        "q",
        "steps",
        "rounds",
        "KiB online/msg",
        "KiB dealt/msg",
        "s/msg online",
        "s/msg",
    ];
    head.extend(fixed.map(str::to_owned));
    let measured = table.rows.iter().any(|r| r.cost.as_ref().is_some_and(|c| c.link.is_some()));
    if measured {
        head.extend(["RTT ms measured", "Mbit/s measured"].map(str::to_owned));
    }
    let mut out = String::new();
    line(&mut out, &head);
    line(&mut out, &vec!["---".to_owned(); head.len()]);
    for row in &table.rows {
        let mut cells: Vec<String> = if axes.contains("task") { Vec::new() } else { vec![row.task.clone()] };
        cells.extend(axes.iter().map(|a| row.axes.get(*a).cloned().unwrap_or_else(unknown)));
        for metric in &metrics {
            cells.extend([score(Some(&row.clear), *metric), score(row.mpc.as_ref(), *metric)]);
        }
        cells.extend(rest(row));
        if measured {
            let link = row.cost.as_ref().and_then(|c| c.link);
            cells.extend([shown(link, |l| format!("{:.1}", l.rtt_ms)), shown(link, |l| format!("{:.0}", l.mbit))]);
        }
        line(&mut out, &cells);
    }
    seconds(&mut out, table, &axes);
    if table.rows.iter().any(|r| r.privacy.as_ref().is_none_or(|p| !p.claim.private)) {
        out.push_str("\nRows whose ε is marked \"none\" make no privacy claim.\n");
    }
    out
}

/// Seconds by stage: a table of its own, as wide as the workflow has stages.
fn seconds(out: &mut String, table: &Table, axes: &BTreeSet<&str>) {
    let mut stages: Vec<&str> = Vec::new();
    for (stage, _) in table.rows.iter().flat_map(|r| &r.seconds) {
        if !stages.contains(&stage.as_str()) {
            stages.push(stage);
        }
    }
    if stages.is_empty() {
        return;
    }
    out.push('\n');
    let head: Vec<String> = axes.iter().copied().chain(["seconds in"]).chain(stages.iter().copied()).map(str::to_owned).collect();
    line(out, &head);
    line(out, &vec!["---".to_owned(); head.len()]);
    for row in &table.rows {
        let mut cells: Vec<String> = axes.iter().map(|a| row.axes.get(*a).cloned().unwrap_or_else(unknown)).collect();
        cells.push(String::new());
        let of = |stage: &&str| row.seconds.iter().find(|(s, _)| s == stage).and_then(|(_, t)| *t);
        cells.extend(stages.iter().map(|s| shown(of(s), |t| format!("{t:.1}"))));
        line(out, &cells);
    }
}

fn line(out: &mut String, cells: &[String]) {
    writeln!(out, "| {} |", cells.join(" | ")).expect("writing to a string");
}

fn unknown() -> String {
    "–".to_owned()
}

fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(unknown, show)
}

fn score(measured: Option<&Measured>, metric: Metric) -> String {
    shown(measured.and_then(|m| m.scores.get(&metric).copied().flatten()), |v| format!("{v:.4}"))
}

fn rest(row: &Row) -> Vec<String> {
    let claim = row.privacy.as_ref().map(|p| &p.claim);
    let epsilon = match claim {
        Some(c) if c.private => shown(c.epsilon, |e| format!("{e:.3}")),
        Some(_) => "none".to_owned(),
        None => unknown(),
    };
    let cost = row.cost.as_ref();
    let messages = cost.map_or(1.0, |c| c.messages.max(1) as f64);
    let kib = |bytes: &[u64]| format!("{:.1}", bytes.iter().sum::<u64>() as f64 / 1024.0 / messages);
    vec![
        row.clear.n.to_string(),
        shown(row.mpc.as_ref(), |m| m.n.to_string()),
        shown(row.agreement.as_ref().and_then(|a| a.labels), |v| format!("{:.2} %", 100.0 * v)),
        shown(row.agreement.as_ref(), |a| format!("{:.1e}", a.max_logit_diff)),
        epsilon,
        shown(claim.and_then(|c| c.delta), |v| format!("{v:.0e}")),
        shown(claim.and_then(|c| c.sigma), |v| format!("{v:.3}")),
        shown(claim.and_then(|c| c.q), |v| format!("{v:.4}")),
        shown(claim.and_then(|c| c.steps), |v| v.to_string()),
        shown(cost, |c| c.rounds.to_string()),
        shown(cost, |c| kib(&c.online_bytes_sent)),
        shown(cost, |c| kib(&c.dealer_bytes)),
        shown(cost, |c| format!("{:.3}", c.online_s / messages)),
        shown(cost, |c| format!("{:.3}", c.wall_s / messages)),
    ]
}

//! Tables as text.

use std::fmt::Write;

use serde_json::Value;

/// Columns padded to their widest cell, under a heading unless it is empty.
pub(crate) fn grid<H: AsRef<str>>(heading: &[H], rows: &[Vec<String>]) -> String {
    let width = |column: usize, name: &str| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).fold(name.chars().count(), usize::max)
    };
    let widths: Vec<usize> = heading.iter().enumerate().map(|(i, name)| width(i, name.as_ref())).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(text, "{cell}{}  ", " ".repeat(width - cell.chars().count()));
        }
        text.trim_end().to_owned()
    };
    let head = line(&mut heading.iter().map(AsRef::as_ref));
    let body = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    let head = Some(head).filter(|h| !h.is_empty());
    head.into_iter().chain(body).collect::<Vec<_>>().join("\n")
}

/// The metrics table artifact as text; `None` if `json` is not one.
///
/// Columns: the axes, accuracy and the task's own metrics in the clear and under MPC, how far the two agree, the privacy claim, and
/// what MPC cost. A column that no row has is left out.
pub(crate) fn metrics(json: &Value) -> Option<String> {
    let rows = json.get("rows")?.as_array()?;
    if json.get("version")?.as_u64()? != 1 || rows.is_empty() || !rows.iter().all(|r| r.get("axes").is_some_and(Value::is_object))
    {
        return None;
    }
    let mut columns: Vec<(String, Vec<String>)> =
        keys(rows, "axes").into_iter().map(|k| (k.clone(), vec!["axes".into(), k])).collect();
    for part in ["clear", "mpc"] {
        let of_part = keys(rows, part).into_iter().map(|k| (format!("{part} {k}"), vec![part.to_owned(), k]));
        columns.extend(of_part);
    }
    let rest = [
        ("agreement", "label_agreement"),
        ("max |Δlogit|", "max_logit_diff"),
        ("ε", "privacy.epsilon"),
        ("δ", "privacy.delta"),
        ("private", "privacy.private"),
        ("rounds", "mpc_cost.rounds"),
        ("bytes sent", "mpc_cost.online_bytes_sent"),
        ("online s", "mpc_cost.online_s"),
        ("offline s", "mpc_cost.offline_s"),
    ];
    columns.extend(rest.iter().map(|(name, path)| ((*name).to_owned(), path.split('.').map(str::to_owned).collect())));
    columns.retain(|(_, path)| rows.iter().any(|row| at(row, path).is_some_and(|v| !v.is_null())));
    let heading: Vec<&String> = columns.iter().map(|(name, _)| name).collect();
    let body: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|(_, path)| cell(at(row, path))).collect()).collect();
    Some(grid(&heading, &body))
}

/// The keys that any row has under `part`, those of the first row first.
fn keys(rows: &[Value], part: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for key in rows.iter().filter_map(|r| r.get(part)?.as_object()).flat_map(|o| o.keys()) {
        if !all.contains(key) {
            all.push(key.clone());
        }
    }
    all
}

fn at<'v>(row: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(row, |value, key| value.get(key))
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "NO".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|v| cell(Some(v))).collect::<Vec<_>>().join(" / "),
        Some(Value::Number(n)) => match n.as_f64() {
            Some(x) if !n.is_f64() => format!("{x}"),
            Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:.2e}"),
            Some(x) => format!("{x:.4}").trim_end_matches('0').trim_end_matches('.').to_owned(),
            None => n.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_metrics_table_shows_axes_metrics_privacy_and_cost() {
        let table = json!({"version": 1, "rows": [
            {"axes": {"task": "mail_spam", "epsilon": "8"}, "clear": {"n": 1143, "accuracy": 0.94, "f1": 0.89},
             "mpc": {"n": 200, "accuracy": 0.94}, "label_agreement": 1.0, "max_logit_diff": 0.0011,
             "privacy": {"epsilon": 7.99, "delta": 1e-6, "private": true},
             "mpc_cost": {"rounds": 71, "online_bytes_sent": [1_200_000, 1_300_000], "online_s": null}},
            {"axes": {"task": "sst2", "epsilon": "4"}, "clear": {"n": 872, "accuracy": 0.9}, "mpc": null},
        ]});
        let text = metrics(&table).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for word in ["task", "epsilon", "clear f1", "mpc n", "agreement", "ε", "rounds"] {
            assert!(lines[0].contains(word), "{word}: {text}");
        }
        assert!(!lines[0].contains("online s"), "no row has it: {text}");
        for word in ["mail_spam", "1143", "0.94", "1.00e-6", "1200000 / 1300000", "yes"] {
            assert!(lines[1].contains(word), "{word}: {text}");
        }
        assert!(lines[2].contains('–'), "{text}");
    }

    #[test]
    fn other_json_is_no_metrics_table() {
        for other in [json!({}), json!({"version": 1, "rows": []}), json!({"version": 1, "rows": [{"a": 1}]}), json!([1])] {
            assert_eq!(metrics(&other), None);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["é".to_owned(), "1".to_owned()], vec!["abc".to_owned(), "22".to_owned()]];
        assert_eq!(grid(&["x", "n"], &rows), "x    n\né    1\nabc  22");
        assert_eq!(grid(&["", ""], &rows), "é    1\nabc  22");
    }
}

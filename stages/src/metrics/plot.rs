//! The table as a picture: a metric over a numeric axis, one line a task, in the clear and under MPC.

use std::collections::BTreeMap;

use plotters::prelude::*;

use super::table::{Measured, Row, Table};
use crate::glue::Metric;

const SIZE: (u32, u32) = (720, 440);
const MARGIN: i32 = 14;

/// The points of one line.
type Points = Vec<(f64, f64)>;

/// The picture as SVG; `None` where no row has a number on the axis.
pub(super) fn render(table: &Table, axis: &str, title: &str) -> Result<Option<String>, String> {
    let lines = lines(table, axis);
    let all = || lines.values().flat_map(|pair| pair.iter().flatten().copied());
    if all().next().is_none() {
        return Ok(None);
    }
    let x = padded(all().map(|p| p.0), 0.1);
    let y = padded(all().map(|p| p.1), 0.05);
    let mut svg = String::new();
    {
        let failed = |e: &dyn std::fmt::Display| e.to_string();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(MARGIN)
            .caption(title, ("sans-serif", 18))
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)
            .map_err(|e| failed(&e))?;
        chart.configure_mesh().x_desc(axis).y_desc("metric").light_line_style(WHITE).draw().map_err(|e| failed(&e))?;
        for (i, (name, [clear, mpc])) in lines.into_iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let series = LineSeries::new(clear.clone(), colour.stroke_width(2)).point_size(3);
            let drawn = chart.draw_series(series).map_err(|e| failed(&e))?;
            drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
            let crosses = mpc.into_iter().map(|p| Cross::new(p, 5, colour.stroke_width(2)));
            chart.draw_series(crosses).map_err(|e| failed(&e))?;
        }
        let legend = &mut chart.configure_series_labels();
        legend.background_style(WHITE).border_style(BLACK).draw().map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(Some(svg))
}

/// What a row is drawn by: its task's first metric.
fn value(row: &Row, measured: Option<&Measured>) -> Option<f64> {
    let metric =
        if row.clear.scores.contains_key(&Metric::Accuracy) { Metric::Accuracy } else { *row.clear.scores.keys().next()? };
    measured?.scores.get(&metric).copied().flatten()
}

/// Clear and private points by line; a line is a task with the row's other coordinates.
fn lines(table: &Table, axis: &str) -> BTreeMap<String, [Points; 2]> {
    let mut lines: BTreeMap<String, [Points; 2]> = BTreeMap::new();
    for row in &table.rows {
        let Some(x) = row.axes.get(axis).and_then(|at| at.parse::<f64>().ok()).filter(|x| x.is_finite()) else { continue };
        let others = row.axes.iter().filter(|(name, _)| *name != axis && *name != "task").map(|(_, at)| at.as_str());
        let task = row.axes.get("task").unwrap_or(&row.task);
        let name = std::iter::once(task.as_str()).chain(others).collect::<Vec<_>>().join(" ");
        let line = lines.entry(format!("{name} (crosses: MPC)")).or_default();
        line[0].extend(value(row, Some(&row.clear)).map(|y| (x, y)));
        line[1].extend(value(row, row.mpc.as_ref()).map(|y| (x, y)));
    }
    for points in lines.values_mut().flatten() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// The range of the values with some room on both sides, never empty.
fn padded(values: impl Iterator<Item = f64> + Clone, room: f64) -> (f64, f64) {
    let (lo, hi) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max));
    let pad = ((hi - lo) * room).max(room * hi.abs().max(0.1));
    (lo - pad, hi + pad)
}

//! The table as a picture: a metric over a numeric axis, one line a task, in the clear and under MPC; or what private inference costs.

use std::collections::BTreeMap;

use plotters::prelude::*;

use super::table::{Measured, Row, Table};
use crate::glue::Metric;

const SIZE: (u32, u32) = (720, 440);
const MARGIN: i32 = 14;

/// Colours that are told apart on white and by colour-blind eyes (Okabe and Ito).
const DARK: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// The points of one line.
type Points = Vec<(f64, f64)>;

/// The picture as SVG; `None` where no row has a number on the axis.
pub(super) fn accuracy(table: &Table, axis: &str, title: &str) -> Result<Option<String>, String> {
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

/// Seconds of private inference a message over a numeric axis, a line for every combination of the others, as SVG; `None` where no row
/// has both. The vertical axis is logarithmic, because networks differ by orders of magnitude.
pub(super) fn seconds(table: &Table, axis: &str, title: &str) -> Result<Option<String>, String> {
    let mut lines: BTreeMap<String, Points> = BTreeMap::new();
    for row in &table.rows {
        let (Some(x), Some(cost)) = (coordinate(row, axis), &row.cost) else { continue };
        let y = cost.online_s / cost.messages.max(1) as f64;
        if y > 0.0 {
            let others = row.axes.iter().filter(|(name, _)| *name != axis).map(|(_, at)| at.as_str());
            lines.entry(others.collect::<Vec<_>>().join(" ")).or_default().push((x, y));
        }
    }
    let all = || lines.values().flatten().copied();
    if all().next().is_none() {
        return Ok(None);
    }
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let x = padded(lines.values().flatten().map(|p| p.0), 0.1);
    let ys = || lines.values().flatten().map(|p| p.1);
    let (low, high) = (ys().fold(f64::INFINITY, f64::min), ys().fold(0.0, f64::max));
    // The upper third is the legend's.
    let y = (low / 1.5, high * (high / low).powf(0.45).max(2.5));
    let mut svg = String::new();
    {
        let failed = |e: &dyn std::fmt::Display| e.to_string();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(MARGIN)
            .caption(title, ("sans-serif", 18))
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(x.0..x.1, (y.0..y.1).log_scale())
            .map_err(|e| failed(&e))?;
        let mesh = &mut chart.configure_mesh();
        mesh.x_desc(axis).y_desc("seconds a message").light_line_style(WHITE);
        mesh.x_label_formatter(&short).y_label_formatter(&short).draw().map_err(|e| failed(&e))?;
        for (i, (name, points)) in lines.into_iter().enumerate() {
            let colour = DARK[i % DARK.len()];
            let series = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
            let drawn = chart.draw_series(series).map_err(|e| failed(&e))?;
            drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        let legend = &mut chart.configure_series_labels();
        legend
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(Some(svg))
}

/// A number without the digits that binary fractions add.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that plotters takes")]
fn short(value: &f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn coordinate(row: &Row, axis: &str) -> Option<f64> {
    row.axes.get(axis).and_then(|at| at.parse::<f64>().ok()).filter(|x| x.is_finite())
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
        let Some(x) = coordinate(row, axis) else { continue };
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

//! The report as a picture: a bar for each contender in each case.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::{contender::Contender, report::Report};

const WIDTH: u32 = 900;
const BAR: u32 = 18;
const GAP: u32 = 12;
/// Where bars begin and where the longest one ends.
const LEFT: u32 = 360;
const RIGHT: u32 = 760;
const TOP: u32 = 70;

const fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Limit => RGBColor(150, 150, 150),
        Contender::Kernel => RGBColor(27, 110, 194),
        Contender::KernelLong => RGBColor(90, 150, 210),
        Contender::Generic => RGBColor(160, 190, 220),
        Contender::Xdp => RGBColor(60, 160, 100),
        Contender::Socket => RGBColor(214, 120, 30),
        Contender::SocketGso => RGBColor(236, 178, 110),
        Contender::SocketOpenssl => RGBColor(140, 86, 75),
        Contender::Peer => RGBColor(120, 80, 160),
    }
}

/// Draws CPU time per copy as an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let bars: u32 = report.outcomes.iter().map(|outcome| outcome.entries.len() as u32).sum();
    let height = TOP + bars * BAR + report.outcomes.len() as u32 * (BAR + GAP) + GAP;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |content: String, x: u32, y: u32, size: u32| {
        Text::new(content, (x as i32, y as i32), ("sans-serif", size).into_font())
    };
    area.draw(&text("CPU time per forwarded packet, ns, softirq included (shorter is better)".into(), 20, 16, 18))?;
    area.draw(&text(report.machine.clone(), 20, 42, 13))?;

    let costs = report.outcomes.iter().flat_map(|outcome| {
        outcome.entries.iter().filter_map(|entry| Some(outcome.cost(entry.contender, report.idle)?.max))
    });
    let longest = costs.fold(1.0, f64::max);
    let x = |ns: f64| (f64::from(LEFT) + ns / longest * f64::from(RIGHT - LEFT)) as i32;
    let mut y = TOP;
    for outcome in &report.outcomes {
        area.draw(&text(outcome.case.title(), 20, y, 14))?;
        y += BAR;
        for entry in &outcome.entries {
            let Some(cost) = outcome.cost(entry.contender, report.idle) else { continue };
            let (top, bottom) = (y as i32 + 2, (y + BAR) as i32 - 2);
            let middle = (top + bottom) / 2;
            area.draw(&text(report.title(entry.contender).into(), 40, y + 2, 13))?;
            let bar = [(LEFT as i32, top), (x(cost.median), bottom)];
            area.draw(&Rectangle::new(bar, colour(entry.contender).filled()))?;
            area.draw(&PathElement::new(vec![(x(cost.min), middle), (x(cost.max), middle)], BLACK))?;
            area.draw(&text(format!("{:.0}", cost.median), x(cost.max) as u32 + 8, y + 2, 13))?;
            y += BAR;
        }
        y += GAP;
    }
    area.present()?;
    Ok(())
}

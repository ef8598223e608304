//! The plot of a series: what a pod costs, by how many pods there are.

use std::{
    fmt::{self, Write as _},
    path::Path,
};

use anyhow::{Context, Result};

/// One size of the series.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// Pods in the cluster.
    pub(super) pods: usize,
    /// Processor time for one, in microseconds: of the master and of the minions.
    pub(super) master_us: f64,
    pub(super) minions_us: f64,
    /// Pods a second.
    pub(super) rate: f64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Room for what stands beside the axes.
const MARGIN: f64 = 60.0;

/// Writes the plot to a file.
pub(super) fn write(points: &[Point], file: &Path) -> Result<()> {
    std::fs::write(file, svg(points)?).with_context(|| format!("writing {}", file.display()))
}

fn svg(points: &[Point]) -> Result<String, fmt::Error> {
    let pods = || points.iter().map(|p| (p.pods.max(1) as f64).log10());
    let (first, last) = (pods().fold(f64::MAX, f64::min), pods().fold(0.0, f64::max));
    let dearest = points.iter().map(|p| p.master_us + p.minions_us).fold(0.0, f64::max);
    let top = (dearest / 100.0).ceil().max(1.0) * 100.0;
    let x = |p: &Point| {
        let along = ((p.pods.max(1) as f64).log10() - first) / (last - first).max(f64::MIN_POSITIVE);
        MARGIN + along * (WIDTH - 2.0 * MARGIN)
    };
    let y = |us: f64| HEIGHT - MARGIN - us / top * (HEIGHT - 2.0 * MARGIN);
    let mut out = String::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
    )?;
    writeln!(out, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#)?;
    writeln!(
        out,
        r#"<text x="{MARGIN}" y="24">Processor time for a pod, from created to Running, in microseconds</text>"#
    )?;
    for step in 0..=5 {
        let us = top * f64::from(step) / 5.0;
        let (right, at) = (WIDTH - MARGIN, y(us));
        writeln!(out, r##"<line x1="{MARGIN}" x2="{right}" y1="{at:.1}" y2="{at:.1}" stroke="#ddd"/>"##)?;
        writeln!(out, r#"<text x="{}" y="{:.1}" text-anchor="end">{us:.0}</text>"#, MARGIN - 8.0, at + 4.0)?;
    }
    for point in points {
        let (at, below) = (x(point), HEIGHT - MARGIN);
        writeln!(out, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{} pods</text>"#, below + 20.0, point.pods)?;
        writeln!(out, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{:.0}/s</text>"#, below + 36.0, point.rate)?;
    }
    type Value = fn(&Point) -> f64;
    let all: Value = |p| p.master_us + p.minions_us;
    let [master, minions]: [Value; 2] = [|p| p.master_us, |p| p.minions_us];
    let series = [("master and minions", "#444", all), ("master", "#06c", master), ("minions", "#c60", minions)];
    for (row, (name, colour, value)) in (0..).zip(series) {
        let line: Vec<_> = points.iter().map(|p| format!("{:.1},{:.1}", x(p), y(value(p)))).collect();
        writeln!(out, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, line.join(" "))?;
        for point in points {
            writeln!(out, r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x(point), y(value(point)))?;
        }
        let at = 24.0 + 16.0 * f64::from(row);
        writeln!(out, r#"<text x="{}" y="{at}" text-anchor="end" fill="{colour}">{name}</text>"#, WIDTH - 12.0)?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_in_the_plot_and_inside_its_frame() {
        let point = |pods, us| Point { pods, master_us: us, minions_us: us, rate: 1.0 };
        for points in
            [vec![], vec![point(0, 0.0)], vec![point(3_000, 250.0), point(30_000, 300.0), point(1_000_000, 900.0)]]
        {
            let svg = svg(&points).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
            let circles: Vec<_> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
            assert_eq!(circles.len(), points.len() * 3);
            for circle in circles {
                let number = |name: &str| circle.split(name).nth(1).unwrap().split('"').nth(1).unwrap().parse::<f64>();
                let (x, y) = (number("cx=").unwrap(), number("cy=").unwrap());
                assert!((MARGIN..=WIDTH - MARGIN).contains(&x) && (MARGIN..=HEIGHT - MARGIN).contains(&y), "{circle}");
            }
        }
    }
}

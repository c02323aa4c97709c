//! The curves as SVG, one file for each group of them (the word before the colon).

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Curves;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 4] = ["#1565c0", "#2e7d32", "#6a1b9a", "#c62828"];

/// A label and its points.
type Curve<'a> = (&'a str, &'a [(f64, f64)]);

pub(crate) fn draw(dir: &str, curves: &Curves) {
    let mut groups: BTreeMap<&str, Vec<Curve<'_>>> = BTreeMap::new();
    for (name, points) in curves {
        let (group, label) = name.split_once(": ").unwrap();
        groups.entry(group).or_default().push((label, points));
    }
    for (group, curves) in groups {
        let (title, x_label, logarithmic) = match group {
            "detection" => ("Time from a crash, ms", "nodes", true),
            _ => (
                "128 nodes, 300 s, nobody crashes",
                "datagrams lost, %",
                false,
            ),
        };
        let path = format!("{dir}/swim-{group}.svg");
        std::fs::write(&path, chart(title, x_label, logarithmic, &curves)).unwrap();
        eprintln!("swim: drew {path}");
    }
}

fn chart(title: &str, x_label: &str, logarithmic: bool, curves: &[Curve<'_>]) -> String {
    let all = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let scale_x = |x: f64| if logarithmic { x.log2() } else { x };
    let low = all().map(|(x, _)| scale_x(x)).fold(f64::INFINITY, f64::min);
    let high = all().map(|(x, _)| scale_x(x)).fold(low + 1e-9, f64::max);
    let top = all().map(|(_, y)| y).fold(1.0, f64::max);
    let px = |x: f64| MARGIN + (scale_x(x) - low) / (high - low) * (WIDTH - 2.0 * MARGIN);
    let py = |y: f64| HEIGHT - MARGIN - y / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{title}</text>\n\
         <text x=\"{}\" y=\"{}\">{x_label}</text>\n",
        WIDTH - 2.0 * MARGIN,
        HEIGHT - 14.0
    );
    for part in 0..=4 {
        let y = top * f64::from(part) / 4.0;
        writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
             <text x=\"6\" y=\"{:.1}\">{y:.0}</text>",
            WIDTH - MARGIN,
            py(y),
            py(y),
            py(y) + 4.0
        )
        .unwrap();
    }
    let mut xs: Vec<f64> = all().map(|(x, _)| x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    for x in xs {
        let y = HEIGHT - MARGIN + 18.0;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{y}\">{x}</text>", px(x) - 8.0).unwrap();
    }
    for (number, (label, points)) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let line: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y)))
            .collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{label}</text>",
            line.join(" "),
            MARGIN + 12.0,
            MARGIN - 12.0 + 16.0 * number as f64
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}

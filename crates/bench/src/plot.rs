//! The latencies as a picture: a line for each workload, percentiles on an axis of nines, time on a logarithmic one.
//!
//! Written by hand: the plotting libraries have neither this axis nor colours that follow the reader's light or
//! dark theme, and what is drawn is a few lines and texts.

use std::fmt::Write;

use crate::report::{Curve, Report};

/// A picture's measures, in pixels.
const WIDTH: f64 = 960.0;
const PLOT: Area = Area { left: 84.0, top: 76.0, right: 924.0, bottom: 432.0 };
/// Entries of the legend side by side, and the height of a row of them.
const LEGEND_COLUMNS: usize = 3;
const LEGEND_ROW: f64 = 24.0;
const LEGEND_TOP: f64 = 500.0;

/// Where the lines are drawn.
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

/// Line colours on light and on dark ground. Further lines begin anew, dashed.
const COLORS: [(&str, &str); 8] = [
    ("#2563c4", "#6ea8ff"),
    ("#c75a00", "#ffa04d"),
    ("#1a8754", "#4fce93"),
    ("#8a3fb8", "#c792ea"),
    ("#c8283c", "#ff7b86"),
    ("#0d8494", "#45cbd8"),
    ("#7a5a2e", "#d0aa70"),
    ("#c43d87", "#ff8fc6"),
];
const DASHES: [&str; 4] = ["", "7 4", "2 3", "10 3 2 3"];

/// One line of the picture.
struct Line<'r> {
    name: String,
    points: &'r [(f64, f64)],
}

/// The latency curves of a report as SVG; None if nothing in it has latencies.
pub fn svg(report: &Report) -> Option<String> {
    let rows = report.results.iter();
    let lines: Vec<Line<'_>> = rows
        .filter_map(|row| {
            let Curve(points) = &row.latency.as_ref()?.curve;
            let name = format!("{}, {}", row.title, row.size());
            (!points.is_empty()).then_some(Line { name, points })
        })
        .collect();
    let axes = Axes::around(&lines)?;
    let legend_rows = lines.len().div_ceil(LEGEND_COLUMNS);
    let height = LEGEND_TOP + legend_rows as f64 * LEGEND_ROW + 8.0;
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>Latency by percentile</title>\n<style>{}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        style()
    );
    text(&mut out, (PLOT.left, 34.0), "title", "start", "Latency by percentile");
    text(&mut out, (PLOT.left, 56.0), "quiet", "start", &subtitle(report));
    axes.draw(&mut out);
    for (number, line) in lines.iter().enumerate() {
        draw_line(&mut out, &axes, number, line);
    }
    for (number, line) in lines.iter().enumerate() {
        draw_legend(&mut out, number, line);
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn style() -> String {
    let mut style = String::from(
        "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-size:18px;font-weight:600}\
         .quiet{fill:#57606a}.ground{fill:#fff}.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}\
         .line{fill:none;stroke-width:2;stroke-linejoin:round}",
    );
    for (number, (light, _)) in COLORS.iter().enumerate() {
        let _ = write!(style, ".c{number}{{stroke:{light}}}");
    }
    style.push_str(
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.ground{fill:#0d1117}\
         .grid{stroke:#2a313a}.axis{stroke:#6e7681}",
    );
    for (number, (_, dark)) in COLORS.iter().enumerate() {
        let _ = write!(style, ".c{number}{{stroke:{dark}}}");
    }
    style.push('}');
    style
}

fn subtitle(report: &Report) -> String {
    let about = &report.about;
    let server = about.bus.server.as_deref().unwrap_or("a bus of level 1");
    let cores = about.machine.cores;
    let day = about.started_at.split('T').next().unwrap_or_default();
    format!("{server} · {cores} cores · {} · {day}", about.machine.kernel)
}

/// What stands where.
struct Axes {
    /// Nines on the right edge: 3 stands for 99.9 %.
    nines: f64,
    /// Decimal logarithms of the microseconds at the bottom and at the top.
    micros: (f64, f64),
}

impl Axes {
    /// Around all points, with a little room.
    fn around(lines: &[Line<'_>]) -> Option<Self> {
        let points = || lines.iter().flat_map(|line| line.points.iter());
        let nines = points().map(|(part, _)| nines(*part)).fold(f64::NAN, f64::max);
        let logs = || points().map(|(_, micros)| micros.max(1e-3).log10());
        let (low, high) = (logs().fold(f64::NAN, f64::min), logs().fold(f64::NAN, f64::max));
        if !(nines.is_finite() && low.is_finite() && high.is_finite()) {
            return None;
        }
        let nines = nines.max(1.0);
        // From one labelled step to another.
        Some(Axes { nines, micros: (step_below(low), step_above(high)) })
    }

    fn x(&self, part: f64) -> f64 {
        PLOT.left + nines(part) / self.nines * (PLOT.right - PLOT.left)
    }

    fn y(&self, micros: f64) -> f64 {
        let (low, high) = self.micros;
        let part = (micros.max(1e-3).log10() - low) / (high - low);
        PLOT.bottom - part * (PLOT.bottom - PLOT.top)
    }

    fn draw(&self, out: &mut String) {
        let Area { left, top, right, bottom } = PLOT;
        for (part, label) in self.percentiles() {
            let x = self.x(part);
            segment(out, "grid", (x, top), (x, bottom));
            text(out, (x, bottom + 20.0), "quiet", "middle", &label);
        }
        for micros in self.times() {
            let y = self.y(micros);
            segment(out, "grid", (left, y), (right, y));
            text(out, (left - 10.0, y + 4.5), "quiet", "end", &show_time(micros));
        }
        segment(out, "axis", (left, bottom), (right, bottom));
        text(
            out,
            ((left + right) / 2.0, bottom + 44.0),
            "quiet",
            "middle",
            "part of the messages that took no longer",
        );
    }

    fn percentiles(&self) -> Vec<(f64, String)> {
        let mut ticks = vec![(0.0, "0 %".to_owned()), (0.5, "50 %".to_owned())];
        for nines in 1..=self.nines.floor() as i32 {
            let label = match nines {
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                _ => format!("99.{} %", "9".repeat(nines as usize - 2)),
            };
            ticks.push((1.0 - 10_f64.powi(-nines), label));
        }
        ticks
    }

    /// 1, 2 and 5 of each power of ten; of many powers, only 1.
    fn times(&self) -> Vec<f64> {
        const DENSE_UP_TO: f64 = 2.5;
        let (low, high) = self.micros;
        let steps: &[f64] = if high - low > DENSE_UP_TO { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = low.floor() as i32..=high.ceil() as i32;
        let times =
            powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        times.filter(|micros| (low - 1e-9..=high + 1e-9).contains(&micros.log10())).collect()
    }
}

/// A part of all as a number of nines.
fn nines(part: f64) -> f64 {
    -(1.0 - part).max(1e-12).log10()
}

const STEPS: [f64; 3] = [0.0, std::f64::consts::LOG10_2, 1.0 - std::f64::consts::LOG10_2];

fn step_below(log: f64) -> f64 {
    let power = log.floor();
    STEPS.iter().rev().map(|step| power + step).find(|step| *step <= log).unwrap_or(power)
}

/// Above, and never on the point itself, so that a flat line has room.
fn step_above(log: f64) -> f64 {
    let power = log.floor();
    STEPS.iter().map(|step| power + step).find(|step| *step > log).unwrap_or(power + 1.0)
}

fn show_time(micros: f64) -> String {
    match micros {
        ..1.0 => format!("{:.0} ns", micros * 1e3),
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.0} s", micros / 1e6),
    }
}

fn classes(number: usize) -> (String, &'static str) {
    let dash = DASHES[number / COLORS.len() % DASHES.len()];
    (format!("line c{}", number % COLORS.len()), dash)
}

fn draw_line(out: &mut String, axes: &Axes, number: usize, line: &Line<'_>) {
    let (class, dash) = classes(number);
    let mut points = String::new();
    for (part, micros) in line.points {
        let _ = write!(points, "{:.1},{:.1} ", axes.x(*part), axes.y(*micros));
    }
    let _ = writeln!(
        out,
        "<polyline class=\"{class}\" stroke-dasharray=\"{dash}\" points=\"{}\"><title>{}</title></polyline>",
        points.trim_end(),
        escaped(&line.name)
    );
}

fn draw_legend(out: &mut String, number: usize, line: &Line<'_>) {
    let (class, dash) = classes(number);
    let column = (PLOT.right - PLOT.left) / LEGEND_COLUMNS as f64;
    let x = PLOT.left + (number % LEGEND_COLUMNS) as f64 * column;
    let y = LEGEND_TOP + (number / LEGEND_COLUMNS) as f64 * LEGEND_ROW;
    let _ =
        writeln!(out, "<path class=\"{class}\" stroke-dasharray=\"{dash}\" d=\"M{x} {y}h26\"/>");
    text(out, (x + 34.0, y + 4.5), "label", "start", &line.name);
}

fn segment(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(out, "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
}

fn text(out: &mut String, at: (f64, f64), class: &str, anchor: &str, words: &str) {
    let (x, y) = at;
    let words = escaped(words);
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

/// As it may stand in XML. Characters that XML has no place for are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            other if other.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Case, Settings, Workload};
    use crate::report::Row;
    use crate::report::tests::{report_of, sample};

    fn row(workload: Workload, latencies_us: &[u64]) -> Row {
        let case = Case { workload, text_bytes: 128, peers: 1 };
        Row::of(case, &Settings::default(), &[sample(1_000, 500, latencies_us)])
    }

    fn elements<'d>(
        document: &'d roxmltree::Document<'_>,
        name: &str,
    ) -> Vec<roxmltree::Node<'d, 'd>> {
        document.descendants().filter(|node| node.has_tag_name(name)).collect()
    }

    #[test]
    fn the_picture_is_well_formed_and_has_a_line_and_a_name_for_each_workload() {
        let latencies: Vec<u64> = (10..5_000).collect();
        let rows = vec![
            row(Workload::RoundTrip, &latencies),
            row(Workload::OneToOne, &[]),
            row(Workload::OneWay, &[5, 5, 5]),
        ];
        let picture = svg(&report_of(rows)).unwrap();
        let document = roxmltree::Document::parse(&picture).expect("it is XML");
        let lines: Vec<_> =
            document.descendants().filter(|node| node.tag_name().name() == "polyline").collect();
        assert_eq!(lines.len(), 2, "those without latencies have none");
        for line in &lines {
            for point in line.attribute("points").unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((PLOT.left..=PLOT.right).contains(&x), "{x}");
                assert!((PLOT.top..=PLOT.bottom).contains(&y), "{y}");
            }
        }
        let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
        for wanted in ["round trip, 128 B", "one way, 128 B", "99 %", "99.9 %", "100 µs", "1 ms"] {
            assert!(texts.contains(&wanted), "{wanted}: {texts:?}");
        }
        assert!(picture.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn texts_from_elsewhere_cannot_break_the_picture() {
        let mut report = report_of(vec![row(Workload::OneWay, &[1, 10])]);
        report.about.bus.server = Some("<script>&\"'\u{1b}\u{0}]]>".to_owned());
        let picture = svg(&report).unwrap();
        let document = roxmltree::Document::parse(&picture).expect("it is XML");
        assert!(elements(&document, "script").is_empty());
        assert!(picture.contains("&lt;script&gt;&amp;&quot;'"));
    }

    #[test]
    fn without_latencies_there_is_nothing_to_draw() {
        assert_eq!(svg(&report_of(vec![row(Workload::OneToOne, &[])])), None);
        assert_eq!(svg(&report_of(Vec::new())), None);
    }

    #[test]
    fn one_latency_or_many_lines_still_make_a_picture() {
        let many: Vec<Row> = (0..20).map(|_| row(Workload::OneWay, &[7])).collect();
        let picture = svg(&report_of(many)).unwrap();
        assert!(
            roxmltree::Document::parse(&picture).is_ok() && !picture.contains("NaN"),
            "{picture}"
        );
    }

    #[test]
    fn axes_go_from_step_to_step() {
        let shown = |log: f64| show_time(10_f64.powf(log));
        assert_eq!(
            (shown(step_below(1.5)), shown(step_above(1.5))),
            ("20 µs".into(), "50 µs".into())
        );
        assert_eq!(
            (shown(step_below(0.1)), shown(step_above(2.9))),
            ("1 µs".into(), "1 ms".into())
        );
        assert_eq!(shown(step_above(3.0)), "2 ms");
    }
}

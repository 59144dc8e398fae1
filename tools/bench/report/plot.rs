//! Latency by quantile: one line for each front, both axes logarithmic, so that the tail is seen.

use hdrhistogram::Histogram;

use crate::compare::Row;

/// One for each front, in their order; told apart by those who see few colours, too.
pub const COLOURS: [&str; 7] = ["#555555", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];
/// From half of all to the slowest in ten thousand.
const NINES: f64 = 4.0;
const STEPS: u32 = 80;
const LEFT: f64 = 80.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 330.0;
const LEGEND: f64 = 170.0;

/// Microseconds on a logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
}

/// The picture.
pub fn latencies(caption: &str, rows: &[Row]) -> String {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = rows
        .iter()
        .filter(|row| !row.latencies.is_empty())
        .map(|row| (row.front.as_str(), quantiles(&row.latencies)))
        .collect();
    let axis = Axis::of(lines.iter().flat_map(|(_, points)| points).map(|(_, us)| *us));
    let mut body = axis.grid();
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or_default();
        let points: Vec<String> =
            points.iter().map(|(nines, us)| format!("{:.1},{:.1}", across(*nines), axis.down(*us))).collect();
        body += &format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n",
            points.join(" ")
        );
        let (x, y) = (LEFT + WIDTH + 16.0, TOP + 12.0 + 20.0 * index as f64);
        body +=
            &format!("<rect x=\"{x}\" y=\"{:.0}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>\n", y - 6.0);
        body += &format!("<text x=\"{}\" y=\"{y:.0}\">{}</text>\n", x + 20.0, escape(name));
    }
    frame(caption, LEFT + WIDTH + LEGEND, TOP + HEIGHT + 40.0, &body)
}

/// (nines, microseconds): one nine is 90 %, two are 99 %.
fn quantiles(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    let step = |step: u32| NINES * f64::from(step) / f64::from(STEPS);
    let at = |nines: f64| latencies.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1e3;
    (0..=STEPS).map(step).filter(|nines| *nines >= 0.3).map(|nines| (nines, at(nines))).collect()
}

fn across(nines: f64) -> f64 {
    LEFT + WIDTH * (nines - 0.3) / (NINES - 0.3)
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Axis {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(1.0);
        let most = values.fold(10.0, f64::max);
        Axis {
            least: 10f64.powf(least.min(most / 10.0).log10().floor()),
            most: 10f64.powf(most.log10().ceil()),
        }
    }

    fn down(&self, us: f64) -> f64 {
        let share = (us.max(self.least) / self.least).log10() / (self.most / self.least).log10();
        TOP + HEIGHT * (1.0 - share)
    }

    fn grid(&self) -> String {
        let mut grid = String::new();
        let mut us = self.least;
        while us <= self.most * 1.001 {
            let y = self.down(us);
            grid += &format!("<path d=\"M{LEFT} {y:.1}h{WIDTH}\" stroke=\"#ddd\"/>\n");
            grid += &format!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 6.0,
                y + 4.0,
                time(us)
            );
            us *= 10.0;
        }
        for (nines, name) in
            [(0.301, "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")]
        {
            let x = across(nines);
            grid += &format!("<path d=\"M{x:.1} {TOP}v{HEIGHT}\" stroke=\"#ddd\"/>\n");
            grid += &format!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n",
                TOP + HEIGHT + 18.0
            );
        }
        grid
    }
}

/// Microseconds in the unit that keeps them short.
fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.0} s", us / 1e6),
        us if us >= 1e3 => format!("{:.0} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

/// Three digits are enough in a picture.
pub fn label(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// As text of an SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A picture of that size with a caption.
pub fn frame(caption: &str, width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" font-size=\"15\">{}\
         </text>\n{body}</svg>\n",
        escape(caption)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    #[test]
    fn a_slower_front_is_drawn_above() {
        let row = |front: &str, ns: u64| {
            let mut latencies = load::empty().unwrap().latencies;
            latencies.record(ns).unwrap();
            Row { front: front.into(), rounds: Vec::new(), latencies }
        };
        let svg = latencies("A & B", &[row("fast", 20_000), row("slow", 2_000_000)]);
        let heights: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.split("points=\"").nth(1)?.split([',', ' ']).nth(1)?.parse().ok())
            .collect();
        assert_eq!(heights.len(), 2);
        assert!(heights[1] < heights[0], "{heights:?}");
        assert!(svg.contains("A &amp; B") && svg.contains(">1 ms<"), "{svg}");
    }
}

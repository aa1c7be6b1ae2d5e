// SPDX-License-Identifier: MIT OR Apache-2.0

//! Draws, as SVG and as PNG.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Fallible;

const SIZE: (u32, u32) = (960, 600);
/// The bitmaps have no fonts of their own.
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
const FAMILY: &str = "sans-serif";
/// Colours that all people can tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// Points that belong together.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What is drawn.
pub(crate) enum Shape {
    /// Lines, on logarithmic axes; powers of this are labelled at the bottom.
    Lines { series: Vec<Series>, base: f64 },
    /// Bars, each of parts on top of each other.
    Bars { bars: Vec<String>, parts: Vec<(&'static str, Vec<f64>)> },
}

/// A plot and its words.
pub(crate) struct Plot {
    /// Of the files.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) shape: Shape,
}

/// Has what is drawn as bitmaps know a font.
pub(crate) fn load_font() -> Fallible<()> {
    let bytes = fs::read(FONT).map_err(|error| format!("{FONT}: {error}"))?;
    // It is needed until the end.
    plotters::style::register_font(FAMILY, FontStyle::Normal, bytes.leak())
        .map_err(|_| format!("{FONT}: not a font").into())
}

impl Plot {
    /// Writes both files.
    pub(crate) fn write(&self, directory: &Path) -> Fallible<()> {
        let path = directory.join(self.name);
        let (svg, png) = (path.with_extension("svg"), path.with_extension("png"));
        self.draw(&SVGBackend::new(&svg, SIZE).into_drawing_area())?;
        self.draw(&BitMapBackend::new(&png, SIZE).into_drawing_area())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Fallible<()>
    where
        B::ErrorType: Error + 'static,
    {
        area.fill(&WHITE)?;
        match &self.shape {
            Shape::Lines { series, base } => self.lines(area, series, *base)?,
            Shape::Bars { bars, parts } => self.bars(area, bars, parts)?,
        }
        area.present()?;
        Ok(())
    }

    fn lines<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        series: &[Series],
        base: f64,
    ) -> Fallible<()>
    where
        B::ErrorType: Error + 'static,
    {
        let points = || series.iter().flat_map(|series| &series.points);
        let (left, right) = bounds(points().map(|point| point.0));
        let (bottom, top) = bounds(points().map(|point| point.1));
        // Room for the legend.
        let (bottom, top) = (bottom / 1.5, top * 3.0);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FAMILY, 24))
            .margin(18)
            .margin_right(32)
            .x_label_area_size(58)
            .y_label_area_size(96)
            .build_cartesian_2d(
                (left..right).log_scale().base(base),
                (bottom..top).log_scale().base(10.0),
            )?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style((FAMILY, 18))
            .label_style((FAMILY, 15))
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        for (i, one) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(one.points.iter().copied(), colour.stroke_width(2)))?
                .label(one.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3))
                });
            chart.draw_series(
                one.points.iter().map(|point| Circle::new(*point, 4, colour.filled())),
            )?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .legend_area_size(34)
            .label_font((FAMILY, 16))
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.4))
            .draw()?;
        Ok(())
    }

    fn bars<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        bars: &[String],
        parts: &[(&'static str, Vec<f64>)],
    ) -> Fallible<()>
    where
        B::ErrorType: Error + 'static,
    {
        let height = |bar: usize| parts.iter().filter_map(|part| part.1.get(bar)).sum::<f64>();
        let top = (0..bars.len()).map(height).fold(0.0, f64::max) * 1.35;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FAMILY, 24))
            .margin(18)
            .x_label_area_size(58)
            .y_label_area_size(96)
            .build_cartesian_2d((0..bars.len() - 1).into_segmented(), 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_desc_style((FAMILY, 18))
            .label_style((FAMILY, 15))
            .x_labels(bars.len())
            .x_label_formatter(&|x| match x {
                SegmentValue::CenterOf(bar) => bars.get(*bar).cloned().unwrap_or_default(),
                _ => String::new(),
            })
            .y_label_formatter(&|y| number(*y))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        let mut below = vec![0.0; bars.len()];
        for (i, (name, values)) in parts.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let boxes = values.iter().zip(&mut below).enumerate().map(|(bar, (value, below))| {
                let from = (SegmentValue::Exact(bar), *below);
                *below += value;
                let to = (SegmentValue::Exact(bar + 1), *below);
                let mut part = Rectangle::new([from, to], colour.filled());
                part.set_margin(0, 0, 24, 24);
                part
            });
            chart.draw_series(boxes)?.label(*name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 6), (x + 18, y + 6)], colour.filled())
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(28)
            .label_font((FAMILY, 16))
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.4))
            .draw()?;
        Ok(())
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), value| {
        (least.min(value), most.max(value))
    })
}

/// As an axis has it: 4096, 0.1.
fn number(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

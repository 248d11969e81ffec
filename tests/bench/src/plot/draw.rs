//! Draws a picture as SVG: horizontal bars, one panel beside the other, each on its own axis.

use anyhow::{Context, Result};
use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::chart::{Panel, Picture};

/// Colours for a background.
#[derive(Debug)]
pub(super) struct Theme {
    pub(super) name: &'static str,
    background: RGBColor,
    ink: RGBColor,
    grid: RGBColor,
    /// Of magikrun.
    ours: RGBColor,
    /// Of the others, in their order.
    others: [RGBColor; 3],
    /// Of others whose bars have their names beside them.
    other: RGBColor,
}

/// Colours that colour-blind people tell apart: those of Okabe and Ito
/// (<https://jfly.uni-koeln.de/color/>).
pub(super) const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        background: WHITE,
        ink: RGBColor(0x1f, 0x23, 0x28),
        grid: RGBColor(0xd1, 0xd9, 0xe0),
        ours: RGBColor(0x00, 0x72, 0xb2),
        others: [ORANGE, GREEN, PURPLE],
        other: RGBColor(0x9a, 0xa4, 0xae),
    },
    Theme {
        name: "dark",
        background: RGBColor(0x0d, 0x11, 0x17),
        ink: RGBColor(0xe6, 0xed, 0xf3),
        grid: RGBColor(0x3d, 0x44, 0x4d),
        ours: RGBColor(0x56, 0xb4, 0xe9),
        others: [ORANGE, GREEN, PURPLE],
        other: RGBColor(0x76, 0x80, 0x8b),
    },
];
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const PURPLE: RGBColor = RGBColor(0xcc, 0x79, 0xa7);

// All sizes are in pixels.
const WIDTH: u32 = 800;
const MARGIN: u32 = 14;
const TITLE_HEIGHT: u32 = 30;
const LEGEND_HEIGHT: u32 = 26;
/// Above each panel: what its axis is, line by line.
const LINE: u32 = 16;
const LINE_GAP: u32 = 8;
/// Below each panel: the numbers of its axis.
const AXIS_NUMBERS: u32 = 24;
const NOTE_HEIGHT: u32 = 24;
/// Of a bar, with the gap to the next.
const BAR: u32 = 16;
const BAR_GAP: u32 = 2;
/// Between groups.
const GROUP_GAP: u32 = 10;
/// Between panels.
const PANEL_GAP: u32 = 14;
/// What the text at a bar's end takes.
const VALUE_WIDTH: u32 = 52;
/// What half of the number at a mark takes.
const MARK_WIDTH: u32 = 18;
/// At most the width of a letter of [`TEXT`], in the mean of a word.
const LETTER: u32 = 8;
const TITLE: u32 = 20;
/// plotters divides by 1.24 what it writes to SVG.
const TEXT: u32 = 16;
const SMALL: u32 = 15;

/// From this ratio between its bars on, an axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 15.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture as SVG.
///
/// # Errors
/// Nothing is known that fails: the text is written to memory.
pub(super) fn draw(picture: &Picture, theme: &Theme) -> Result<String> {
    let legend = if picture.series.len() > 1 {
        LEGEND_HEIGHT
    } else {
        0
    };
    let group = count(picture.series.len())? * BAR + GROUP_GAP;
    let bars = count(picture.groups.len())? * group;
    let names = picture.groups.iter().chain([&picture.groups_are]);
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    let left = MARGIN + count(longest)? * LETTER + 8;
    let panels = count(picture.panels.len())?;
    let width = (WIDTH - left - MARGIN - (panels - 1) * PANEL_GAP) / panels;

    let axes: Vec<Axis> = picture
        .panels
        .iter()
        .map(|panel| Axis::of(panel, width).context("no bars"))
        .collect::<Result<_>>()?;
    let titles: Vec<Vec<String>> = picture
        .panels
        .iter()
        .zip(&axes)
        .map(|(panel, axis)| wrap(&axis.title(&panel.axis), width / LETTER))
        .collect();
    let lines = count(titles.iter().map(Vec::len).max().unwrap_or(1))?;
    // Where the last line of what the axes are begins, and the bars.
    let last_line = MARGIN + TITLE_HEIGHT + legend + (lines - 1) * LINE;
    let top = last_line + LINE + LINE_GAP;
    let height = top + bars + AXIS_NUMBERS + NOTE_HEIGHT;

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&theme.background)?;
        let pen = Pen { root: &root, theme };
        pen.text(picture.title, (MARGIN, MARGIN), HPos::Left, TITLE)?;
        if legend > 0 {
            pen.legend(&picture.series, MARGIN + TITLE_HEIGHT)?;
        }
        pen.text(&picture.groups_are, (left - 8, last_line), HPos::Right, TEXT)?;
        for (index, name) in picture.groups.iter().enumerate() {
            let middle = top + count(index)? * group + group / 2 - 7;
            pen.text(name, (left - 8, middle), HPos::Right, TEXT)?;
        }
        for (index, (panel, axis)) in picture.panels.iter().zip(&axes).enumerate() {
            let x = left + count(index)? * (width + PANEL_GAP);
            for (index, line) in titles[index].iter().rev().enumerate() {
                let y = last_line - count(index)? * LINE;
                pen.text(line, (x, y), HPos::Left, TEXT)?;
            }
            let area = root.clone().shrink((x, top), (width, bars + AXIS_NUMBERS));
            pen.panel(&area, picture, panel, axis, (bars, group))?;
        }
        let note = (WIDTH - MARGIN, height - NOTE_HEIGHT + 4);
        pen.text("shorter bars are better", note, HPos::Right, SMALL)?;
        root.present()?;
    }
    Ok(svg)
}

/// Lines of at most this many letters, but for words that have more.
fn wrap(text: &str, letters: u32) -> Vec<String> {
    let letters = usize::try_from(letters).unwrap_or(usize::MAX);
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

struct Pen<'a, 'b> {
    root: &'a Area<'b>,
    theme: &'a Theme,
}

impl Pen<'_, '_> {
    fn text(&self, text: &str, at: (u32, u32), align: HPos, size: u32) -> Result<()> {
        let at = (i32::try_from(at.0)?, i32::try_from(at.1)?);
        let style = style(size, self.theme).pos(Pos::new(align, VPos::Top));
        Ok(self.root.draw(&Text::new(text, at, style))?)
    }

    fn legend(&self, series: &[String], y: u32) -> Result<()> {
        let mut x = MARGIN;
        for (index, name) in series.iter().enumerate() {
            let (from, to) = ((x, y + 1), (x + 12, y + 13));
            let corner = |(x, y): (u32, u32)| Ok::<_, anyhow::Error>((i32::try_from(x)?, i32::try_from(y)?));
            let colour = self.theme.of_series(name, index).filled();
            self.root
                .draw(&Rectangle::new([corner(from)?, corner(to)?], colour))?;
            self.text(name, (x + 18, y), HPos::Left, TEXT)?;
            x += 18 + count(name.chars().count())? * LETTER + 22;
        }
        Ok(())
    }

    /// The bars of a panel, `heights` of all and of a group.
    fn panel(
        &self,
        area: &Area<'_>,
        picture: &Picture,
        panel: &Panel,
        axis: &Axis,
        heights: (u32, u32),
    ) -> Result<()> {
        let (bars, group) = (f64::from(heights.0), f64::from(heights.1));
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(AXIS_NUMBERS)
            .build_cartesian_2d(axis.clone(), 0.0..bars)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_max_light_lines(0)
            .bold_line_style(self.theme.grid)
            .axis_style(self.theme.grid)
            .x_label_style(style(SMALL, self.theme))
            .draw()?;
        for (index, (name, values)) in picture.groups.iter().zip(&panel.bars).enumerate() {
            let mut top = bars - f64::from(count(index)?) * group - f64::from(GROUP_GAP) / 2.0;
            for (series, value) in values.iter().enumerate() {
                let bottom = top - f64::from(BAR - BAR_GAP);
                if let Some(value) = value {
                    let end = value.number;
                    let colour = if picture.series.len() > 1 {
                        self.theme.of_series(&picture.series[series], series)
                    } else {
                        self.theme.of_row(name)
                    };
                    chart
                        .draw_series([Rectangle::new([(axis.from, top), (end, bottom)], colour.filled())])?;
                    let text = style(SMALL, self.theme).pos(Pos::new(HPos::Left, VPos::Center));
                    let middle = f64::midpoint(top, bottom);
                    chart.draw_series([
                        EmptyElement::at((end, middle)) + Text::new(value.text.clone(), (4, 0), text)
                    ])?;
                }
                top -= f64::from(BAR);
            }
        }
        Ok(())
    }
}

impl Theme {
    fn of_series(&self, name: &str, index: usize) -> RGBColor {
        if is_ours(name) {
            return self.ours;
        }
        self.others[index.saturating_sub(1) % self.others.len()]
    }

    fn of_row(&self, name: &str) -> RGBColor {
        if is_ours(name) { self.ours } else { self.other }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("magikrun")
}

fn style(size: u32, theme: &Theme) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&theme.ink)
}

/// The horizontal axis of a panel.
#[derive(Debug, Clone, PartialEq)]
struct Axis {
    logarithmic: bool,
    from: f64,
    to: f64,
    marks: Vec<f64>,
}

impl Axis {
    /// An axis for these bars in a panel of this width; `None` if there are none.
    fn of(panel: &Panel, width: u32) -> Option<Self> {
        let numbers = || panel.bars.iter().flatten().flatten().map(|value| value.number);
        let (least, most) = (numbers().reduce(f64::min)?, numbers().reduce(f64::max)?);
        // So that the text at the longest bar's end has its place, and the number at the last mark.
        let stretch = f64::from(width) / f64::from(width - VALUE_WIDTH);
        let marked = f64::from(width - MARK_WIDTH) / f64::from(width);
        if most / least < LOGARITHMIC_FROM {
            let to = most * stretch;
            return Some(Self {
                logarithmic: false,
                from: 0.0,
                to,
                marks: steps(0.0, round_step(most / 2.0), to * marked),
            });
        }
        // The least bar is to be seen.
        let from = (least * 0.8).log10().floor();
        let to = from + (most.log10() - from) * stretch;
        Some(Self {
            logarithmic: true,
            from: 10_f64.powf(from),
            to: 10_f64.powf(to),
            marks: steps(from, 1.0, from + (to - from) * marked)
                .into_iter()
                .map(|mark| 10_f64.powf(mark))
                .collect(),
        })
    }

    fn title(&self, what: &str) -> String {
        if self.logarithmic {
            // The space between the two words never ends a line.
            format!("{what} (log\u{a0}scale)")
        } else {
            what.to_owned()
        }
    }

    fn scaled(&self, number: f64) -> f64 {
        if self.logarithmic { number.log10() } else { number }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, number: &f64, limit: (i32, i32)) -> i32 {
        let linear = RangedCoordf64::from(self.scaled(self.from)..self.scaled(self.to));
        linear.map(&self.scaled(*number), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(mark: &f64) -> String {
        mark.to_string()
    }
}

/// All multiples of a step in a range, from its begin on.
fn steps(from: f64, step: f64, to: f64) -> Vec<f64> {
    (0_u8..u8::MAX)
        .map(|index| from + f64::from(index) * step)
        .take_while(|mark| *mark <= to)
        .collect()
}

/// The greatest of 1, 2, 5, 10, 20, … that is no greater; also 0.5, 0.2, …
fn round_step(most: f64) -> f64 {
    let power = 10_f64.powf(most.log10().floor());
    [5.0, 2.0]
        .into_iter()
        .find(|digit| digit * power <= most)
        .map_or(power, |digit| digit * power)
}

fn count(number: usize) -> Result<u32> {
    Ok(u32::try_from(number)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::chart::Value;

    fn panel(numbers: &[f64]) -> Panel {
        let bar = |number: &f64| {
            Some(Value {
                number: *number,
                text: number.to_string(),
            })
        };
        Panel {
            axis: "up, ms".into(),
            bars: numbers.iter().map(|number| vec![bar(number)]).collect(),
        }
    }

    fn axis(numbers: &[f64]) -> Axis {
        Axis::of(&panel(numbers), 2 * VALUE_WIDTH).unwrap()
    }

    #[test]
    fn an_axis_is_logarithmic_where_its_bars_differ_much() {
        let axis = axis(&[20.5, 2000.0]);
        assert_eq!(axis.title("up, ms"), "up, ms (log\u{a0}scale)");
        let marks: Vec<String> = axis.marks.iter().map(Axis::format).collect();
        assert_eq!(marks[..3], ["10", "100", "1000"]);
        assert!(axis.from < 20.5 && axis.to > 2000.0, "{axis:?}");
        let places = [10.0, 100.0, 1000.0].map(|number| axis.map(&number, (0, 1000)));
        assert_eq!(places[0], 0);
        assert!((places[2] - 2 * places[1]).abs() <= 1, "{places:?}");
    }

    #[test]
    fn a_linear_axis_begins_at_zero() {
        let axis = axis(&[3.0, 18.0]);
        assert_eq!(axis.title("MiB"), "MiB");
        assert_eq!((axis.from, axis.to), (0.0, 36.0));
        assert_eq!(axis.marks, [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
    }

    #[test]
    fn a_least_bar_at_a_power_of_ten_is_seen() {
        assert!(axis(&[10.0, 1000.0]).from < 2.0);
    }

    #[test]
    fn what_an_axis_is_has_lines_of_whole_words() {
        assert_eq!(
            wrap("memory beside payload, MiB", 14),
            ["memory beside", "payload, MiB"]
        );
        assert_eq!(wrap("up, ms", 14), ["up, ms"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn a_panel_without_bars_has_no_axis() {
        assert_eq!(Axis::of(&panel(&[]), WIDTH), None);
    }

    #[test]
    fn text_of_the_page_does_not_become_markup() {
        let picture = Picture {
            title: "t",
            groups_are: "<script>".into(),
            groups: vec!["\"a\" & b".into()],
            series: vec![String::new()],
            panels: vec![panel(&[1.0])],
        };
        let svg = draw(&picture, &THEMES[0]).unwrap();
        assert!(
            !svg.contains("<script>") && svg.contains("&lt;script&gt;"),
            "{svg}"
        );
        assert!(!svg.contains("\"a\""), "{svg}");
    }
}

//! What a table says, as values to draw.

use anyhow::{Context, Result, ensure};

use super::table::Table;

/// A picture of a table.
#[derive(Debug)]
pub(super) struct Chart {
    /// Of its files.
    pub(super) name: &'static str,
    /// What it shows.
    pub(super) title: &'static str,
    /// How its table is made.
    pub(super) shape: Shape,
}

/// How a table is made. A panel is a part of the picture with an axis of its own.
#[derive(Debug)]
pub(super) enum Shape {
    /// The first column says what is run, the second by whom; each of these columns is a panel.
    Grouped {
        /// Their numbers, from 0.
        panels: &'static [usize],
    },
    /// The first column says what is run, the others by whom; a cell has a value for each panel.
    Crossed {
        /// What the values are.
        panels: &'static [&'static str],
    },
    /// The first column says who runs; each of these columns is a panel.
    Rows {
        /// Their numbers, from 0.
        panels: &'static [usize],
        /// The unit of all columns, where they do not say it.
        unit: Option<&'static str>,
    },
}

/// What is drawn.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) title: &'static str,
    /// What the groups are.
    pub(super) groups_are: String,
    /// Bars that stand together.
    pub(super) groups: Vec<String>,
    /// Bars of one colour; one without a name where each group is one bar.
    pub(super) series: Vec<String>,
    pub(super) panels: Vec<Panel>,
}

/// Bars on one axis.
#[derive(Debug, PartialEq)]
pub(super) struct Panel {
    /// What is measured, and the unit.
    pub(super) axis: String,
    /// By group, then by series.
    pub(super) bars: Vec<Vec<Option<Value>>>,
}

/// A number, also as the table writes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) number: f64,
    pub(super) text: String,
}

impl Chart {
    /// What the table says.
    ///
    /// # Errors
    /// It is not of this shape.
    pub(super) fn read(&self, table: &Table) -> Result<Picture> {
        let columns = table.header.len();
        ensure!(columns > 1 && !table.rows.is_empty(), "it is empty");
        let mut picture = Picture {
            title: self.title,
            groups_are: table.header[0].clone(),
            groups: distinct(table.rows.iter().map(|row| &row[0])),
            series: vec![String::new()],
            panels: vec![],
        };
        match &self.shape {
            Shape::Grouped { panels } => {
                picture.series = distinct(table.rows.iter().map(|row| &row[1]));
                for &column in *panels {
                    let mut bars = vec![vec![None; picture.series.len()]; picture.groups.len()];
                    for row in &table.rows {
                        let group = position(&picture.groups, &row[0])?;
                        let series = position(&picture.series, &row[1])?;
                        bars[group][series] = single(cell(row, column)?)?;
                    }
                    let axis = cell(&table.header, column)?.to_owned();
                    picture.panels.push(Panel { axis, bars });
                }
            }
            Shape::Crossed { panels } => {
                picture.series = table.header[1..].to_vec();
                picture.groups.clear();
                picture.panels = panels.iter().map(|axis| empty(axis)).collect();
                for row in &table.rows {
                    let cells: Vec<Vec<Option<Value>>> =
                        row[1..].iter().map(|c| values(c)).collect::<Result<_>>()?;
                    // A row of another unit, as memory, has one value in each cell.
                    if cells.iter().all(|values| values.len() == 1) {
                        continue;
                    }
                    let complete = cells.iter().all(|values| values.len() == panels.len());
                    ensure!(
                        complete,
                        "{:?} has not {} values in each cell",
                        row[0],
                        panels.len()
                    );
                    picture.groups.push(row[0].clone());
                    for (index, panel) in picture.panels.iter_mut().enumerate() {
                        panel
                            .bars
                            .push(cells.iter().map(|values| values[index].clone()).collect());
                    }
                }
                ensure!(
                    !picture.groups.is_empty(),
                    "no row has {} values in each cell",
                    panels.len()
                );
            }
            Shape::Rows { panels, unit } => {
                for &column in *panels {
                    let mut axis = cell(&table.header, column)?.to_owned();
                    if let Some(unit) = unit {
                        axis = format!("{axis}, {unit}");
                    }
                    let bars = table
                        .rows
                        .iter()
                        .map(|row| Ok(vec![single(cell(row, column)?)?]))
                        .collect::<Result<_>>()?;
                    picture.panels.push(Panel { axis, bars });
                }
            }
        }
        Ok(picture)
    }
}

fn empty(axis: &str) -> Panel {
    Panel {
        axis: axis.to_owned(),
        bars: vec![],
    }
}

/// Each once, in the order of their first.
fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut distinct: Vec<String> = vec![];
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    distinct
}

fn position(names: &[String], name: &str) -> Result<usize> {
    names
        .iter()
        .position(|n| n == name)
        .with_context(|| format!("no {name}"))
}

fn cell(row: &[String], column: usize) -> Result<&str> {
    let cell = row
        .get(column)
        .with_context(|| format!("it has no column {}", column + 1))?;
    Ok(cell)
}

/// The value of a cell that has one.
fn single(cell: &str) -> Result<Option<Value>> {
    let mut values = values(cell)?;
    ensure!(values.len() == 1, "{cell:?} is not one value");
    Ok(values.remove(0))
}

/// The values of a cell: `20.5`, `173.5 (8.5×)`, `10.3 / 10.7 (1.2×, 1.3×)`; a dash is none.
fn values(cell: &str) -> Result<Vec<Option<Value>>> {
    let measured = cell.split_once('(').map_or(cell, |(measured, _)| measured);
    measured.split('/').map(|text| value(text.trim())).collect()
}

fn value(text: &str) -> Result<Option<Value>> {
    if text == "–" {
        return Ok(None);
    }
    let number: f64 = text.parse().with_context(|| format!("{text:?} is no number"))?;
    ensure!(number.is_finite() && number > 0.0, "{text} cannot be drawn");
    Ok(Some(Value {
        number,
        text: text.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        let mut rows = text
            .lines()
            .map(|line| line.split(';').map(|cell| cell.trim().to_owned()).collect());
        Table {
            header: rows.next().unwrap(),
            rows: rows.collect(),
        }
    }

    fn read(shape: Shape, text: &str) -> Result<Picture> {
        let chart = Chart {
            name: "n",
            title: "t",
            shape,
        };
        chart.read(&table(text))
    }

    /// The texts of a panel's bars; a dash is none.
    fn texts(panel: &Panel) -> Vec<Vec<&str>> {
        panel
            .bars
            .iter()
            .map(|group| {
                group
                    .iter()
                    .map(|bar| bar.as_ref().map_or("–", |b| &b.text))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn groups_and_series_are_the_first_two_columns() {
        let text = "containers; runtime; up, ms; MiB\n1; a; 20.5; 3\n1; b; 173.5 (8.5×); 4\n4; a; 30; 5";
        let picture = read(Shape::Grouped { panels: &[2, 3] }, text).unwrap();
        assert_eq!(picture.groups_are, "containers");
        assert_eq!(picture.groups, ["1", "4"]);
        assert_eq!(picture.series, ["a", "b"]);
        assert_eq!(picture.panels[0].axis, "up, ms");
        assert_eq!(texts(&picture.panels[0]), [["20.5", "173.5"], ["30", "–"]]);
        assert_eq!(texts(&picture.panels[1]), [["3", "4"], ["5", "–"]]);
    }

    #[test]
    fn cells_of_several_values_are_several_panels() {
        let text = "operation; a; b\nrun; 8.6 / 8.4; 9.1 / 7.4 (1.06×, 0.87×)\npeak, MiB; 6; 7";
        let panels = &["wall, ms", "CPU, ms"];
        let picture = read(Shape::Crossed { panels }, text).unwrap();
        assert_eq!(picture.groups, ["run"]);
        assert_eq!(texts(&picture.panels[0]), [["8.6", "9.1"]]);
        assert_eq!(texts(&picture.panels[1]), [["8.4", "7.4"]]);
    }

    #[test]
    fn rows_are_bars() {
        let shape = || Shape::Rows {
            panels: &[1],
            unit: Some("ms"),
        };
        let picture = read(shape(), "start; hello\nours; 16.8\ntheirs; –").unwrap();
        assert_eq!(picture.panels[0].axis, "hello, ms");
        assert_eq!(texts(&picture.panels[0]), [["16.8"], ["–"]]);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for bad in ["fast", "0", "-1", "NaN", "inf", "", "1 / 2"] {
            let shape = Shape::Rows {
                panels: &[1],
                unit: None,
            };
            let outcome = read(shape, &format!("a; b\nx; {bad}"));
            assert!(outcome.is_err(), "{bad:?}: {outcome:?}");
        }
    }
}

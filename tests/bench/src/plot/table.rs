//! Tables of a Markdown page that have a picture.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A table, as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// What a picture's file is called.
pub(super) fn file_name(picture: &str, theme: &str) -> String {
    format!("{picture}-{theme}.svg")
}

/// The tables that are followed by a picture, by the name of the picture.
///
/// # Errors
/// A picture follows no table, or two tables have the same.
pub(super) fn with_pictures(page: &str) -> Result<BTreeMap<String, Table>> {
    let mut found = BTreeMap::new();
    let mut last: Option<Table> = None;
    let (mut table, mut row, mut cell) = (Table::default(), vec![], String::new());
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Table(_)) => table = Table::default(),
            Event::Start(Tag::TableCell) => cell.clear(),
            Event::Text(text) | Event::Code(text) => cell.push_str(&text),
            Event::End(TagEnd::TableCell) => row.push(cell.trim().to_owned()),
            Event::End(TagEnd::TableHead) => table.header = std::mem::take(&mut row),
            Event::End(TagEnd::TableRow) => table.rows.push(std::mem::take(&mut row)),
            Event::End(TagEnd::Table) => last = Some(std::mem::take(&mut table)),
            Event::Start(Tag::Heading { .. }) => last = None,
            Event::Html(html) | Event::InlineHtml(html) => {
                if let Some(name) = picture(&html) {
                    let table = last
                        .take()
                        .with_context(|| format!("the picture {name} follows no table"))?;
                    let first = found.insert(name.to_owned(), table).is_none();
                    ensure!(first, "two tables have the picture {name}");
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The name of the picture that an HTML tag shows: of its `src`, since a picture has variants.
fn picture(html: &str) -> Option<&str> {
    let (_, rest) = html.split_once("src=\"images/")?;
    let (file, _) = rest.split_once('"')?;
    Some(file.strip_suffix(".svg")?.rsplit_once('-')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# A page

| of no picture | b |
|---|--:|
| 1 | 2 |

## Next

| `a` | b, ms |
|---|--:|
| x \\| y | 1.5 (2.0×) |
| z | – |

<picture>
<source media=\"(prefers-color-scheme: dark)\" srcset=\"images/some-name-dark.svg\">
<img alt=\"what it shows\" src=\"images/some-name-light.svg\">
</picture>
";

    #[test]
    fn a_table_has_the_picture_that_follows_it() {
        let tables = with_pictures(PAGE).unwrap();
        let text = |cells: &[&str]| -> Vec<String> { cells.iter().map(|&cell| cell.into()).collect() };
        let table = Table {
            header: text(&["a", "b, ms"]),
            rows: vec![text(&["x | y", "1.5 (2.0×)"]), text(&["z", "–"])],
        };
        assert_eq!(tables, BTreeMap::from([("some-name".to_owned(), table)]));
    }

    #[test]
    fn a_picture_without_a_table_and_two_tables_of_one_are_errors() {
        let (before, after) = PAGE.split_once("| `a`").unwrap();
        let (_, picture) = after.split_once("\n\n").unwrap();
        let error = with_pictures(&format!("{before}{picture}")).unwrap_err();
        assert_eq!(error.to_string(), "the picture some-name follows no table");
        let error = with_pictures(&format!("{PAGE}\n{PAGE}")).unwrap_err();
        assert_eq!(error.to_string(), "two tables have the picture some-name");
    }
}

//! docs/reference/pod-fields.md: every field of a v1 Pod, and which of three kinds it is.

use std::collections::BTreeMap;

use magik_pri::{FieldKind, pod_fields};
use pulldown_cmark::{Event, Tag, TagEnd};

use crate::{pages::events, read, root};

/// The headers of tables of fields that are not honoured; their rows in other tables begin so, too.
const OTHERS: [(&str, FieldKind); 2] = [("ignored", FieldKind::Ignored), ("refused", FieldKind::Refused)];

/// A cell's text, and what of it is code.
type Cell = (String, Vec<String>);

/// Adds the fields of a table's first column, each with the kind that the table says.
fn add(table: &[Vec<Cell>], prefixes: &[String], fields: &mut BTreeMap<String, FieldKind>) {
    let [head, rows @ ..] = table else { return };
    let head = head.first().map_or("", |(text, _)| text);
    let all = OTHERS.iter().find(|(name, _)| *name == head);
    for row in rows {
        let [(_, names), (said, _)] = &row[..] else {
            continue;
        };
        let one = || OTHERS.iter().find(|(name, _)| said.starts_with(name));
        let kind = all.or_else(one).map_or(FieldKind::Honoured, |(_, kind)| *kind);
        for prefix in prefixes {
            let path = |name: &String| match prefix.as_str() {
                "Pod" => name.clone(),
                prefix => format!("{prefix}.{name}"),
            };
            fields.extend(names.iter().map(|name| (path(name), kind)));
        }
    }
}

/// The fields that the tables of a page have, each with the kind that they are said to be.
///
/// The last paragraph before a table that has code in it has the path of its fields, or several.
fn documented(page: &str) -> BTreeMap<String, FieldKind> {
    let mut fields = BTreeMap::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut paragraph: Option<Vec<String>> = None;
    let mut table: Vec<Vec<Cell>> = Vec::new();
    for event in events(page) {
        match event {
            Event::Start(Tag::Heading { .. }) => prefixes.clear(),
            Event::Start(Tag::Paragraph) => paragraph = Some(Vec::new()),
            Event::End(TagEnd::Paragraph) => {
                let codes = paragraph.take().unwrap_or_default();
                if !codes.is_empty() {
                    prefixes = codes;
                }
            }
            Event::Start(Tag::Table(_)) => table.clear(),
            Event::End(TagEnd::Table) => add(&table, &prefixes, &mut fields),
            Event::Start(Tag::TableHead | Tag::TableRow) => table.push(Vec::new()),
            Event::Start(Tag::TableCell) => {
                if let Some(row) = table.last_mut() {
                    row.push(Cell::default());
                }
            }
            Event::Text(text) => {
                if let Some((cell, _)) = table.last_mut().and_then(|row| row.last_mut()) {
                    cell.push_str(&text);
                }
            }
            Event::Code(code) => {
                if let Some(codes) = &mut paragraph {
                    codes.push(code.to_string());
                } else if let Some((cell, codes)) = table.last_mut().and_then(|row| row.last_mut()) {
                    cell.push_str(&code);
                    codes.push(code.to_string());
                }
            }
            _ => {}
        }
    }
    fields
}

#[test]
fn the_page_on_fields_has_every_field_of_a_pod() {
    let page = read(&root().join("docs/reference/pod-fields.md"));
    let documented = documented(&page);
    let real: BTreeMap<String, Option<FieldKind>> = pod_fields()
        .into_iter()
        .map(|field| (field.path, field.kind))
        .collect();
    let mut wrong = Vec::new();
    for (path, kind) in &real {
        match documented.get(path) {
            None => wrong.push(format!("{path} is missing")),
            Some(said) if Some(*said) != *kind => {
                wrong.push(format!("{path}: it is {kind:?}, and is said to be {said:?}"));
            }
            Some(_) => {}
        }
    }
    let unknown = documented.keys().filter(|path| !real.contains_key(*path));
    wrong.extend(unknown.map(|path| format!("{path}: Kubernetes has no such field")));
    assert!(
        wrong.is_empty(),
        "docs/reference/pod-fields.md: {}",
        wrong.join("\n")
    );
}

#[test]
fn a_table_of_fields_belongs_to_the_paths_above_it() {
    let page = "## A\n\nIn `a` and `b[]`:\n\n| field | here |\n|---|---|\n| `x` | as `y` |\n| `p` | refused: no |\n\n\
                Also\n\n| refused | why |\n|---|---|\n| `q` | none |\n\n| ignored | why |\n|---|---|\n| `r` | none |\n";
    let expected = [
        ("a.p", FieldKind::Refused),
        ("a.q", FieldKind::Refused),
        ("a.r", FieldKind::Ignored),
        ("a.x", FieldKind::Honoured),
        ("b[].p", FieldKind::Refused),
        ("b[].q", FieldKind::Refused),
        ("b[].r", FieldKind::Ignored),
        ("b[].x", FieldKind::Honoured),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(path, kind)| (path.to_owned(), kind)).into();
    assert_eq!(documented(page), expected);
}

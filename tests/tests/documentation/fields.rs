//! docs/reference/pod-fields.md: every field of a v1 Pod, and whether it is supported.

use std::collections::BTreeMap;

use magik_pri::pod_fields;
use pulldown_cmark::{Event, Tag, TagEnd};

use crate::{pages::events, read, root};

/// How a field's row begins that is not supported.
const REFUSED: &str = "refused";

/// The fields that the tables of a page have, each with whether its row says that it is supported.
///
/// A heading has the path that its fields are in, in code (`spec`), or several; the first column of
/// a table has fields, in code, and the second what becomes of them.
fn documented(page: &str) -> BTreeMap<String, bool> {
    let mut fields = BTreeMap::new();
    let (mut prefixes, mut in_heading) = (Vec::new(), false);
    let (mut column, mut in_row, mut names, mut said) = (0, false, Vec::new(), String::new());
    for event in events(page) {
        match event {
            Event::Start(Tag::Heading { .. }) => (in_heading, prefixes) = (true, Vec::new()),
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            Event::Code(code) if in_heading => prefixes.push(code.to_string()),
            Event::Start(Tag::TableRow) => {
                (in_row, column, names, said) = (true, 0, Vec::new(), String::new());
            }
            Event::End(TagEnd::TableCell) => column += 1,
            Event::Code(code) if in_row && column == 0 => names.push(code.to_string()),
            Event::Text(text) | Event::Code(text) if in_row && column == 1 => said.push_str(&text),
            Event::End(TagEnd::TableRow) => {
                in_row = false;
                for prefix in &prefixes {
                    for name in &names {
                        let path = match prefix.as_str() {
                            "Pod" => name.clone(),
                            prefix => format!("{prefix}.{name}"),
                        };
                        fields.insert(path, !said.starts_with(REFUSED));
                    }
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
    let real: BTreeMap<String, bool> = pod_fields()
        .into_iter()
        .map(|field| (field.path, field.supported))
        .collect();
    let mut wrong = Vec::new();
    for (path, supported) in &real {
        match documented.get(path) {
            None => wrong.push(format!("{path} is missing")),
            Some(said) if said != supported => {
                wrong.push(format!(
                    "{path}: it is{} supported",
                    if *supported { "" } else { " not" }
                ));
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
fn a_table_of_fields_is_read_by_its_heading() {
    let page =
        "## In `a` and `b[]`\n\n| field | here |\n|---|---|\n| `x` | as `y` |\n| `p`, `q` | refused: no |\n";
    let expected = [
        ("a.p", false),
        ("a.q", false),
        ("a.x", true),
        ("b[].p", false),
        ("b[].q", false),
        ("b[].x", true),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(path, fine)| (path.to_owned(), fine)).into();
    assert_eq!(documented(page), expected);
}

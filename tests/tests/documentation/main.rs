//! What the pages of docs/ say of the source tree and of the program, so that they cannot rot.

mod fields;
mod pages;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What a row says that names no test, or not for all of it.
const NONE_YET: &str = "no test yet";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The source files below a directory, without what is built.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir)
        .expect("a directory of the source tree")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions in the source tree.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    for dir in ["crates", "tests", "xtask"] {
        sources(&root().join(dir), &mut files);
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim_start().split_once("fn "))
            .map(|(_, rest)| rest.chars().take_while(|c| is_part(*c)).collect())
            .collect()
    };
    files.iter().flat_map(|file| names(&read(file))).collect()
}

/// A row of a table whose last column is called `test`: the first cell and the last.
fn rows_with_tests(page: &str) -> Vec<(String, String)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim()
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in page.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("|--") {
            let cells = cells(line);
            rows.push((cells[0].clone(), cells[cells.len() - 1].clone()));
        } else if cells(line).last().is_some_and(|c| c == "test") {
            inside = true;
        }
    }
    rows
}

/// What stands between backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[track_caller]
fn check(page: &str, at_least: usize) -> Vec<(String, String)> {
    let rows = rows_with_tests(&read(&root().join("docs").join(page)));
    assert!(rows.len() >= at_least, "{page}: {} rows", rows.len());
    let functions = functions();
    for (what, tests) in &rows {
        let mut names = names(tests).peekable();
        assert!(
            names.peek().is_some() || tests.contains(NONE_YET),
            "{page}: {what}: name a test, or say {NONE_YET:?}"
        );
        for name in names {
            assert!(
                functions.contains(name),
                "{page}: {what}: there is no test {name}"
            );
        }
    }
    rows
}

#[test]
fn the_page_on_security_names_tests_that_exist() {
    let rows = check("security.md", 30);
    let all: String = rows.iter().map(|(what, _)| format!("{what} ")).collect();
    for hole in [
        "CVE-2016-9962",
        "CVE-2019-5736",
        "CVE-2019-14271",
        "CVE-2019-16884",
        "CVE-2021-25741",
        "CVE-2021-30465",
        "CVE-2022-0492",
        "CVE-2022-29162",
        "CVE-2023-27561",
        "CVE-2024-1753",
        "CVE-2024-9407",
        "CVE-2024-11218",
        "CVE-2024-21626",
        "CVE-2024-45310",
        "CVE-2025-9566",
        "CVE-2025-27612",
        "CVE-2025-31133",
        "CVE-2025-52565",
        "CVE-2025-52881",
        "CVE-2025-62161",
        "CVE-2025-62518",
        "CVE-2025-62596",
        "CVE-2026-30892",
        "CVE-2026-34971",
        "CVE-2026-34987",
        "CVE-2026-34988",
        "CVE-2026-41579",
        "CVE-2026-46680",
        "CVE-2026-47262",
        "CVE-2026-53495",
        "CVE-2026-88264",
        "CVE-2026-88265",
        "GHSA-2gv2-cffp-j227",
        "GHSA-rr59-xxvx-96qr",
        "GHSA-wwj6-vghv-5p64",
    ] {
        assert!(all.contains(hole), "{hole} has no row");
    }
}

#[test]
fn the_page_on_promises_names_tests_that_exist() {
    check("reference/promises.md", 20);
}

#[test]
fn the_page_on_engines_names_tests_that_exist() {
    check("drop-in.md", 10);
}

/// CVE-2026-34971, -34987 and -34988 are mended in 43.0.1; and Winch, which the second of them is in, is not built in at all.
#[test]
fn wasmtime_is_new_enough_and_has_no_winch() {
    let lock = read(&root().join("Cargo.lock"));
    assert!(!lock.contains("winch"), "Winch is in the lock file");
    let (_, package) = lock
        .split_once("name = \"wasmtime\"\nversion = \"")
        .expect("wasmtime is in the lock file");
    let major = package.split('.').next().and_then(|n| n.parse::<u32>().ok());
    assert!(major.is_some_and(|major| major > 43), "{major:?}");
}

#[test]
fn what_is_not_a_table_of_tests_is_not_read_as_one() {
    let page = "| a | test |\n|---|---|\n| x | `one` `two` |\n| y, z | no test yet |\n\n| a | b |\n|---|---|\n| x | `three` |\n";
    let rows = rows_with_tests(page);
    assert_eq!(rows.len(), 2);
    assert_eq!(names(&rows[0].1).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(rows[1].0, "y, z");
}

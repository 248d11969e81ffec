//! The pages as readers have them: links lead somewhere, the book has every page, commands and
//! manifests are such as the program takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use magik_pri::PodSpec;
use magikrun_tests::binary;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::{read, root};

/// Where the repository is for readers of a page that is not in it (the book, crates.io).
const REPOSITORY: &str = "https://github.com/magikrun/magikrun/";

/// What of a page is checked.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Below the workspace, as `docs/cli.md`.
    pub(crate) path: PathBuf,
    /// Of each heading, as GitHub and mdBook make them.
    anchors: BTreeSet<String>,
    links: Vec<String>,
    /// Language and text.
    code: Vec<(String, String)>,
}

/// The anchor of a heading's text.
fn anchor(heading: &str) -> String {
    let part = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    };
    heading.chars().filter_map(part).collect()
}

/// Reads a page, as mdBook does: with tables and footnotes.
pub(crate) fn events(text: &str) -> Parser<'_> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_STRIKETHROUGH;
    Parser::new_ext(text, options)
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = read(&root().join(&path));
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Self {
        let mut page = Self {
            path,
            ..Self::default()
        };
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let (mut heading, mut block): (Option<String>, Option<(String, String)>) = (None, None);
        for event in events(text) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let id = anchor(&heading.take().unwrap_or_default());
                    let before = seen.entry(id.clone()).or_default();
                    *before += 1;
                    page.anchors.insert(match *before {
                        1 => id,
                        n => format!("{id}-{}", n - 1),
                    });
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some((language.to_string(), String::new()));
                }
                Event::End(TagEnd::CodeBlock) => page.code.extend(block.take()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some((_, code)) = &mut block {
                        code.push_str(&text);
                    } else if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// What a person types: after a prompt, in blocks of the language `console`.
    fn typed(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (_, text) in self.code.iter().filter(|(language, _)| language == "console") {
            let text = text.replace("\\\n", " ");
            let prompt = |line: &str| {
                let line = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
                line.map(str::to_owned)
            };
            lines.extend(text.lines().filter_map(prompt));
        }
        lines
    }
}

fn markdown_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root().join(dir)).expect("a directory").flatten() {
        let path = dir.join(entry.file_name());
        if entry.path().is_dir() {
            markdown_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// The pages of docs/, and those that GitHub and crates.io show.
fn pages() -> Vec<Page> {
    let mut files = vec!["README.md".into(), "SECURITY.md".into()];
    markdown_below(Path::new("docs"), &mut files);
    for entry in fs::read_dir(root().join("crates")).expect("crates").flatten() {
        files.push(Path::new("crates").join(entry.file_name()).join("README.md"));
    }
    files.into_iter().map(Page::read).collect()
}

/// `a/b/../c` is `a/c`; nothing if it leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => normal.push(part),
            Component::CurDir => {}
            Component::ParentDir => normal.pop().then_some(())?,
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// What is wrong with a link, if something is.
fn broken(page: &Page, link: &str, anchors: &BTreeMap<PathBuf, BTreeSet<String>>) -> Option<String> {
    if let Some(path) = link.strip_prefix(REPOSITORY) {
        let path = path.split_once("/main/").map_or("", |(_, path)| path);
        let (path, _) = path.split_once('#').unwrap_or((path, ""));
        let is_there = path.is_empty() || root().join(path).exists();
        return (!is_there).then(|| "there is no such file in the repository".into());
    }
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        page.path.clone()
    } else {
        let Some(target) = normal(&page.path.parent().unwrap_or(Path::new("")).join(path)) else {
            return Some("leads out of the repository".into());
        };
        target
    };
    if !root().join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    if page.path.starts_with("docs") && !target.starts_with("docs") {
        return Some(format!("is not in the book: write {REPOSITORY}blob/main/…"));
    }
    if fragment.is_empty() {
        return None;
    }
    match anchors.get(&target) {
        Some(anchors) if anchors.contains(fragment) => None,
        Some(anchors) => Some(format!(
            "{} has no such heading, but {anchors:?}",
            target.display()
        )),
        None => Some("its target has no headings".into()),
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let anchors = pages
        .iter()
        .map(|page| (page.path.clone(), page.anchors.clone()))
        .collect();
    let mut wrong = Vec::new();
    for page in &pages {
        for link in &page.links {
            if let Some(why) = broken(page, link, &anchors) {
                wrong.push(format!("{}: {link}: {why}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let summary = Page::read("docs/SUMMARY.md".into());
    let listed: BTreeSet<PathBuf> = summary
        .links
        .iter()
        .map(|link| Path::new("docs").join(link))
        .collect();
    assert_eq!(listed.len(), summary.links.len(), "a page is listed twice");
    let mut all = Vec::new();
    markdown_below(Path::new("docs"), &mut all);
    let missing: Vec<_> = all
        .iter()
        .filter(|page| !page.ends_with("SUMMARY.md") && !listed.contains(*page))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
}

/// The arguments of each call of magikrun in a command line of the shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    const OPERATORS: [&str; 9] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"];
    let words = shlex::split(line).unwrap_or_else(|| panic!("quotes of {line:?}"));
    let mut calls = Vec::new();
    for part in words.split(|word| OPERATORS.contains(&word.as_str())) {
        let is_before = |word: &String| word == "sudo" || word == "time" || word.contains('=');
        let mut words = part.iter().skip_while(|word| is_before(word));
        if words
            .next()
            .is_some_and(|word| word == "magikrun" || word.ends_with("/magikrun"))
        {
            calls.push(words.cloned().collect());
        }
    }
    calls
}

/// Lets the program read the arguments and then print its help instead of doing what they say: what
/// it does not know is an error before that.
fn is_understood(arguments: &[String]) -> Result<(), String> {
    let end = arguments.iter().position(|word| word == "--");
    let (before, _) = arguments.split_at(end.unwrap_or(arguments.len()));
    let nowhere = Path::new("/nonexistent");
    let answer = Command::new(binary())
        .args(before)
        .arg("--help")
        .env("MAGIKRUN_DATA_DIR", nowhere)
        .env("MAGIKRUN_STATE_DIR", nowhere)
        .output()
        .expect("magikrun");
    if answer.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&answer.stderr).trim().to_owned())
}

#[test]
fn every_command_of_the_pages_is_one() {
    let mut seen = BTreeMap::new();
    for page in pages() {
        for line in page.typed() {
            for call in calls(&line) {
                seen.entry(call)
                    .or_insert_with(|| format!("{}: {line}", page.path.display()));
            }
        }
    }
    assert!(seen.len() > 50, "only {} commands were found", seen.len());
    let wrong: Vec<String> = seen
        .iter()
        .filter_map(|(call, place)| Some(format!("{place}: {}", is_understood(call).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pod_of_the_pages_is_one() {
    let mut pods = 0;
    for page in pages() {
        let of_yaml = page.code.iter().filter(|(language, _)| language == "yaml");
        for (_, text) in of_yaml.filter(|(_, text)| text.starts_with("apiVersion: v1\nkind: Pod\n")) {
            pods += 1;
            if let Err(e) = PodSpec::from_yaml(text) {
                panic!("{}: {e}: {text}", page.path.display());
            }
        }
    }
    assert!(pods > 5, "only {pods} pods were found");
}

#[test]
fn pages_are_read_as_their_readers_see_them() {
    let text = "# A `b`: c's!\n\n## A b cs\n\n[x](y.md#z) ![p](p.png)\n\n\
                ```console\n$ A=1 magikrun pod ls | head\n# magikrun \\\n  system info && echo\nmagikrun out\n```\n";
    let page = Page::parse("docs/cli.md".into(), text);
    assert_eq!(page.anchors, ["a-b-cs".to_owned(), "a-b-cs-1".to_owned()].into());
    assert_eq!(page.links, ["y.md#z", "p.png"]);
    let typed: Vec<_> = page.typed().iter().flat_map(|line| calls(line)).collect();
    assert_eq!(typed, [["pod", "ls"], ["system", "info"]]);
    for (call, understood) in [
        (["pod", "ls", "--quiet"], true),
        (["pod", "ls", "--quite"], false),
        (["pod", "list-all", "-q"], false),
    ] {
        assert_eq!(
            is_understood(&call.map(str::to_owned)).is_ok(),
            understood,
            "{call:?}"
        );
    }
    let anchors = BTreeMap::from([(page.path.clone(), page.anchors.clone())]);
    for (link, is_fine) in [
        ("#a-b-cs", true),
        ("#a-b", false),
        ("cli.md", true),
        ("none.md", false),
        ("../README.md", false),
        ("../../etc/passwd", false),
        ("https://github.com/magikrun/magikrun/blob/main/README.md", true),
        ("https://github.com/magikrun/magikrun/blob/main/NONE.md", false),
    ] {
        assert_eq!(broken(&page, link, &anchors).is_none(), is_fine, "{link}");
    }
}

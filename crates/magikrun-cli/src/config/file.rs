//! Reading one configuration file: whose it may be, and what it may say.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use magik_pri::{RuntimeClass, parse_quantity};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Deserializer, de};
use toml::de::{DeTable, DeValue};
use tracing::level_filters::LevelFilter;

use super::keys::{KEYS, Users};

/// The largest file that is read, in bytes.
const MAX_SIZE: u64 = 64 << 10;
/// The smallest size of logs: more than what a log is given at a time, which is never divided.
pub(super) const MIN_LOG_SIZE: u64 = 1 << 20;
/// How alike two names must be for one to be a misspelling of the other.
const SIMILAR: f64 = 0.7;

/// What a file says. Its keys are the options' names, and [`KEYS`] has them all.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Values {
    #[serde(default, deserialize_with = "path")]
    pub(crate) data_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "path")]
    pub(crate) state_dir: Option<PathBuf>,
    #[serde(default, deserialize_with = "level")]
    pub(crate) log_level: Option<LevelFilter>,
    #[serde(default, deserialize_with = "size")]
    pub(crate) max_layer_size: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    pub(crate) max_image_size: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    pub(crate) max_layer_files: Option<u64>,
    pub(crate) pull_timeout: Option<u32>,
    pub(crate) http_registries: Option<Vec<String>>,
    pub(crate) allowed_unsafe_sysctls: Option<Vec<String>>,
    #[serde(default, deserialize_with = "class")]
    pub(crate) runtime: Option<RuntimeClass>,
    pub(crate) user_namespaces: Option<Users>,
    #[serde(default)]
    pub(crate) logs: Logs,
}

/// `[logs]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Logs {
    #[serde(default, deserialize_with = "log_size")]
    pub(crate) max_size: Option<u64>,
}

/// A number, or a quantity as Kubernetes writes it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "write a number or a size like \"2Gi\"")]
enum Quantity {
    Number(u64),
    Text(String),
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(Some(match Quantity::deserialize(from)? {
        Quantity::Number(number) => number,
        Quantity::Text(text) => parse_quantity(&text).map_err(de::Error::custom)?,
    }))
}

fn log_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let size = size(from)?;
    match size {
        Some(size) if size < MIN_LOG_SIZE => Err(de::Error::custom(too_small(size))),
        size => Ok(size),
    }
}

/// What is said of a size of logs that is too small.
pub(super) fn too_small(size: u64) -> String {
    format!(
        "{size} bytes are too few for a log: give at least {}Mi",
        MIN_LOG_SIZE >> 20
    )
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(de::Error::custom(format!(
        "{:?} is no absolute path",
        path.display().to_string()
    )))
}

fn level<'de, D: Deserializer<'de>>(from: D) -> Result<Option<LevelFilter>, D::Error> {
    let text = String::deserialize(from)?;
    let level = text.parse().map_err(|_| {
        de::Error::custom(format!(
            "{text:?} is no level: use off, error, warn, info, debug or trace"
        ))
    });
    level.map(Some)
}

fn class<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RuntimeClass>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

/// Who may have written a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Root, or this user; anybody else's is refused.
    Required,
    /// As `Required`, but for root a file of another user does not exist: with `sudo`, `HOME` may
    /// still be that of the user who called it.
    OwnOnly,
}

/// Reads a file; `None` where there is none, or none that is read.
pub(super) fn read(path: &Path, trust: Trust) -> Result<Option<Values>> {
    let Some(text) = text(path, trust, MAX_SIZE)? else {
        return Ok(None);
    };
    let values = parse(&text).map_err(|wrong| {
        let line = wrong.line.map(|line| format!(":{line}")).unwrap_or_default();
        anyhow::anyhow!("{}{line}: {}", path.display(), wrong.reason)
    });
    values.map(Some)
}

/// The text of a file, of which at most `limit` bytes are read.
pub(super) fn text(path: &Path, trust: Trust, limit: u64) -> Result<Option<String>> {
    let user = rustix::process::geteuid().as_raw();
    let name = || path.display().to_string();
    // Not opened until it is known to be a file: a pipe would block, and devices do things when
    // they are opened.
    let found = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(found) => File::from(found),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(io::Error::from(e)).with_context(name),
    };
    let meta = found.metadata().with_context(name)?;
    if !meta.is_file() {
        bail!("{}: is no regular file: remove it", path.display());
    }
    if !matches!(meta.uid(), 0) && meta.uid() != user {
        if trust == Trust::OwnOnly && user == 0 {
            tracing::debug!(path = %path.display(), "not read: it belongs to another user");
            return Ok(None);
        }
        bail!(
            "{}: belongs to user {}, who could change what is done in your name: chown it, or remove it",
            path.display(),
            meta.uid()
        );
    }
    if meta.mode() & 0o022 != 0 {
        bail!(
            "{0}: others may write to it, so it is not read: chmod go-w {0}",
            path.display()
        );
    }
    let mut text = String::new();
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).with_context(name)?;
    let read = file.take(limit + 1).read_to_string(&mut text);
    read.with_context(name)?;
    if text.len() as u64 > limit {
        bail!("{}: is larger than {} KiB", path.display(), limit >> 10);
    }
    Ok(Some(text))
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The line, counted from 1, if it is one line's fault.
    pub(super) line: Option<usize>,
    pub(super) reason: String,
}

/// Reads a file's text.
pub(super) fn parse(text: &str) -> Result<Values, Wrong> {
    let at = |span: Option<Range<usize>>| {
        let end = span.map(|span| span.start.min(text.len()))?;
        Some(text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1)
    };
    let wrong = |e: &toml::de::Error| Wrong {
        line: at(e.span()),
        reason: e.message().split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let table = DeTable::parse(text).map_err(|e| wrong(&e))?;
    if let Some((span, name)) = unknown(table.get_ref(), "") {
        let nearest = nearest(&name).map_or_else(
            || "'magikrun system config' lists the keys".to_owned(),
            |key| format!("did you mean {key}?"),
        );
        return Err(Wrong {
            line: at(Some(span)),
            reason: format!("{name}: unknown key: {nearest}"),
        });
    }
    toml::from_str(text).map_err(|e| wrong(&e))
}

/// The first key that is not known, and where it is.
fn unknown(table: &DeTable<'_>, above: &str) -> Option<(Range<usize>, String)> {
    let mut unknown: Vec<_> = table
        .iter()
        .filter_map(|(key, value)| {
            let name = format!("{above}{}", key.get_ref());
            let inside = format!("{name}.");
            match value.get_ref() {
                _ if KEYS.iter().any(|known| known.name == name) => None,
                DeValue::Table(table) if KEYS.iter().any(|known| known.name.starts_with(&inside)) => {
                    self::unknown(table, &inside)
                }
                _ => Some((key.span(), name)),
            }
        })
        .collect();
    unknown.sort_by_key(|(span, _)| span.start);
    unknown.into_iter().next()
}

/// The key whose name is most like this.
fn nearest(name: &str) -> Option<&'static str> {
    // An underscore is a common slip.
    let name = name.to_lowercase().replace('_', "-");
    let alike = KEYS
        .iter()
        .map(|key| (strsim::jaro_winkler(&name, key.name), key.name));
    let alike = alike.filter(|(similarity, _)| *similarity > SIMILAR);
    alike.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = r#"
            data-dir = "/srv/magikrun"
            state-dir = "/run/other"
            log-level = "error"
            max-layer-size = "2Gi"
            max-image-size = 17179869184
            max-layer-files = 200000
            pull-timeout = 900
            http-registries = ["registry.lan:5000"]
            allowed-unsafe-sysctls = ["net.core.somaxconn"]
            runtime = "microvm"
            user-namespaces = "never"
            [logs]
            max-size = "50M"
        "#;
        let values = parse(text).unwrap();
        assert_eq!(values.data_dir.as_deref(), Some(Path::new("/srv/magikrun")));
        assert_eq!(values.max_layer_size, Some(2 << 30));
        assert_eq!(values.max_image_size, Some(16 << 30));
        assert_eq!(values.logs.max_size, Some(50_000_000));
        assert_eq!(values.runtime, Some(RuntimeClass::MicroVm));
        assert_eq!(values.log_level, Some(LevelFilter::ERROR));
        let lines = text.lines().filter(|line| line.contains('=')).count();
        assert_eq!(lines, KEYS.len(), "a key is not tried");
        assert_eq!(parse("# nothing\n").unwrap(), Values::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, part) in [
            ("\npul-timeout = 3", 2, "did you mean pull-timeout?"),
            ("data_dir = '/x'", 1, "did you mean data-dir?"),
            ("[logs]\nmax-siz = 1", 2, "did you mean logs.max-size?"),
            ("[log]\nmax-size = 1", 1, "log: unknown key"),
            ("frobnicate = 1", 1, "system config"),
            ("\n\npull-timeout = 'soon'", 3, "string"),
            ("max-layer-size = '2Qi'", 1, "no quantity"),
            ("max-layer-size = -1", 1, "2Gi"),
            ("data-dir = 'here'", 1, "no absolute path"),
            ("log-level = 'loud'", 1, "trace"),
            ("runtime = 'docker'", 1, "native, microvm or wasm"),
            ("user-namespaces = 'yes'", 1, "never"),
            ("[logs]\nmax-size = 100", 2, "at least 1Mi"),
            ("a = = 1", 1, ""),
            ("pull-timeout = 1\npull-timeout = 2", 2, "duplicate"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert_eq!(wrong.line, Some(line), "{text}: {wrong:?}");
            assert!(
                wrong.reason.contains(part) && !wrong.reason.contains('\n'),
                "{text}: {}",
                wrong.reason
            );
        }
    }

    #[test]
    fn a_file_that_others_may_change_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(read(&path, Trust::Required).unwrap(), None);
        fs::write(&path, "pull-timeout = 7\n").unwrap();
        for (mode, ok) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read(&path, Trust::OwnOnly) {
                Ok(values) => assert_eq!((ok, values.unwrap().pull_timeout), (true, Some(7))),
                Err(error) => assert!(
                    !ok && error.to_string().contains("chmod go-w"),
                    "{mode:o}: {error}"
                ),
            }
        }
        fs::write(&path, vec![b'#'; 70_000]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = read(&path, Trust::Required).unwrap_err().to_string();
        assert!(error.contains("64 KiB"), "{error}");
        let error = read(dir.path(), Trust::Required).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn root_does_not_read_the_file_of_another_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED root_does_not_read_the_file_of_another_user: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "pull-timeout = 7\n").unwrap();
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        assert_eq!(read(&path, Trust::OwnOnly).unwrap(), None);
        let error = read(&path, Trust::Required).unwrap_err().to_string();
        assert!(error.contains("belongs to user 1234"), "{error}");
    }
}

//! `system config`: every key, its value and where that comes from.

use std::path::PathBuf;

use anyhow::Result;
#[cfg(feature = "registry")]
use magik_image::registries::{RegistriesSource, Rule};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Config, Origin, Set, file::Values, keys::KEYS};
use crate::{
    output::{self, FormatArg},
    roots::GlobalArgs,
};

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown {
    /// The configuration files that were read.
    files: Vec<PathBuf>,
    keys: Vec<Row>,
    /// What registries.conf says of registries.
    registries: Vec<Registry>,
}

#[derive(Debug, Serialize)]
struct Row {
    key: &'static str,
    value: Value,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Debug, Serialize)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<String>,
    file: Option<PathBuf>,
}

#[cfg(feature = "registry")]
impl From<Rule> for Registry {
    fn from(rule: Rule) -> Self {
        Self {
            prefix: rule.prefix,
            location: rule.location,
            insecure: rule.insecure,
            blocked: rule.blocked,
            mirrors: rule.mirrors,
            file: rule.file,
        }
    }
}

/// Prints the configuration that holds for this command line.
pub(crate) fn show(global: &GlobalArgs, format: FormatArg) -> Result<()> {
    let shown = Shown {
        files: global.config.files.iter().map(|(path, _)| path.clone()).collect(),
        keys: rows(global)?,
        registries: registries()?,
    };
    if let Some(document) = format.document() {
        return document.print(&shown);
    }
    let keys = shown
        .keys
        .iter()
        .map(|row| [row.key.to_owned(), text(&row.value), row.origin.to_string()]);
    output::table(["KEY", "VALUE", "FROM"], keys)?;
    if !shown.registries.is_empty() {
        output::line("")?;
        output::table(["REGISTRY", "HOW", "FROM"], shown.registries.iter().map(registry))?;
    }
    Ok(())
}

#[cfg(feature = "registry")]
fn registries() -> Result<Vec<Registry>> {
    use anyhow::Context as _;
    let rules = RegistriesSource::System.load().context("registries.conf")?;
    Ok(rules.rules().map(Registry::from).collect())
}

#[cfg(not(feature = "registry"))]
#[expect(clippy::unnecessary_wraps, reason = "as with registries")]
fn registries() -> Result<Vec<Registry>> {
    Ok(Vec::new())
}

fn rows(global: &GlobalArgs) -> Result<Vec<Row>> {
    let (config, images) = (&global.config, global.images.limits());
    KEYS.iter()
        .map(|known| {
            let key = known.name;
            let (value, origin) = match key {
                "data-dir" => (
                    json!(global.data_root()?),
                    config.origin(key, |v| v.data_dir.is_some()),
                ),
                "state-dir" => (
                    json!(global.state_root()?),
                    config.origin(key, |v| v.state_dir.is_some()),
                ),
                "log-level" => (
                    json!(global.log_level().to_string()),
                    match global.debug() {
                        true => Origin::Flag("--debug"),
                        false => config.origin(key, |v| v.log_level.is_some()),
                    },
                ),
                "max-layer-size" => (
                    json!(images.max_layer_size),
                    config.origin(key, |v| v.max_layer_size.is_some()),
                ),
                "max-image-size" => (
                    json!(images.max_rootfs_size),
                    config.origin(key, |v| v.max_image_size.is_some()),
                ),
                "max-layer-files" => (
                    json!(images.max_files_per_layer),
                    config.origin(key, |v| v.max_layer_files.is_some()),
                ),
                "pull-timeout" => {
                    let timeout = global.images.pull_timeout();
                    let timeout = timeout.unwrap_or(magik_image::pull::IMAGE_PULL_TIMEOUT);
                    (
                        json!(timeout.as_secs()),
                        config.origin(key, |v| v.pull_timeout.is_some()),
                    )
                }
                "http-registries" => of(config.http_registries(), |v| json!(v)),
                "allowed-unsafe-sysctls" => of(config.allowed_unsafe_sysctls(), |v| json!(v)),
                "runtime" => of(config.runtime(), |v| json!(v.as_str())),
                "user-namespaces" => of(config.user_namespaces(), |v| json!(v)),
                _ => {
                    let default = Set {
                        value: magik_pri::limits::MAX_LOG_SIZE,
                        origin: Origin::Default,
                    };
                    of(config.log_size().unwrap_or(default), |v| json!(v))
                }
            };
            Ok(Row { key, value, origin })
        })
        .collect()
}

fn of<T>(set: Set<T>, value: impl Fn(&T) -> Value) -> (Value, Origin) {
    (value(&set.value), set.origin)
}

impl Config {
    /// Where the value of a key comes from that is also an option of all commands.
    fn origin(&self, key: &str, is_set: impl Fn(&Values) -> bool) -> Origin {
        let given = self.given.iter().find(|(name, _)| *name == key);
        let file = || self.file(|values| is_set(values).then_some(()));
        let given = given.map(|(_, origin)| origin.clone());
        given
            .or_else(|| file().map(|set| set.origin))
            .unwrap_or(Origin::Default)
    }
}

/// A value for a person.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "-".to_owned(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn registry(registry: &Registry) -> [String; 3] {
    let mut how = Vec::new();
    if registry.blocked {
        how.push("blocked".to_owned());
    }
    if registry.insecure {
        how.push("insecure".to_owned());
    }
    if registry.location != registry.prefix && !registry.location.is_empty() {
        how.push(format!("is at {}", registry.location));
    }
    if !registry.mirrors.is_empty() {
        how.push(format!("mirrors {}", registry.mirrors.join(" ")));
    }
    let file = registry.file.as_ref().map(|file| file.display().to_string());
    [registry.prefix.clone(), how.join(", "), file.unwrap_or_default()]
}

//! From TOML to entries: pure.

use serde::Deserialize;

use super::{Entry, Mirror, PullFrom};
use crate::one_line::one_line;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<RawEntry>,
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    credential_helpers: Vec<String>,
    #[serde(flatten)]
    rest: toml::Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
    #[serde(flatten)]
    rest: toml::Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
    #[serde(flatten)]
    rest: toml::Table,
}

/// Keys that concern short names only, which are Docker Hub's here, or nothing that we have.
const WITHOUT_MEANING: &[&str] = &["short-name-mode", "aliases", "additional-layer-store-auth-helper"];

/// The entries of a file, and warnings about it.
pub(super) fn entries(text: &str) -> Result<(Vec<Entry>, Vec<String>), String> {
    // The parser's message is a drawing of several lines.
    let file: File = toml::from_str(text).map_err(|e| one_line(&e.to_string()))?;
    let mut remarks = Vec::new();
    if file.rest.get("registries").is_some_and(toml::Value::is_table) {
        return Err(
            "is of version 1, [registries.…]; write [[registry]] (containers-registries.conf(5))".into(),
        );
    }
    if let Some(search) = &file.unqualified_search_registries
        && search
            .iter()
            .any(|registry| registry != crate::reference::DEFAULT_REGISTRY)
    {
        remarks.push(format!(
            "unqualified-search-registries is not followed, short names are Docker Hub's: write {}/NAME",
            search.first().map_or("REGISTRY", String::as_str)
        ));
    }
    if file
        .credential_helpers
        .iter()
        .any(|helper| helper != "containers-auth.json")
    {
        remarks.push("credential-helpers is not followed: name helpers in auth.json, credHelpers".into());
    }
    let unknown = |rest: &toml::Table, at: &str| -> Vec<String> {
        let keys = rest.keys().filter(|key| !WITHOUT_MEANING.contains(&key.as_str()));
        keys.map(|key| format!("{at}{key} is not known and ignored"))
            .collect()
    };
    remarks.extend(unknown(&file.rest, ""));
    let mut entries = Vec::with_capacity(file.registry.len());
    for raw in file.registry {
        remarks.extend(unknown(&raw.rest, "registry."));
        for mirror in &raw.mirror {
            remarks.extend(unknown(&mirror.rest, "registry.mirror."));
        }
        entries.push(entry(raw)?);
    }
    Ok((entries, remarks))
}

fn entry(raw: RawEntry) -> Result<Entry, String> {
    let prefix = if raw.prefix.is_empty() {
        &raw.location
    } else {
        &raw.prefix
    };
    let prefix = place(prefix, "prefix")?;
    if prefix.is_empty() {
        return Err("a [[registry]] has neither a prefix nor a location".into());
    }
    let is_wildcard = prefix.starts_with('*');
    if is_wildcard && (!prefix.starts_with("*.") || prefix[1..].contains(['*', '/'])) {
        return Err(format!(
            "registry prefix {prefix:?}: a wildcard is *.DOMAIN and nothing else"
        ));
    }
    let mut location = place(&raw.location, "location")?;
    if location.is_empty() && !is_wildcard {
        location.clone_from(&prefix);
    }
    let mirrors = raw.mirror.into_iter().map(|mirror| {
        let pull = match (mirror.pull_from_mirror.as_str(), raw.mirror_by_digest_only) {
            ("", true) => PullFrom::DigestOnly,
            ("", false) => PullFrom::All,
            (value, true) => {
                return Err(format!("registry {prefix}: pull-from-mirror = {value:?} beside mirror-by-digest-only"));
            }
            ("all", _) => PullFrom::All,
            ("digest-only", _) => PullFrom::DigestOnly,
            ("tag-only", _) => PullFrom::TagOnly,
            (other, _) => {
                return Err(format!(
                    "registry {prefix}: pull-from-mirror = {other:?} is none of \"all\", \"digest-only\", \"tag-only\""
                ));
            }
        };
        let location = place(&mirror.location, "mirror location")?;
        if location.is_empty() {
            return Err(format!("registry {prefix}: a mirror has no location"));
        }
        Ok(Mirror { location, insecure: mirror.insecure, pull })
    });
    Ok(Entry {
        mirrors: mirrors.collect::<Result<_, String>>()?,
        prefix,
        location,
        insecure: raw.insecure,
        blocked: raw.blocked,
        file: None,
    })
}

/// A registry, or a part of its names: no scheme, and no slash at the end.
fn place(text: &str, what: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(format!(
            "registry {what} {text:?}: a host name is wanted, without https://"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

//! `state`, `list` and `ps`: what containers there are and what runs in them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use magik_oci::{ContainerState, Status};
use serde::{Deserialize, Serialize};

use super::{
    args::{Format, ListArgs, PsArgs},
    process::read,
};
use crate::output;

/// The longest config.json that is read for its root path.
const MAX_CONFIG_SIZE: u64 = 4 << 20;

/// A container's state with what runc's callers expect beside the runtime-spec's fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 once stopped: runc's callers decode an integer.
    pid: i32,
    status: Status,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "std::collections::HashMap::is_empty")]
    annotations: &'a std::collections::HashMap<String, String>,
    owner: String,
}

impl<'a> Shown<'a> {
    fn new(state: &'a ContainerState, root: &Path) -> Self {
        Self {
            oci_version: &state.oci_version,
            id: state.id.as_str(),
            pid: state.pid.unwrap_or(0),
            status: state.status,
            bundle: &state.bundle,
            rootfs: rootfs(&state.bundle),
            created: state.created.as_deref(),
            annotations: &state.annotations,
            owner: owner(&root.join(&state.id)),
        }
    }
}

/// The absolute path of the bundle's root file system, if the bundle can still say.
pub(super) fn rootfs(bundle: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        root: Root,
    }
    #[derive(Deserialize)]
    struct Root {
        path: String,
    }
    let config: Config =
        serde_json::from_slice(&read(&bundle.join("config.json"), MAX_CONFIG_SIZE).ok()?).ok()?;
    Some(bundle.join(config.root.path).display().to_string())
}

/// Whose the container is, by name if there is one.
fn owner(directory: &Path) -> String {
    let Ok(metadata) = fs::metadata(directory) else {
        return String::new();
    };
    let uid = metadata.uid();
    if uid == 0 {
        return "root".to_owned();
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// `state`.
pub(super) fn state(state: &ContainerState, root: &Path) -> Result<()> {
    output::json(&Shown::new(state, root))
}

/// `list`.
pub(super) fn list(args: &ListArgs, states: &[ContainerState], root: &Path) -> Result<()> {
    if args.quiet {
        return output::write(
            states
                .iter()
                .map(|s| format!("{}\n", s.id))
                .collect::<String>()
                .as_bytes(),
        );
    }
    let shown: Vec<_> = states.iter().map(|s| Shown::new(s, root)).collect();
    if args.format == Format::Json {
        return output::json_line(&shown);
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(shown.iter().map(|s| {
        [
            s.id.to_owned(),
            s.pid.to_string(),
            s.status.to_string(),
            s.bundle.display().to_string(),
            s.created.unwrap_or_default().to_owned(),
            s.owner.clone(),
        ]
    }));
    output::write(table(&rows).as_bytes())
}

/// Columns as runc's: at least 12 wide, three spaces apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|r| r[column].chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(12)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

/// `ps`.
pub(super) fn ps(args: &PsArgs, pids: &[i32]) -> Result<()> {
    if args.format == Format::Json {
        return output::json_line(&pids);
    }
    let options: &[String] = if args.ps_options.is_empty() {
        &["-ef".to_owned()]
    } else {
        &args.ps_options
    };
    let ps = Command::new("ps").args(options).output().context("run ps")?;
    if !ps.status.success() {
        bail!(
            "ps {}: {}",
            options.join(" "),
            String::from_utf8_lossy(&ps.stderr).trim()
        );
    }
    output::write(only(&String::from_utf8_lossy(&ps.stdout), pids)?.as_bytes())
}

/// The header of ps's output and the lines of the given processes.
fn only(listing: &str, pids: &[i32]) -> Result<String> {
    let mut lines = listing.lines();
    let header = lines.next().unwrap_or_default();
    let Some(column) = header.split_whitespace().position(|name| name == "PID") else {
        bail!("ps printed no PID column: choose options that show it");
    };
    let wanted = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(header)
        .chain(lines.filter(wanted))
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(bundle: &Path, status: Status, pid: Option<i32>) -> ContainerState {
        ContainerState {
            oci_version: "1.2.0".into(),
            id: "web".parse().unwrap(),
            status,
            pid,
            bundle: bundle.into(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            created: Some("2026-01-01T00:00:00Z".into()),
        }
    }

    #[test]
    fn a_stopped_container_has_pid_0() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.json"),
            r#"{"root":{"path":"rootfs"},"other":[1]}"#,
        )
        .unwrap();
        let state = example(dir.path(), Status::Stopped, None);
        let value = serde_json::to_value(Shown::new(&state, Path::new("/nosuch"))).unwrap();
        assert_eq!(value["pid"], 0);
        assert_eq!(value["status"], "stopped");
        assert_eq!(value["rootfs"], dir.path().join("rootfs").display().to_string());
        assert_eq!(value["annotations"]["a"], "b");
        assert_eq!(value["ociVersion"], "1.2.0");
    }

    #[test]
    fn the_table_is_aligned_as_runcs() {
        let rows = [
            ["ID", "PID"].map(str::to_owned),
            ["a-rather-long-name", "7"].map(str::to_owned),
        ];
        assert_eq!(table(&rows), "ID                   PID\na-rather-long-name   7\n");
        assert_eq!(table(&rows[..1]), "ID          PID\n");
    }

    #[test]
    fn ps_shows_the_containers_processes_only() {
        let listing = "UID  PID CMD\nroot 1 init 7\nroot 7 web\n";
        assert_eq!(only(listing, &[7]).unwrap(), "UID  PID CMD\nroot 7 web\n");
        assert!(only("CMD\nweb\n", &[7]).is_err());
    }
}

//! The values of podman's options, and what they are in a Pod.

use std::{
    env,
    fs::File,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use magik_pri::parse_quantity;
use serde_json::{Value, json};

/// The largest file of variables, in bytes.
const MAX_ENV_FILE: u64 = 1 << 20;

/// The name of a pod that has none: the image's, without its registry, tag and digest.
pub(super) fn name_of(image: &str) -> String {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = last.split(':').find(|part| !part.is_empty()).unwrap_or_default();
    let name = name
        .to_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let name = name.trim_matches('-').chars().take(63).collect::<String>();
    if name.is_empty() { "pod".into() } else { name }
}

/// What a container gets to see unchanged: Kubernetes replaces `$(NAME)`, and takes `$$` for `$`.
pub(super) fn literal(text: &str) -> Value {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        out.push(c);
        if c == '$' && matches!(rest.peek(), Some('$' | '(')) {
            out.push('$');
        }
    }
    out.into()
}

/// A capability without docker's `CAP_`.
pub(super) fn capability(name: &str) -> Value {
    let name = name.to_uppercase();
    name.strip_prefix("CAP_").unwrap_or(&name).into()
}

/// Bytes: docker's `512m` and `2g` are MiB and GiB; `512Mi` and `2G` are as Kubernetes has them.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let power = match text.chars().last() {
        Some('b') => 0,
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => return parse_quantity(text),
    };
    let number: f64 = text[..text.len() - 1]
        .parse()
        .map_err(|_| "give it as 512m, 2g or 2Gi".to_owned())?;
    let bytes = number * f64::from(1u32 << power);
    if (0.0..=9e15).contains(&bytes) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked"
        )]
        Ok(bytes.round() as u64)
    } else {
        Err("give it as 512m, 2g or 2Gi".into())
    }
}

/// `-e NAME=VALUE`, or `-e NAME`: that of our own environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Env {
    name: String,
    value: Option<String>,
}

impl FromStr for Env {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("give it as NAME=VALUE, or NAME".into());
        }
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

impl Env {
    /// Its name and its value.
    pub(super) fn value(&self) -> Result<(String, String)> {
        let value = match &self.value {
            Some(value) => value.clone(),
            None => match env::var(&self.name) {
                Ok(value) => value,
                Err(_) => bail!(
                    "pod run: -e {0}: it is not set here: give -e {0}=VALUE",
                    self.name
                ),
            },
        };
        Ok((self.name.clone(), value))
    }
}

/// The variables of a file: a line each, `NAME=VALUE`; `#` begins a comment.
pub(super) fn env_file(path: &Path) -> Result<Vec<(String, String)>> {
    let name = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_ENV_FILE + 1).read_to_string(&mut text));
    read.with_context(|| name.to_string())?;
    if text.len() as u64 > MAX_ENV_FILE {
        bail!("{name}: larger than {} MiB", MAX_ENV_FILE >> 20);
    }
    let lines = text.lines().map(str::trim_start).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read = |(at, line): (usize, &str)| {
        let env: Env = line
            .parse()
            .map_err(|why| anyhow::anyhow!("{name}:{}: {why}", at + 1))?;
        env.value()
    };
    lines.map(read).collect()
}

/// `-p [IP:]HOST:PORT[/tcp]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publish {
    ip: Option<IpAddr>,
    host: u16,
    port: u16,
}

impl FromStr for Publish {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give it as [IP:]HOST:PORT, e.g. 8080:80".to_owned();
        let ports = match text.split_once('/') {
            None | Some((_, "tcp")) => text.split('/').next().unwrap_or_default(),
            Some((_, protocol)) => {
                return Err(format!(
                    "only TCP is forwarded, not {protocol}: use --network host"
                ));
            }
        };
        let (rest, port) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (ip, host) = match rest.rsplit_once(':') {
            Some((ip, host)) => (Some(ip.trim_matches(['[', ']'])), host),
            None => (None, rest),
        };
        let number = |text: &str| text.parse().ok().filter(|port| *port > 0).ok_or_else(wrong);
        Ok(Self {
            ip: ip
                .filter(|ip| !ip.is_empty())
                .map(|ip| ip.parse().map_err(|_| format!("{ip:?} is no IP address")))
                .transpose()?,
            host: number(host)?,
            port: number(port)?,
        })
    }
}

impl Publish {
    /// As Kubernetes has it.
    pub(super) fn port(&self) -> Value {
        let mut port = json!({"containerPort": self.port, "hostPort": self.host});
        if let Some(ip) = self.ip {
            port["hostIP"] = ip.to_string().into();
        }
        port
    }
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VolumeFrom {
    /// A path of the host.
    Path(PathBuf),
    /// A volume with a name.
    Named(String),
}

/// `-v SOURCE:PATH[:ro]`, or `-v PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeOption {
    pub(super) source: Option<VolumeFrom>,
    pub(super) path: String,
    pub(super) read_only: bool,
}

impl FromStr for VolumeOption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, path, options) = match parts[..] {
            [path] => (None, path, ""),
            [source, path] => (Some(source), path, ""),
            [source, path, options] => (Some(source), path, options),
            _ => return Err("give it as SOURCE:PATH[:ro]".into()),
        };
        let mut read_only = false;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "rw" => read_only = false,
                other => return Err(format!("{other:?} is none of ro, rw")),
            }
        }
        if !path.starts_with('/') {
            return Err(format!("{path:?}: a path in the container begins with /"));
        }
        // As podman has it: what has a slash is a path.
        let from = |source: &str| {
            if source.contains('/') || source.starts_with('.') {
                VolumeFrom::Path(source.into())
            } else {
                VolumeFrom::Named(source.to_owned())
            }
        };
        Ok(Self {
            source: source.map(from),
            path: path.to_owned(),
            read_only,
        })
    }
}

/// `--tmpfs PATH[:size=SIZE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tmpfs {
    pub(super) path: String,
    pub(super) size: Option<u64>,
}

impl FromStr for Tmpfs {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        if !path.starts_with('/') {
            return Err(format!("{path:?}: a path in the container begins with /"));
        }
        let mut size = None;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", text)) => size = Some(memory(text)?),
                _ if option == "rw" => {}
                _ => return Err(format!("{option:?}: only size=SIZE can be chosen")),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            size,
        })
    }
}

/// `-u UID[:GID]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: Option<u32>,
}

impl FromStr for User {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is no number: give UID[:GID]"))
        };
        Ok(Self {
            uid: number(uid)?,
            gid: gid.map(number).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_called_as_its_image() {
        for (image, name) in [
            ("nginx", "nginx"),
            ("nginx:1.27", "nginx"),
            ("ghcr.io/User/My_App:v2@sha256:00", "my-app"),
            ("localhost:5000/db", "db"),
            ("oci:./layouts/web.d:v1", "web-d"),
            ("oci:/", "oci"),
            ("@", "pod"),
        ] {
            assert_eq!(name_of(image), name, "{image}");
        }
    }

    #[test]
    fn sizes_are_docker_s_where_they_are_written_small() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("7b", 7),
            ("2Mi", 2 << 20),
            ("1G", 1_000_000_000),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "m", "xm", "-1m", "infg", "nang", "9999999999999999g"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_are_podman_s() {
        let port = |text: &str| text.parse::<Publish>().map(|p| p.port());
        assert_eq!(
            port("8080:80").unwrap(),
            json!({"containerPort": 80, "hostPort": 8080})
        );
        assert_eq!(
            port("127.0.0.1:8080:80/tcp").unwrap(),
            json!({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"})
        );
        assert_eq!(
            port("[::1]:8080:80").unwrap(),
            json!({"containerPort": 80, "hostPort": 8080, "hostIP": "::1"})
        );
        for wrong in ["80", "0:80", "a:80", "80:99999", "x:1:1", "53:53/udp", "1:2:3:4"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn volumes_are_podman_s() {
        let volume = |text: &str| text.parse::<VolumeOption>();
        assert_eq!(
            volume("./site:/page:ro"),
            Ok(VolumeOption {
                source: Some(VolumeFrom::Path("./site".into())),
                path: "/page".into(),
                read_only: true
            })
        );
        let named = volume("data:/data").unwrap();
        assert_eq!(named.source, Some(VolumeFrom::Named("data".into())));
        assert!(volume("/cache").is_ok_and(|v| v.source.is_none()));
        for wrong in ["/a:b", "/a:/b:z", "/a:/b:ro:x", "", "/a:"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }
}

//! A container of a pod that is made of options.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use magikrun::failure;
use serde_json::{Map, Value, json};

use super::values::{self, Env, Publish, Tmpfs, User, VolumeFrom, VolumeOption, literal};

/// The options of a container, in podman's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(in crate::pod) struct ContainerOptions {
    /// Forward a port of the host
    #[arg(short, long, value_name = "[IP:]HOST:PORT")]
    publish: Vec<Publish>,
    /// Mount a host path, a named volume, or an empty directory
    #[arg(short, long, value_name = "[SOURCE:]PATH[:ro]")]
    volume: Vec<VolumeOption>,
    /// Set a variable; without a value, to what it is here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<Env>,
    /// Variables from a file of lines NAME=VALUE
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    env_file: Vec<PathBuf>,
    /// The most memory: 512m, 2g
    #[arg(short, long, value_name = "SIZE", value_parser = values::memory)]
    memory: Option<u64>,
    /// The most processors: 1.5
    #[arg(long, value_name = "N", hide_short_help = true)]
    cpus: Option<String>,
    /// An empty directory in memory
    #[arg(long, value_name = "PATH[:size=SIZE]", hide_short_help = true)]
    tmpfs: Vec<Tmpfs>,
    /// The user it runs as [default: the image's]
    #[arg(short, long, value_name = "UID[:GID]", hide_short_help = true)]
    user: Option<User>,
    /// Where the program starts [default: the image's]
    #[arg(short, long, value_name = "DIR", hide_short_help = true)]
    workdir: Option<String>,
    /// The program, instead of the image's
    #[arg(long, value_name = "PROGRAM", hide_short_help = true)]
    entrypoint: Option<String>,
    /// Nothing can be written into its root file system
    #[arg(long, hide_short_help = true)]
    read_only: bool,
    /// Everything of the host's is open to it
    #[arg(long, hide_short_help = true)]
    privileged: bool,
    /// A capability more
    #[arg(long, value_name = "CAPABILITY", hide_short_help = true)]
    cap_add: Vec<String>,
    /// A capability to take away, or all
    #[arg(long, value_name = "CAPABILITY", hide_short_help = true)]
    cap_drop: Vec<String>,
    /// Hand our standard input to it, and attach
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal; with -i: ours
    #[arg(short, long, hide_short_help = true)]
    tty: bool,
    /// The image of its first container; options come before it
    #[arg(value_name = "IMAGE", help_heading = "Arguments", display_order = 1)]
    image: Option<String>,
    /// The arguments of the image's program, or the program with its arguments
    #[arg(
        trailing_var_arg = true,
        display_order = 2,
        value_name = "COMMAND",
        help_heading = "Arguments"
    )]
    command: Vec<String>,
}

/// What `--container` has after its name.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct AnotherArgs {
    #[command(flatten)]
    options: ContainerOptions,
}

/// One more container.
pub(super) struct Another {
    pub(super) name: String,
    pub(super) options: ContainerOptions,
}

impl Another {
    /// Reads `NAME=IMAGE [OPTION…] [-- COMMAND…]`, with a shell's quotes.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = || anyhow!("--container {text:?}: give it as 'NAME=IMAGE [OPTION…] [-- COMMAND…]'");
        let words =
            shlex::split(text).with_context(|| format!("--container {text:?}: a quote is not closed"))?;
        let (first, rest) = words.split_first().ok_or_else(wrong)?;
        let (name, image) = first.split_once('=').ok_or_else(wrong)?;
        if name.is_empty() || image.is_empty() || name.starts_with('-') {
            return Err(wrong());
        }
        let words = [image].into_iter().chain(rest.iter().map(String::as_str));
        let args = AnotherArgs::try_parse_from(words).map_err(|error| {
            let line = failure::usage_line(&error.render().to_string(), "magikrun pod run");
            anyhow!("--container {name}: {line}")
        })?;
        Ok(Self {
            name: name.to_owned(),
            options: args.options,
        })
    }
}

impl ContainerOptions {
    /// Whether it gets input.
    pub(super) fn is_interactive(&self) -> bool {
        self.interactive
    }

    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// The container as Kubernetes writes it; its volumes are added to the pod's.
    pub(super) fn container(&self, name: &str, volumes: &mut Vec<Value>) -> Result<Value> {
        let mut container = Map::new();
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                container.insert(field.into(), value);
            }
        };
        let literals = |words: &[String]| -> Value { words.iter().map(|word| literal(word)).collect() };
        set("stdin", self.interactive.then_some(true.into()));
        set("stdinOnce", self.interactive.then_some(true.into()));
        set("tty", self.tty.then_some(true.into()));
        set("name", Some(name.into()));
        set("image", self.image.as_deref().map(Into::into));
        // As podman has it: what is here is not looked for elsewhere.
        set("imagePullPolicy", Some("IfNotPresent".into()));
        set(
            "command",
            self.entrypoint.as_ref().map(|program| json!([literal(program)])),
        );
        set(
            "args",
            (!self.command.is_empty()).then(|| literals(&self.command)),
        );
        set("workingDir", self.workdir.as_deref().map(Into::into));
        let ports: Vec<Value> = self.publish.iter().map(Publish::port).collect();
        set("ports", (!ports.is_empty()).then(|| ports.into()));
        let env = self.environment()?;
        set("env", (!env.is_empty()).then(|| env.into()));
        set("resources", self.resources());
        set("securityContext", self.security());
        let mounts = self.mounts(volumes)?;
        set("volumeMounts", (!mounts.is_empty()).then(|| mounts.into()));
        Ok(Value::Object(container))
    }

    fn environment(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for file in &self.env_file {
            all.extend(values::env_file(file)?);
        }
        for env in &self.env {
            all.push(env.value()?);
        }
        let variable = |(name, value): (String, String)| json!({"name": name, "value": literal(&value)});
        Ok(all.into_iter().map(variable).collect())
    }

    fn resources(&self) -> Option<Value> {
        let mut limits = Map::new();
        if let Some(cpus) = &self.cpus {
            limits.insert("cpu".into(), cpus.as_str().into());
        }
        if let Some(memory) = self.memory {
            limits.insert("memory".into(), memory.to_string().into());
        }
        (!limits.is_empty()).then(|| json!({ "limits": limits }))
    }

    fn security(&self) -> Option<Value> {
        let mut security = Map::new();
        if let Some(user) = self.user {
            security.insert("runAsUser".into(), user.uid.into());
            if let Some(gid) = user.gid {
                security.insert("runAsGroup".into(), gid.into());
            }
        }
        if self.read_only {
            security.insert("readOnlyRootFilesystem".into(), true.into());
        }
        if self.privileged {
            security.insert("privileged".into(), true.into());
        }
        let mut capabilities = Map::new();
        for (field, names) in [("add", &self.cap_add), ("drop", &self.cap_drop)] {
            if !names.is_empty() {
                let names = names.iter().map(|name| values::capability(name));
                capabilities.insert(field.into(), names.collect());
            }
        }
        if !capabilities.is_empty() {
            security.insert("capabilities".into(), Value::Object(capabilities));
        }
        (!security.is_empty()).then_some(Value::Object(security))
    }

    fn mounts(&self, volumes: &mut Vec<Value>) -> Result<Vec<Value>> {
        let mut mounts = Vec::new();
        let mut add = |path: &str, read_only: bool, source: (&str, Value)| {
            let name = format!("volume-{}", volumes.len() + 1);
            volumes.push(json!({"name": name, source.0: source.1}));
            let mut mount = json!({"name": name, "mountPath": path});
            if read_only {
                mount["readOnly"] = true.into();
            }
            mounts.push(mount);
        };
        for volume in &self.volume {
            let source = match &volume.source {
                Some(VolumeFrom::Named(name)) => ("persistentVolumeClaim", json!({ "claimName": name })),
                Some(VolumeFrom::Path(source)) => {
                    let path = source.canonicalize();
                    let path = path.with_context(|| format!("pod run: -v {}", source.display()))?;
                    let Some(path) = path.to_str() else {
                        bail!("pod run: -v {}: its name is no text in UTF-8", path.display());
                    };
                    ("hostPath", json!({ "path": path }))
                }
                None => ("emptyDir", json!({})),
            };
            add(&volume.path, volume.read_only, source);
        }
        for tmpfs in &self.tmpfs {
            let mut source = json!({"medium": "Memory"});
            if let Some(size) = tmpfs.size {
                source["sizeLimit"] = size.to_string().into();
            }
            add(&tmpfs.path, false, ("emptyDir", source));
        }
        Ok(mounts)
    }
}

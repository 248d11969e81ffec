//! A pod without a manifest: from the options of `pod run`, which are podman's.

mod container;
mod values;

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use magik_pri::{PodSpec, VolumeSource};
use magikrun::failure;
use serde_json::{Map, Value, json};

use self::container::Another;
pub(super) use self::container::ContainerOptions;
use super::{manifest, name_and_value};

/// The options of a pod; those of its first container are beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[group(id = "pod_options", multiple = true)]
#[command(next_help_heading = "Without a manifest")]
pub(super) struct PodOptions {
    /// The pod's name [default: the image's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Another container: 'NAME=IMAGE [OPTION…] [-- COMMAND…]'
    #[arg(long, value_name = "CONTAINER")]
    container: Vec<String>,
    /// A label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = name_and_value, hide_short_help = true)]
    label: Vec<(String, String)>,
    /// An annotation
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value, hide_short_help = true)]
    annotation: Vec<(String, String)>,
    /// What its containers call their host [default: the pod's name]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    hostname: Option<String>,
    /// The host's network, or only a loopback of its own
    #[arg(long, value_name = "host|none", value_parser = ["host", "none"], hide_possible_values = true, hide_short_help = true)]
    network: Option<String>,
    /// The seconds between SIGTERM and SIGKILL when it is stopped [default: 30]
    #[arg(long, value_name = "SECONDS", hide_short_help = true)]
    stop_timeout: Option<u32>,
    /// The seconds after which it is killed, and has failed
    #[arg(long, value_name = "SECONDS", hide_short_help = true)]
    timeout: Option<u32>,
    #[command(flatten)]
    first: ContainerOptions,
}

/// A pod as Kubernetes writes it, and as it is run.
pub(super) struct Composed {
    /// The v1 Pod.
    pub(super) manifest: Value,
    /// The same, checked.
    pub(super) spec: PodSpec,
}

impl PodOptions {
    /// Whether who runs it sits at its first container.
    pub(super) fn is_interactive(&self) -> bool {
        self.first.is_interactive()
    }

    /// The pod, in `namespace`, or the default one.
    ///
    /// Its containers are started in the order in which they were given.
    pub(super) fn compose(&self, namespace: Option<&str>) -> Result<Composed> {
        let mut others = Vec::new();
        for text in &self.container {
            others.push(Another::parse(text).map_err(|e| failure::with_code(failure::USAGE, e))?);
        }
        let name = match (&self.name, self.first.image(), others.first()) {
            (Some(name), ..) => name.clone(),
            (None, Some(image), _) => values::name_of(image),
            (None, None, Some(other)) => other.name.clone(),
            (None, None, None) => {
                let missing = anyhow!(
                    "pod run: give a manifest with -f FILE, or an IMAGE: see 'magikrun pod run --help'"
                );
                return Err(failure::with_code(failure::USAGE, missing));
            }
        };
        let mut volumes = Vec::new();
        let mut containers = Vec::new();
        if let Some(file) = self.first.image().filter(|image| is_manifest(image)) {
            let meant = anyhow!("pod run: {file} is a file, and no image: write -f {file}");
            return Err(failure::with_code(failure::USAGE, meant));
        }
        if self.first.image().is_some() {
            // A pod's name may have dots, a container's may not.
            containers.push(self.first.container(&name.replace('.', "-"), &mut volumes)?);
        } else if self.first != ContainerOptions::default() {
            bail!("pod run: options of a container, and no IMAGE: write them into its --container");
        }
        for other in others {
            containers.push(other.options.container(&other.name, &mut volumes)?);
        }
        let made = self.manifest(&name, namespace, containers, volumes);
        let spec = PodSpec::from_value(made.clone());
        let mut spec = spec.map_err(|errors| manifest::mistakes("pod run", &errors))?;
        // As podman has it: -v NAME:/path makes the volume.
        for volume in &mut spec.volumes {
            if let VolumeSource::Claim(claim) = &mut volume.source {
                claim.make = true;
            }
        }
        Ok(Composed { manifest: made, spec })
    }

    fn manifest(
        &self,
        name: &str,
        namespace: Option<&str>,
        containers: Vec<Value>,
        volumes: Vec<Value>,
    ) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".into(), name.into());
        if let Some(namespace) = namespace {
            metadata.insert("namespace".into(), namespace.into());
        }
        for (field, pairs) in [("labels", &self.label), ("annotations", &self.annotation)] {
            if !pairs.is_empty() {
                let pairs = pairs
                    .iter()
                    .map(|(name, value)| (name.clone(), value.as_str().into()));
                metadata.insert(field.into(), Value::Object(pairs.collect()));
            }
        }
        let mut spec = Map::new();
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec.insert(field.into(), value);
            }
        };
        set("restartPolicy", Some("Never".into()));
        set("hostname", self.hostname.as_deref().map(Into::into));
        set(
            "hostNetwork",
            (self.network.as_deref() == Some("host")).then_some(true.into()),
        );
        set("terminationGracePeriodSeconds", self.stop_timeout.map(Into::into));
        set("activeDeadlineSeconds", self.timeout.map(Into::into));
        set("containers", Some(containers.into()));
        set("volumes", (!volumes.is_empty()).then(|| volumes.into()));
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }
}

/// Whether what stands in the place of an image is a manifest's file.
fn is_manifest(text: &str) -> bool {
    let path = Path::new(text);
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use magik_pri::EnvValue;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Options {
        #[command(flatten)]
        pod: PodOptions,
    }

    fn compose(args: &[&str]) -> Result<Composed> {
        Options::try_parse_from(args)?.pod.compose(None)
    }

    fn spec(args: &[&str]) -> PodSpec {
        compose(args).unwrap().spec
    }

    #[test]
    fn the_options_are_fields_of_a_pod() {
        let composed = compose(&[
            "-p",
            "127.0.0.1:8080:80",
            "-e",
            "A=b",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "-u",
            "7:8",
            "--read-only",
            "--cap-drop",
            "all",
            "--cap-add",
            "CAP_net_raw",
            "-l",
            "app=web",
            "--tmpfs",
            "/run:size=1m",
            "--entrypoint",
            "/init",
            "localhost:5000/web.d:1",
            "--",
            "-x",
        ]);
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web-d", "labels": {"app": "web"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "web-d",
                    "image": "localhost:5000/web.d:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/init"],
                    "args": ["-x"],
                    "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}],
                    "env": [{"name": "A", "value": "b"}],
                    "resources": {"limits": {"cpu": "0.5", "memory": "67108864"}},
                    "securityContext": {
                        "runAsUser": 7, "runAsGroup": 8, "readOnlyRootFilesystem": true,
                        "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "volume-1", "mountPath": "/run"}],
                }],
                "volumes": [{"name": "volume-1", "emptyDir": {"medium": "Memory", "sizeLimit": "1048576"}}],
            },
        });
        assert_eq!(composed.unwrap().manifest, expected);
    }

    #[test]
    fn containers_are_as_many_as_are_given() {
        let pod = spec(&[
            "--container",
            "cache=redis:7 -e 'A=b c' -- redis-server --save ''",
            "nginx",
        ]);
        let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["nginx", "cache"]);
        let cache = &pod.containers[1];
        let value = EnvValue::Text("b c".to_owned());
        assert_eq!((cache.env[0].name.as_str(), &cache.env[0].value), ("A", &value));
        let args = ["redis-server", "--save", ""].map(str::to_owned);
        assert_eq!(cache.args.as_deref(), Some(&args[..]));
        assert_eq!(spec(&["--container", "a=busybox"]).name, "a");
    }

    /// Kubernetes replaces `$(NAME)`; a shell's user means what is written.
    #[test]
    fn what_a_container_gets_is_what_was_written() {
        for word in ["$(A)", "$$(A)", "$$", "$", "$A", "$$$", "a$$b$(A$(A))", "${A}"] {
            let env = format!("W={word}");
            let pod = spec(&["-e", "A=wrong", "-e", &env, "busybox", "--", word]);
            let container = &pod.containers[0];
            let literal = values::literal(word).as_str().unwrap().to_owned();
            assert_eq!(container.args.as_deref(), Some(std::slice::from_ref(&literal)));
            assert_eq!(container.env[1].value, EnvValue::Text(literal));
        }
    }

    #[test]
    fn a_volume_is_a_path_of_the_host_or_empty() {
        let dir = tempfile::tempdir().unwrap();
        let volume = format!("{}:/page:ro", dir.path().display());
        let pod = spec(&["-v", &volume, "-v", "/cache", "busybox"]);
        let mounts: Vec<_> = pod.containers[0]
            .mounts
            .iter()
            .map(|m| (m.path.to_str(), m.read_only))
            .collect();
        assert_eq!(mounts, [(Some("/page"), true), (Some("/cache"), false)]);
        let gone = format!("{}/gone:/page", dir.path().display());
        let error = compose(&["-v", &gone, "busybox"]).err().unwrap();
        assert!(format!("{error:#}").contains("gone"), "{error:#}");
    }

    #[test]
    fn what_makes_no_pod_says_what_would() {
        for (args, says) in [
            (&[][..], "give a manifest with -f FILE, or an IMAGE"),
            (&["-e", "A=b"], "give a manifest with -f FILE, or an IMAGE"),
            (
                &["-e", "A=b", "--container", "a=busybox"],
                "write them into its --container",
            ),
            (&["--container", "busybox", "busybox"], "give it as 'NAME=IMAGE"),
            (&["--container", "a=b 'c", "busybox"], "a quote is not closed"),
            (
                &["--container", "a=b --nonsense", "busybox"],
                "--container a: unexpected argument '--nonsense'",
            ),
            (
                &["--container", "busybox=x", "busybox"],
                "another container is called busybox",
            ),
            (
                &["-e", "MAGIKRUN_NO_SUCH_VARIABLE", "busybox"],
                "give -e MAGIKRUN_NO_SUCH_VARIABLE=VALUE",
            ),
            (&["--name", "Web", "busybox"], "metadata.name"),
        ] {
            let error = compose(args).err().unwrap_or_else(|| panic!("{args:?}"));
            let text = format!("{error:#}");
            assert!(text.contains(says) && !text.contains('\n'), "{args:?}: {text}");
        }
    }
}

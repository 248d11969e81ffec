//! An OCI layout directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Layer;

/// What an image says about how to run it (image-spec, "config").
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`.
    pub env: Vec<String>,
    /// `User`; empty is root.
    pub user: String,
    /// `WorkingDir`; empty is `/`.
    pub working_dir: String,
}

impl Default for ImageConfig {
    fn default() -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            entrypoint: vec![],
            cmd: vec!["/bin/sh".into()],
            env: vec![path.into()],
            user: String::new(),
            working_dir: String::new(),
        }
    }
}

impl ImageConfig {
    /// The default with this `Cmd`.
    #[must_use]
    pub fn command(args: &[&str]) -> Self {
        Self {
            cmd: args.iter().map(|a| (*a).to_owned()).collect(),
            ..Self::default()
        }
    }
}

/// An OCI layout directory (`oci-layout`, `index.json`, `blobs/`); several images of it share their layers.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty layout in `dir`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(dir.join("blobs/sha256")).with_context(|| dir.display().to_string())?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut layout = Self {
            dir,
            manifests: vec![],
        };
        layout.write_index()?;
        Ok(layout)
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `oci:DIR:TAG`, as magikrun, podman and skopeo name an image of a layout.
    #[must_use]
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.dir.display())
    }

    /// Where the blob of `digest` lies.
    #[must_use]
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// Adds an image under `tag` and returns its manifest's digest.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add(&mut self, tag: &str, layers: &[&Layer], config: &ImageConfig) -> Result<String> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "created": "2023-11-14T22:13:20Z", "architecture": architecture, "os": "linux",
            "config": {"Entrypoint": config.entrypoint, "Cmd": config.cmd, "Env": config.env, "User": config.user, "WorkingDir": config.working_dir},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>()},
        });
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            &serde_json::to_vec(&config)?,
        )?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers = layers
            .iter()
            .map(|l| self.blob(media_type, &l.blob))
            .collect::<Result<Vec<_>>>()?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let mut descriptor = self.blob(media_type, &serde_json::to_vec(&manifest)?)?;
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        self.manifests.push(descriptor);
        self.write_index()?;
        Ok(digest)
    }

    /// Writes a blob and returns its descriptor.
    fn blob(&self, media_type: &str, data: &[u8]) -> Result<Value> {
        let hex = hex::encode(Sha256::digest(data));
        fs::write(self.dir.join("blobs/sha256").join(&hex), data)?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": data.len()}))
    }

    fn write_index(&mut self) -> Result<()> {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": self.manifests});
        fs::write(self.dir.join("index.json"), serde_json::to_vec(&index)?).context("index.json")
    }
}

//! The image the engines run: Debian's static busybox, with users and a few files to look at.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:44:web\nnogroup:x:65534:\n";

/// Writes the root file system as a tar archive into `dir`.
///
/// # Errors
/// busybox is not installed, or a file cannot be written.
pub fn busybox_tar(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("image-root");
    for sub in [
        "bin", "etc", "root", "srv", "tmp", "proc", "sys", "dev", "run", "var", "data",
    ] {
        fs::create_dir_all(root.join(sub))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("/bin/busybox (package busybox-static)")?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|a| *a != "busybox")
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    for (name, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/plain", "not a program\n"),
        ("data/file", "from image\n"),
    ] {
        fs::write(root.join(name), text)?;
    }
    let tar = dir.join("box.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status()?;
    ensure!(status.success(), "tar: {status}");
    fs::remove_dir_all(&root)?;
    Ok(tar)
}

/// The image of most checks: its program is a shell.
pub const BOX: (&str, &[&str]) = ("localhost/box:latest", &["sh"]);

/// Wraps the root file system as `docker save` does, which containerd and dockerd load: an image for each of `images`,
/// a name and the command it runs.
///
/// # Errors
/// A file cannot be written.
pub fn docker_archive(dir: &Path, layer: &Path, images: &[(&str, &[&str])]) -> Result<PathBuf> {
    let root = dir.join("archive");
    fs::create_dir_all(&root)?;
    fs::copy(layer, root.join("layer.tar"))?;
    let sum = Command::new("sha256sum").arg(layer).output()?;
    let digest = String::from_utf8_lossy(&sum.stdout)
        .split_whitespace()
        .next()
        .context("sha256sum")?
        .to_owned();
    let mut files = vec!["manifest.json".to_owned(), "layer.tar".to_owned()];
    let mut manifests = vec![];
    for (i, (name, command)) in images.iter().enumerate() {
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created_by": "tests"}],
        });
        let file = format!("config{i}.json");
        fs::write(root.join(&file), config.to_string())?;
        manifests.push(serde_json::json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
        files.push(file);
    }
    fs::write(
        root.join("manifest.json"),
        serde_json::Value::from(manifests).to_string(),
    )?;
    let archive = dir.join("box-archive.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .args(files)
        .status()?;
    ensure!(status.success(), "tar: {status}");
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

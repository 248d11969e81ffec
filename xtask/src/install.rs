//! `cargo xtask install` and `cargo xtask package`: magikrun like any other program.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};
use xtask::{host, tools};

/// The programs, which find each other beside themselves.
const PROGRAMS: [&str; 5] = [
    "magikrun",
    "magikrun-engine",
    "magikrun-init",
    "magikrun-vm",
    "magikrun-wasm",
];
/// Where the programs lie, and what virtual machines are made of, below the prefix.
const DIRECTORY: &str = "lib/magikrun";
/// A shell, and where it looks for the script that completes a command, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/magikrun"),
    ("zsh", "share/zsh/site-functions/_magikrun"),
    ("fish", "share/fish/vendor_completions.d/magikrun.fish"),
];
/// Where manual pages go, below the prefix, and what those of this program are called.
const MANUAL: (&str, &str) = ("share/man/man1", "magikrun*.1");
/// What systemd is given, and where, below the prefix; `@MAGIKRUN@` is the program and `@UNITS@` where
/// units are.
const OF_SYSTEMD: [(&str, &str, u32); 6] = [
    (
        "lib/systemd/system/magikrun@.service",
        include_str!("systemd/magikrun@.service"),
        0o644,
    ),
    (
        "lib/systemd/system/magikrun@.path",
        include_str!("systemd/magikrun@.path"),
        0o644,
    ),
    (
        "lib/systemd/system/magikrun-changed@.service",
        include_str!("systemd/magikrun-changed@.service"),
        0o644,
    ),
    (
        "lib/systemd/system/magikrun-sweep.service",
        include_str!("systemd/magikrun-sweep.service"),
        0o644,
    ),
    (
        "lib/systemd/system-generators/magikrun-generator",
        include_str!("systemd/magikrun-generator"),
        0o755,
    ),
    (
        "lib/tmpfiles.d/magikrun.conf",
        include_str!("systemd/magikrun.conf"),
        0o644,
    ),
];

/// Options of `cargo xtask install`.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    /// Where it is installed.
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Installs the programs in this directory instead of building them.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

/// Options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub(crate) struct PackageArgs {
    /// Packs the programs in this directory instead of building them.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Where the packages go [default: target/packages].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn install(args: &InstallArgs) -> Result<()> {
    let sh = host::shell()?;
    ensure!(
        args.prefix.is_absolute(),
        "--prefix {}: is no absolute path",
        args.prefix.display()
    );
    let binaries = programs(&sh, args.binaries.as_deref())?;
    lay_out(&sh, &binaries, Path::new("/"), &args.prefix)?;
    of_machines(&sh, Path::new("/"), &args.prefix)?;
    println!(
        "{} is installed; take it away again with: rm -r {}",
        args.prefix.join("bin/magikrun").display(),
        installed(&args.prefix).join(" ")
    );
    Ok(())
}

/// What an installation consists of, for who removes it.
fn installed(prefix: &Path) -> Vec<String> {
    let of_shells = COMPLETIONS.map(|(_, path)| path);
    let of_systemd = OF_SYSTEMD.map(|(path, ..)| path);
    [DIRECTORY, "bin/magikrun", "share/doc/magikrun"]
        .into_iter()
        .chain(of_shells)
        .chain(of_systemd)
        .map(|path| prefix.join(path))
        .chain([prefix.join(MANUAL.0).join(MANUAL.1)])
        .map(|path| path.display().to_string())
        .collect()
}

pub(crate) fn package(args: &PackageArgs) -> Result<()> {
    let sh = host::shell()?;
    let binaries = programs(&sh, args.binaries.as_deref())?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => host::target_dir(&sh)?.join("packages"),
    };
    fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
    let staged = tempfile::tempdir()?;
    let version = env!("CARGO_PKG_VERSION");
    let machine = std::env::consts::ARCH;

    let tree = staged.path().join(format!("magikrun-{version}"));
    lay_out(&sh, &binaries, &tree, Path::new("/"))?;
    of_machines(&sh, &tree, Path::new("/"))?;
    let tarball = output.join(format!("magikrun-{version}-{machine}.tar.gz"));
    let (of, name) = (staged.path(), format!("magikrun-{version}"));
    cmd!(sh, "tar --owner=0 --group=0 -C {of} -czf {tarball} {name}").run()?;
    println!("{}", tarball.display());

    if host::has_program("dpkg-deb") {
        let tree = staged.path().join("deb");
        lay_out(&sh, &binaries, &tree, Path::new("/usr"))?;
        of_machines(&sh, &tree, Path::new("/usr"))?;
        let arch = cmd!(sh, "dpkg --print-architecture").quiet().read()?;
        let control = control(version, arch.trim(), size_of(&tree)?);
        write(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        let deb = output.join(format!("magikrun_{version}_{}.deb", arch.trim()));
        cmd!(sh, "dpkg-deb --root-owner-group --build {tree} {deb}")
            .quiet()
            .run()?;
        println!("{}", deb.display());
    } else {
        println!("no .deb: dpkg-deb is not here");
    }
    Ok(())
}

/// The directory with the programs, which are built if none is given.
fn programs(sh: &Shell, given: Option<&Path>) -> Result<PathBuf> {
    let directory = match given {
        Some(directory) => directory.to_owned(),
        None => {
            println!("building magikrun (release: about 20 minutes the first time)");
            cmd!(sh, "cargo build --locked --release -p magikrun -p magikrun-cli").run()?;
            host::target_dir(sh)?.join("release")
        }
    };
    if let Some(missing) = PROGRAMS.iter().find(|program| !directory.join(program).is_file()) {
        bail!(
            "{}: there is no {missing}: build it with -p magikrun -p magikrun-cli",
            directory.display()
        );
    }
    Ok(directory)
}

/// Puts everything where it belongs below `root`, for the `prefix` that it will be found at.
fn lay_out(sh: &Shell, binaries: &Path, root: &Path, prefix: &Path) -> Result<()> {
    let at = |path: &str| below(root, prefix, path);
    let programs = at(DIRECTORY);
    for program in PROGRAMS {
        copy(&binaries.join(program), &programs.join(program), 0o755)?;
    }
    let link = at("bin/magikrun");
    make_parent(&link)?;
    let _ = fs::remove_file(&link);
    symlink("../lib/magikrun/magikrun", &link).with_context(|| link.display().to_string())?;

    let magikrun = binaries.join("magikrun");
    for (shell, path) in COMPLETIONS {
        let script = cmd!(sh, "{magikrun} completions {shell}").quiet().read()?;
        write(&at(path), script.as_bytes(), 0o644)?;
    }
    let manual = at(MANUAL.0);
    fs::create_dir_all(&manual).with_context(|| manual.display().to_string())?;
    cmd!(sh, "{magikrun} manual --dir {manual}").quiet().run()?;
    let program = prefix.join("bin/magikrun").display().to_string();
    let units = prefix.join("lib/systemd/system").display().to_string();
    for (path, content, mode) in OF_SYSTEMD {
        let content = content.replace("@MAGIKRUN@", &program).replace("@UNITS@", &units);
        write(&at(path), content.as_bytes(), mode)?;
    }
    for (from, to) in [
        ("README.md", "share/doc/magikrun/README.md"),
        ("LICENSE", "share/doc/magikrun/copyright"),
    ] {
        copy(&host::workspace().join(from), &at(to), 0o644)?;
    }
    let examples = host::workspace().join("docs/examples");
    for entry in fs::read_dir(&examples).with_context(|| examples.display().to_string())? {
        let entry = entry?;
        let to = at("share/doc/magikrun/examples").join(entry.file_name());
        copy(&entry.path(), &to, 0o644)?;
    }
    Ok(())
}

/// Puts beside the programs what `cargo xtask vm` has made, where it has. Its files are known to the
/// package that makes them.
fn of_machines(sh: &Shell, root: &Path, prefix: &Path) -> Result<()> {
    if fs::read_dir(host::machine_files(sh)?)?.next().is_none() {
        return Ok(());
    }
    let directory = below(root, prefix, DIRECTORY);
    tools::run(tools::MACHINES, [Path::new("copy"), &directory])
}

/// Where a path below the prefix is, below `root`.
fn below(root: &Path, prefix: &Path, path: &str) -> PathBuf {
    root.join(prefix.join(path).strip_prefix("/").unwrap_or(Path::new(path)))
}

/// What Debian is told of the package; `size` is in KiB.
fn control(version: &str, arch: &str, size: u64) -> String {
    format!(
        "Package: magikrun\nVersion: {version}\nArchitecture: {arch}\nMaintainer: magikrun <magikrun@localhost>\n\
         Installed-Size: {size}\nSection: admin\nPriority: optional\nDepends: libc6 (>= 2.36)\n\
         Recommends: ca-certificates\nSuggests: qemu-system-x86\n\
         Description: container runtime whose unit is the pod\n \
         Runs Kubernetes pods without a daemon, all of a pod or nothing of it, as Linux\n \
         containers, in virtual machines or as WebAssembly, and is an OCI runtime for\n \
         podman, containerd and Docker.\n"
    )
}

/// The sizes of all files, in KiB.
fn size_of(tree: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        size += if entry.file_type()?.is_dir() {
            size_of(&entry.path())?
        } else {
            entry.metadata()?.len().div_ceil(1024)
        };
    }
    Ok(size)
}

/// Copies a file to a new inode: the old one may be running.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let content = fs::read(from).with_context(|| from.display().to_string())?;
    write(to, &content, mode)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let done = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        fs::write(&temporary, content)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, path)
    };
    make_parent(path)?;
    done().with_context(|| path.display().to_string())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the generator as it is installed, which needs no systemd.
    fn the_generator_starts_each_pod(root: &Path) {
        let (pods, units) = (root.join("pods"), root.join("units"));
        fs::create_dir_all(&pods).unwrap();
        for name in ["web.yaml", "notes.txt"] {
            fs::write(pods.join(name), "").unwrap();
        }
        let generator = root.join("usr/lib/systemd/system-generators/magikrun-generator");
        let sh = host::shell().unwrap();
        cmd!(sh, "{generator} {units} {units} {units}")
            .env("MAGIKRUN_PODS", &pods)
            .quiet()
            .run()
            .unwrap();
        let wants = units.join("multi-user.target.wants");
        let mut found: Vec<_> = fs::read_dir(&wants).unwrap().flatten().collect();
        found.sort_by_key(fs::DirEntry::file_name);
        let found: Vec<_> = found
            .iter()
            .map(|link| (link.file_name(), fs::read_link(link.path()).unwrap()))
            .collect();
        let expected = ["path", "service"].map(|unit| {
            let target = format!("/usr/lib/systemd/system/magikrun@.{unit}");
            (format!("magikrun@web.{unit}").into(), target.into())
        });
        assert_eq!(found, expected);
        for dir in [pods, units] {
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn what_is_installed_is_found_and_can_be_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let binaries = dir.path().join("binaries");
        for program in PROGRAMS {
            let script =
                b"#!/bin/sh\nif [ $1 = manual ]; then echo page > $3/magikrun.1; else echo \"$1 $2\"; fi\n";
            write(&binaries.join(program), script, 0o755).unwrap();
        }
        let root = dir.path().join("root");
        let sh = host::shell().unwrap();
        let binaries = programs(&sh, Some(&binaries)).unwrap();
        for _ in 0..2 {
            lay_out(&sh, &binaries, &root, Path::new("/usr")).unwrap();
        }
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let linked = fs::canonicalize(root.join("usr/bin/magikrun")).unwrap();
        assert!(linked.ends_with("usr/lib/magikrun/magikrun"), "{linked:?}");
        assert!(linked.with_file_name("magikrun-engine").is_file());
        assert_eq!(read("usr/share/zsh/site-functions/_magikrun"), "completions zsh");
        assert_eq!(read("usr/share/man/man1/magikrun.1"), "page\n");
        assert!(read("usr/share/doc/magikrun/examples/job.yaml").contains("kind: Pod"));
        let service = read("usr/lib/systemd/system/magikrun@.service");
        assert!(service.contains("ExecStart=/usr/bin/magikrun pod run --replace --wait --rm"));
        for (path, ..) in OF_SYSTEMD {
            let content = read(&format!("usr/{path}"));
            assert!(
                !content.contains("@MAGIKRUN@") && !content.contains("@UNITS@"),
                "{path}"
            );
        }
        the_generator_starts_each_pod(&root);
        for path in installed(Path::new("/usr")) {
            let path = root.join(path.strip_prefix('/').unwrap().replace("*.1", ".1"));
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        let left = cmd!(sh, "find {root} -not -type d").quiet().read().unwrap();
        assert_eq!(left, "");

        fs::remove_file(binaries.join("magikrun-wasm")).unwrap();
        let error = programs(&sh, Some(&binaries)).unwrap_err().to_string();
        assert!(error.contains("there is no magikrun-wasm"), "{error}");
    }
}

//! `cargo xtask build-vminit`: the guest's init, static, checked, in `target/vm`.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use magik_vm::VmFiles;
use xshell::{Shell, cmd};

use xtask::{apt, host};

use crate::vm;

/// What it is built for where that is possible.
const MUSL: &str = "x86_64-unknown-linux-musl";
/// What it is built for elsewhere, and in CI.
const GNU: &str = "x86_64-unknown-linux-gnu";

/// The largest vminit that is accepted, in bytes: every guest reads it once. It was 6 MiB before probes asked by TLS and HTTP/2 there, too
/// (1.3 MB of rustls, ring and h2).
const MAX_VMINIT: u64 = 7 << 20;

/// Static; without tables for unwinding, which a program that aborts on panic has no use for; at a fixed address, which saves
/// relocations and the code that makes them.
const FLAGS: &str = "-C target-feature=+crt-static -C force-unwind-tables=no -C relocation-model=static";
/// Leaves out the tables for unwinding that the C library and a ready-made standard library bring: 0.8 MB.
const NO_UNWIND: &str = "crates/vminit/no-unwind.ld";
/// Zig has its own start files and C library for musl: those that come with a toolchain's target stay out.
const ZIG_FLAGS: &str = "-C link-self-contained=no";

/// Debian's Rust for its web browsers: newer than its `rustc`, with the source of its standard library.
const DEBIAN_RUST: &[&str] = &["rustc-web", "rust-web-src", "python3-venv"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// From PyPI, each with the SHA-256 of its wheel for Linux on x86_64.
const ZIG: &str = "\
ziglang==0.17.1 --hash=sha256:ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54
cargo-zigbuild==0.24.1 --hash=sha256:238a1ab54a95053a4eadc34775c81f795a8ad75f80bfed63f3f445f518102375
";

/// libseccomp, static, and where it lies. It was built for glibc, but all that it calls (memory, strings, `ioctl`, `prctl`,
/// `syscall`) musl has, too, in the same form, but for [`FORTIFIED`], in the one function that prints a filter for a person.
const SECCOMP: &str = "libseccomp.a";
const SECCOMP_DIRECTORIES: &[&str] = &["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
/// glibc's checked `fprintf`. Nobody prints filters here; whoever did would abort.
const FORTIFIED: &str = "__fprintf_chk=abort";

/// Options of `cargo xtask build-vminit`.
#[derive(Debug, clap::Args)]
pub(crate) struct VminitArgs {
    /// What it is built for. Without it: static musl where this machine can, else static glibc.
    #[arg(long, value_parser = [MUSL, GNU])]
    target: Option<String>,
}

/// How it is built.
#[derive(Debug)]
enum Way {
    /// Static glibc, as every Linux toolchain can.
    Gnu,
    /// The toolchain has musl.
    Musl,
    /// Debian's compiler and source of the standard library, and Zig in this directory.
    Zig(PathBuf),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gnu => "static glibc, with this toolchain",
            Self::Musl => "static musl, with this toolchain's own target",
            Self::Zig(_) => {
                "static musl, the standard library from Debian's rust-web-src, with cargo-zigbuild"
            }
        })
    }
}

/// `cargo xtask build-vminit`.
pub(crate) fn run(args: &VminitArgs) -> Result<()> {
    let sh = host::shell()?;
    let way = match args.target.as_deref() {
        Some(GNU) => Way::Gnu,
        Some(_) => musl(&sh)?,
        None => musl(&sh).unwrap_or_else(|why| {
            println!("vminit: not for {MUSL}: {why:#}");
            Way::Gnu
        }),
    };
    build(&sh, &way)
}

/// With this toolchain alone: musl takes a compiler, its standard library's source and Zig, 600 MB, and builds everything a
/// second time; CI has 40 minutes for all there is.
pub(crate) fn cheaply(sh: &Shell) -> Result<()> {
    build(sh, &Way::Gnu)
}

/// How musl can be built for here.
fn musl(sh: &Shell) -> Result<Way> {
    let libraries = cmd!(sh, "rustc --print target-libdir --target {MUSL}").quiet();
    if libraries.read().is_ok_and(|path| Path::new(&path).is_dir()) {
        return Ok(Way::Musl);
    }
    if let Some(missing) = apt::ensure(sh, DEBIAN_RUST)? {
        bail!("missing, and {}: {}", missing.why, missing.packages.join(" "));
    }
    Ok(Way::Zig(zig(sh)?))
}

/// cargo-zigbuild and the Zig it calls, in a directory of their own.
fn zig(sh: &Shell) -> Result<PathBuf> {
    let directory = host::target_dir(sh)?.join("tools/zig");
    let (programs, wanted) = (directory.join("bin"), directory.join("requirements.txt"));
    if fs::read_to_string(&wanted).is_ok_and(|installed| installed == ZIG) {
        return Ok(programs);
    }
    println!(
        "installing ziglang and cargo-zigbuild from PyPI into {}",
        directory.display()
    );
    cmd!(sh, "python3 -m venv --clear {directory}").quiet().run()?;
    let incomplete = directory.join("requirements.new");
    fs::write(&incomplete, ZIG).with_context(|| incomplete.display().to_string())?;
    let pip = programs.join("pip");
    let install = cmd!(
        sh,
        "{pip} install --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes --requirement {incomplete}"
    );
    install.quiet().run()?;
    fs::rename(&incomplete, &wanted)?;
    Ok(programs)
}

fn build(sh: &Shell, way: &Way) -> Result<()> {
    println!("vminit: {way}");
    if let Some(missing) = apt::ensure(sh, apt::BUILD)? {
        println!("missing, and {}: {}", missing.why, missing.packages.join(" "));
    }
    let target = match way {
        Way::Gnu => GNU,
        Way::Musl | Way::Zig(_) => MUSL,
    };
    let package = "--quiet --locked --package vminit --profile vminit --target"
        .split(' ')
        .chain([target]);
    let command = match way {
        Way::Musl => cmd!(sh, "cargo build {package...}").env("RUSTFLAGS", FLAGS),
        Way::Gnu => {
            let script = host::workspace().join(NO_UNWIND);
            let flags = format!(
                "{FLAGS} -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-T,{}",
                script.display()
            );
            cmd!(sh, "cargo build {package...}").env("RUSTFLAGS", flags)
        }
        Way::Zig(programs) => {
            let zigbuild = programs.join("cargo-zigbuild");
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = [programs.clone()].into_iter().chain(std::env::split_paths(&path));
            // The standard library without what prints the stack of a panic: a stripped program has no names for it.
            let library = "-Z build-std=std,panic_abort -Z build-std-features=optimize_for_size".split(' ');
            cmd!(sh, "{zigbuild} build {library...} {package...}")
                .env("RUSTFLAGS", format!("{FLAGS} {ZIG_FLAGS}"))
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("PATH", std::env::join_paths(path)?)
        }
    };
    command
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", seccomp(sh, target)?)
        .quiet()
        .run()?;
    let built = host::target_dir(sh)?.join(target).join("vminit/vminit");
    let size = check(&built)?;
    let installed = host::machine_files(sh)?.join(VmFiles::INIT);
    vm::replace(&built, &installed)?;
    println!(
        "{}, {size} bytes of {MAX_VMINIT} at most, static",
        installed.display()
    );
    Ok(())
}

/// A directory with nothing but libseccomp for this target: in the system's, a linker would find glibc, too.
fn seccomp(sh: &Shell, target: &str) -> Result<PathBuf> {
    let directory = host::target_dir(sh)?.join("tools/seccomp").join(target);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let mut places = SECCOMP_DIRECTORIES
        .iter()
        .map(|place| Path::new(place).join(SECCOMP));
    let Some(found) = places.find(|path| path.is_file()) else {
        bail!("{SECCOMP} is missing: install libseccomp-dev (Debian) or libseccomp-static (Fedora)");
    };
    let own = directory.join(SECCOMP);
    if target == MUSL {
        cmd!(sh, "objcopy --redefine-sym {FORTIFIED} {found} {own}")
            .quiet()
            .run()?;
    } else {
        fs::copy(&found, own).with_context(|| found.display().to_string())?;
    }
    Ok(directory)
}

/// A guest has no shared libraries: the program must need none, and must be small. Returns its size in bytes.
fn check(program: &Path) -> Result<u64> {
    use object::{Object, ObjectSection};
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    let size = bytes.len() as u64;
    ensure!(
        size <= MAX_VMINIT,
        "{} has {size} bytes, more than {MAX_VMINIT}",
        program.display()
    );
    let elf = object::File::parse(&*bytes)?;
    for section in elf.sections() {
        let name = section.name()?;
        ensure!(
            name != ".interp",
            "{} is not static: it has an interpreter",
            program.display()
        );
    }
    let libraries = elf.imports()?;
    ensure!(
        libraries.is_empty(),
        "{} is not static: it needs symbols of libraries",
        program.display()
    );
    Ok(size)
}

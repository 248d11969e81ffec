//! `cargo xtask demo`: a pod's life, to watch.

use std::{
    fs,
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use xshell::cmd;
use xtask::{apt, host};

/// The pod that is run: the example of the documentation.
const MANIFEST: &str = "docs/examples/web.yaml";
/// The image it asks for, `busybox`, under its full name.
const IMAGE: &str = "docker.io/library/busybox:latest";

/// What the demo does not show; the times are those of two processors.
const MORE: &str = "\
Everything, optimised:      cargo build --release -p magikrun -p magikrun-cli    (about 20 minutes)
Images from registries:     the same
WebAssembly pods:           the same, and runtimeClassName: wasm; see docs/wasm.md
Pods in virtual machines:   cargo xtask vm                                       (about 3 minutes more)
                            and runtimeClassName: microvm; see docs/microvm.md";

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Uses this binary instead of building one.
    #[arg(long, value_name = "PATH")]
    magikrun: Option<PathBuf>,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the demo runs Linux containers: it needs Linux");
    }
    let sh = host::shell()?;
    title("What is needed");
    if args.no_install {
        println!("installing nothing, as asked");
    } else {
        match apt::ensure(&sh, &[apt::BUILD, &["busybox-static"]].concat())? {
            None => println!("everything is installed"),
            Some(missing) => println!("missing, and {}: {}", missing.why, missing.packages.join(" ")),
        }
    }
    let begun = Instant::now();
    let binary = if let Some(path) = &args.magikrun {
        path.canonicalize().with_context(|| path.display().to_string())?
    } else {
        println!(
            "building magikrun: native pods without registries, little optimised (some minutes the first time)"
        );
        cmd!(
            sh,
            "cargo build --locked -p magikrun -p magikrun-cli --no-default-features --features magikrun/native,magikrun-cli/native"
        )
        .run()?;
        host::target_dir(&sh)?.join("debug/magikrun")
    };
    println!(
        "{}, built in {:.0} s",
        binary.display(),
        begun.elapsed().as_secs_f64()
    );

    let demo = Demo::new(binary)?;
    title("An image, made of this machine's busybox");
    demo.make_image()?;
    demo.show("image ls", "")?;
    if !host::is_root() {
        println!(
            "\nYou are not root, and containers of namespaces and cgroups need root: the pod is not run."
        );
        println!("The whole demo: sudo -E env PATH=\"$PATH\" cargo xtask demo");
        return Ok(());
    }
    demo.pod()?;
    title("What else there is");
    println!("{MORE}");
    Ok(())
}

fn title(text: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    println!("\n{bold}== {text}{plain}");
}

/// magikrun on roots of its own, which go when the demo ends, however it ends.
struct Demo {
    binary: PathBuf,
    dir: tempfile::TempDir,
    before: Leftovers,
}

impl Demo {
    fn new(binary: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("magikrun-demo-").tempdir()?;
        let before = Leftovers::count(dir.path(), &[])?;
        Ok(Self { binary, dir, before })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .current_dir(host::workspace())
            .stdin(Stdio::null());
        command
            .env("MAGIKRUN_ROOT", self.dir.path().join("root"))
            .env("MAGIKRUN_STATE_DIR", self.dir.path().join("state"));
        command
    }

    /// Types a command, says why, runs it and shows what it says; its exit code has to be 0.
    fn show(&self, line: &str, why: &str) -> Result<()> {
        let code = self.show_any(&line.split(' ').collect::<Vec<_>>(), why)?;
        ensure!(code == Some(0), "magikrun {line}: exit code {code:?}");
        Ok(())
    }

    fn show_any(&self, args: &[&str], why: &str) -> Result<Option<i32>> {
        let quoted: Vec<String> = args
            .iter()
            .map(|a| {
                if a.contains(' ') {
                    format!("'{a}'")
                } else {
                    (*a).to_owned()
                }
            })
            .collect();
        println!(
            "\n$ magikrun {}{}",
            quoted.join(" "),
            if why.is_empty() {
                String::new()
            } else {
                format!("    # {why}")
            }
        );
        std::io::stdout().flush()?;
        let begun = Instant::now();
        let status = self
            .command(args)
            .status()
            .with_context(|| self.binary.display().to_string())?;
        println!("  ({:.0} ms)", begun.elapsed().as_secs_f64() * 1000.0);
        Ok(status.code())
    }

    fn make_image(&self) -> Result<()> {
        let mut layer = LayerBuilder::new();
        layer.busybox()?;
        let mut layout = Layout::create(self.dir.path().join("layout"))?;
        layout.add(IMAGE, &[&layer.finish()?], &ImageConfig::default())?;
        self.show(
            &format!("image pull {}", layout.reference(IMAGE)),
            "from an OCI layout; from a registry it is the same",
        )
    }

    /// A pod from `run` to `delete`.
    fn pod(&self) -> Result<()> {
        title(&format!("A pod: {MANIFEST}"));
        for line in fs::read_to_string(host::workspace().join(MANIFEST))?.lines() {
            println!("  {line}");
        }
        title("Run it: all of its containers, or nothing of it");
        self.show(
            &format!("pod run -f {MANIFEST}"),
            "returns when every container runs",
        )?;
        self.show("pod ls", "")?;
        self.show("pod status web", "")?;

        title("Its containers talk over localhost");
        self.wait_for_log("client", "hello")?;
        self.show("pod logs -c client web", "what the client got from the server")?;
        self.show("pod logs -c server web", "what the server says about it")?;
        let script = "wget -q -O - localhost:8080; exit 7";
        let code = self.show_any(
            &["pod", "exec", "-c", "client", "web", "--", "sh", "-c", script],
            "",
        )?;
        ensure!(code == Some(7), "exec passed on {code:?}");
        println!("  exec passes on the exit code of the program: here 7");
        self.show("pod stats web", "")?;
        self.show("pod events web", "")?;

        title("A pod that cannot run leaves nothing");
        self.broken_pod()?;

        title("Stop it, delete it");
        let ids = names(&self.dir.path().join("state/pods"));
        self.show(
            "pod stop web",
            "SIGTERM, and SIGKILL after the pod's grace period",
        )?;
        self.show("pod status web", "")?;
        self.show("pod delete web", "")?;
        self.show("pod ls", "")?;

        title("What is left");
        self.nothing_left(&ids)
    }

    /// The same pod with a command that does not exist.
    fn broken_pod(&self) -> Result<()> {
        let text = fs::read_to_string(host::workspace().join(MANIFEST))?;
        let broken = text
            .replace("name: web\n", "name: broken\n")
            .replace("[httpd, ", "[no-such-program, ");
        ensure!(broken != text, "{MANIFEST} has no server to break");
        let file = self.dir.path().join("broken.yaml");
        fs::write(&file, broken)?;
        let code = self.show_any(
            &["pod", "run", "-f", &file.display().to_string()],
            "its server's command does not exist",
        )?;
        ensure!(
            code == Some(1),
            "a pod without its server ran: exit code {code:?}"
        );
        self.show("pod ls", "only the first pod is there")
    }

    /// The client asks until it gets an answer; its log has it a moment later.
    fn wait_for_log(&self, container: &str, text: &str) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let out = self.command(&["pod", "logs", "-c", container, "web"]).output()?;
            if String::from_utf8_lossy(&out.stdout).contains(text) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the log of {container} has no {text:?} after 20 s")
    }

    fn nothing_left(&self, ids: &[String]) -> Result<()> {
        ensure!(ids.len() == 1, "one pod ran, not {ids:?}");
        let now = Leftovers::count(self.dir.path(), ids)?;
        println!(
            "processes {}, mounts {}, cgroups {}, pod files {}",
            now.processes, now.mounts, now.cgroups, now.files
        );
        ensure!(now == self.before, "before the pod it was {:?}", self.before);
        println!(
            "Nothing of the pod is left. (The demo's own directory, {}, goes now.)",
            self.dir.path().display()
        );
        Ok(())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // After a failure the pod may still run; after success this changes nothing.
        if host::is_root() {
            let _ = self
                .command(&["pod", "delete", "--force", "web"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// What is there of pods, counted from the kernel's own files.
#[derive(Debug, PartialEq, Eq)]
struct Leftovers {
    processes: usize,
    mounts: usize,
    cgroups: usize,
    files: usize,
}

impl Leftovers {
    /// Of the files below `dir`, whatever mounts or names them, and the cgroups of the pods `ids`.
    fn count(dir: &Path, ids: &[String]) -> Result<Self> {
        let needle = dir.display().to_string();
        let (mut processes, mut mounts) = (0, 0);
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let own = path
                .file_name()
                .is_some_and(|n| n.to_str() == Some(&std::process::id().to_string()));
            if own || !path.join("stat").exists() {
                continue;
            }
            let environ = read_lossy(&path.join("environ"));
            let of_pod = read_lossy(&path.join("mountinfo"))
                .lines()
                .filter(|l| l.contains(&needle))
                .count();
            processes += usize::from(of_pod > 0 || environ.contains(&needle));
            mounts += of_pod;
        }
        let hierarchies = names(Path::new("/sys/fs/cgroup"))
            .into_iter()
            .map(|h| Path::new("/sys/fs/cgroup").join(h));
        let hierarchies = hierarchies.chain(["/sys/fs/cgroup".into()]);
        let cgroups = hierarchies
            .map(|h| {
                ids.iter()
                    .filter(|id| h.join("magikrun").join(id).exists())
                    .count()
            })
            .sum();
        let files = ["root/pods", "state/pods", "state/names", "state/sandboxes"]
            .iter()
            .map(|d| names(&dir.join(d)).len())
            .sum();
        Ok(Self {
            processes,
            mounts,
            cgroups,
            files,
        })
    }
}

/// The names in a directory; none if it is not there.
fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// A file of /proc; empty if its process has ended meanwhile.
fn read_lossy(path: &Path) -> String {
    let mut bytes = vec![];
    let read = fs::File::open(path).and_then(|mut f| f.read_to_end(&mut bytes));
    read.map_or(String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}

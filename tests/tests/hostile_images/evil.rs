//! Code of the image that somebody might load: a name service, a preloaded library, a program loader. Each leaves a file.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The file that loaded code makes at its root, or in the canary where the host's root is its.
pub(crate) const MARK: &str = "loaded";

const SOURCE: &str = r#"
#include <fcntl.h>
#include <unistd.h>
static void mark(const char *path) {
    int fd = open(path, O_CREAT | O_WRONLY, 0666);
    if (fd >= 0) close(fd);
}
#ifdef PROGRAM
int main(void) {
#else
__attribute__((constructor)) static void loaded(void) {
#endif
    mark(CANARY "/loaded");
    mark("/loaded");
#ifdef PROGRAM
    return 0;
#endif
}
"#;

/// The compiled code.
pub(crate) struct Evil {
    library: PathBuf,
    program: PathBuf,
}

impl Evil {
    /// Compiles it.
    ///
    /// # Panics
    /// Without a C compiler, which Rust needs, too.
    pub(crate) fn compile(dir: &Path, canary: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let source = dir.join("evil.c");
        fs::write(&source, SOURCE).expect("a source");
        let define = format!("-DCANARY=\"{}\"", canary.display());
        let compile = |name: &str, flags: &[&str]| {
            let target = dir.join(name);
            let status = Command::new("cc")
                .args(flags)
                .arg(&define)
                .arg("-o")
                .arg(&target)
                .arg(&source)
                .status()
                .expect("cc (Debian: gcc, libc6-dev)");
            assert!(status.success(), "cc: {status}");
            target
        };
        Self {
            library: compile("evil.so", &["-shared", "-fPIC"]),
            program: compile("evil", &["-static", "-DPROGRAM"]),
        }
    }

    /// Puts it wherever a program loader or a C library looks.
    pub(crate) fn plant(&self, rootfs: &Path) {
        let put = |from: &Path, at: &str| {
            let target = rootfs.join(at);
            fs::create_dir_all(target.parent().expect("a directory")).expect("a directory");
            fs::copy(from, &target).expect("a file");
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).expect("a mode");
        };
        for directory in [
            "lib",
            "lib64",
            "usr/lib",
            "lib/x86_64-linux-gnu",
            "usr/lib/x86_64-linux-gnu",
        ] {
            put(&self.library, &format!("{directory}/libnss_evil.so.2"));
        }
        put(&self.library, "evil.so");
        put(&self.program, "lib64/ld-linux-x86-64.so.2");
        put(&self.program, "lib/ld-linux-aarch64.so.1");
        let services = "passwd: evil files\ngroup: evil files\nhosts: evil files\ninitgroups: evil\n";
        for (name, text) in [("nsswitch.conf", services), ("ld.so.preload", "/evil.so\n")] {
            fs::create_dir_all(rootfs.join("etc")).expect("a directory");
            fs::write(rootfs.join("etc").join(name), text).expect("a file");
        }
    }
}

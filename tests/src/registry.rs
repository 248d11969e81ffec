//! Debian's docker-registry on a loopback port.

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use magikrun_test_images::Layout;

/// A running registry; it ends on drop.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Who may use a registry [with a password](Self::with_password).
    pub const USER: &str = "magik";
    /// The password of [`USER`](Self::USER).
    pub const PASSWORD: &str = "secret";

    /// Starts it on `port` of 127.0.0.1, storing below `dir`. In a test's own network namespace every port is free.
    ///
    /// # Panics
    /// If docker-registry is not installed or does not answer.
    #[must_use]
    pub fn start(dir: &Path, port: u16) -> Self {
        Self::serve(dir, port, "")
    }

    /// The same for [`USER`](Self::USER) with [`PASSWORD`](Self::PASSWORD) only.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn with_password(dir: &Path, port: u16) -> Self {
        fs::create_dir_all(dir).expect("registry directory");
        let file = dir.join("htpasswd");
        // As `htpasswd -B` writes it.
        let text = "magik:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        fs::write(&file, text).expect("htpasswd");
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        Self::serve(dir, port, &auth)
    }

    fn serve(dir: &Path, port: u16, auth: &str) -> Self {
        fs::create_dir_all(dir).expect("registry directory");
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n{auth}",
            dir.join("data").display()
        );
        let file = dir.join("config.yml");
        fs::write(&file, config).expect("registry configuration");
        let mut serve = Command::new("docker-registry");
        serve
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = serve
            .spawn()
            .expect("docker-registry (`cargo xtask test` installs it)");
        let registry = Self { child, address };
        for _ in 0..500 {
            if TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("docker-registry does not answer on {}", registry.address);
    }

    /// Pushes an image of a layout with skopeo, as `test/NAME:1`, and returns the name to pull it by.
    ///
    /// # Panics
    /// If skopeo fails.
    #[must_use]
    pub fn push(&self, layout: &Layout, tag: &str, name: &str) -> String {
        let name = format!("{}/test/{name}:1", self.address);
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        let status = copy
            .arg(layout.reference(tag))
            .arg(format!("docker://{name}"))
            .status()
            .expect("skopeo");
        assert!(status.success(), "skopeo copy to {name}: {status}");
        name
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A machine and the connections of its guest, from its start to its end.

use std::{
    fmt, fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use magik_infra::guest::{CONFIG, GuestConfig, GuestListener, NONCE, PORT};
use tokio::net::{UnixListener, UnixStream};

use crate::{Error, Result, Vm, VmDriver, VmSpec, driver::quoted, vsock_path};

/// The directories a guest's init finds in the share it boots from.
pub const ROOT_DIRECTORIES: [&str; 7] = ["dev", "layers", "mnt", "pod", "proc", "sys", "run"];

/// A nonce that nobody can guess.
///
/// # Errors
/// The kernel has no randomness.
pub fn nonce() -> Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    let mut filled = 0;
    while filled < NONCE {
        filled += rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(Error::io("get a nonce"))?;
    }
    Ok(nonce)
}

/// Lays out the directory a guest boots from: places for its first mounts, its init and its configuration.
///
/// # Errors
/// The directory cannot be written, or `vminit` not read.
pub fn lay_out(root: &Path, vminit: &Path, config: &GuestConfig) -> Result<()> {
    let at = |path: &Path| Error::io(path.display().to_string());
    for name in ROOT_DIRECTORIES {
        let path = root.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(at(&path))?;
    }
    let init = root.join("init");
    // A file of its own: the guest's first program is none of the host's files.
    fs::copy(vminit, &init).map_err(at(vminit))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).map_err(at(&init))?;
    write_config(&root.join("pod"), config)
}

/// Writes the configuration into the pod's directory; only the guest's root reads it.
///
/// # Errors
/// It cannot be written.
pub fn write_config(pod: &Path, config: &GuestConfig) -> Result<()> {
    use std::io::Write;
    let path = pod.join(CONFIG);
    let json = serde_json::to_vec(config).map_err(Error::io("write the guest's configuration"))?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(&path)
        .map_err(Error::io(path.display().to_string()))?;
    file.write_all(&json)
        .map_err(Error::io(path.display().to_string()))
}

/// A machine whose guest has said hello. Dropping it ends the machine.
pub struct Booted {
    /// The machine.
    pub vm: Vm,
    /// Where the guest's other connections arrive.
    pub listener: GuestListener,
    /// The connection on which the guest's pod init waits to be told what to launch.
    pub launch: UnixStream,
}

impl fmt::Debug for Booted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Booted")
            .field("vm", &self.vm)
            .finish_non_exhaustive()
    }
}

/// Starts a machine and waits for its guest's hello, `limit` at most. A machine that ends before it is started once more:
/// about one emulated boot in a hundred does not come to its first program.
///
/// # Errors
/// The machine ended again, or the guest did not say hello: with the console's last lines.
pub async fn boot(
    driver: &dyn VmDriver,
    spec: &VmSpec,
    nonce: &[u8; NONCE],
    limit: Duration,
) -> Result<Booted> {
    match boot_once(driver, spec, nonce, limit).await {
        Err(Error::Ended(why)) => {
            tracing::info!(
                %why,
                "the machine ended before its guest said hello: it is started once more"
            );
            boot_once(driver, spec, nonce, limit).await
        }
        first => first,
    }
}

async fn boot_once(
    driver: &dyn VmDriver,
    spec: &VmSpec,
    nonce: &[u8; NONCE],
    limit: Duration,
) -> Result<Booted> {
    let path = vsock_path(&spec.sockets, PORT);
    for entry in fs::read_dir(&spec.sockets).map_err(Error::io(spec.sockets.display().to_string()))? {
        // What a first attempt has left.
        let _ = entry.map(|e| fs::remove_file(e.path()));
    }
    let listener = UnixListener::bind(&path).map_err(Error::io(format!("listen on {}", path.display())))?;
    if let Some(user) = spec.user.as_ref().map(|user| user.number()) {
        std::os::unix::fs::chown(&path, Some(user), Some(user))
            .map_err(Error::io(format!("give {} away", path.display())))?;
    }
    let listener = GuestListener::open(listener, *nonce);
    let mut vm = driver.spawn(spec).await?;
    let hello = async {
        tokio::select! {
            biased;
            launch = listener.launch() => launch.map_err(|e| Error::Unavailable(e.to_string())),
            ended = vm.ended() => Err(ended.into()),
        }
    };
    match tokio::time::timeout(limit, hello).await {
        Ok(launch) => {
            let launch = launch?;
            Ok(Booted { vm, listener, launch })
        }
        Err(_) => {
            let console = quoted(vm.console());
            vm.kill().await;
            Err(Error::NoHello { limit, console })
        }
    }
}

//! A guest for whoever supervises it: its machine is built, confined and booted here.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use async_trait::async_trait;
use magik_infra::{
    guest::{Guest, GuestListener, NONCE},
    mount_layers,
    plan::{ContainerPlan, PodPlan, RootfsPlan},
};
use tokio::{net::UnixStream, sync::watch};

use crate::{
    Booted, Jail, Machine, ROOT_DIRECTORIES, Share, VmDriver, VmFiles, VmSpec, VmUser, boot, layers, nonce,
    write_config,
};

/// The directories of the jail.
const ROOT: &str = "/machine/root";
const SHARES: &str = "/machine/shares";
const SOCKETS: &str = "/machine/sockets";

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A guest in a machine of its own.
///
/// Booting it puts the calling process, which has a mount namespace of its own, on a root that holds what the machine needs.
pub struct MachineGuest {
    machine: Machine,
    sandbox: PathBuf,
    listener: OnceLock<GuestListener>,
    /// How the machine has ended.
    ended: watch::Sender<Option<String>>,
}

impl fmt::Debug for MachineGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineGuest")
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl MachineGuest {
    /// The guest of a machine that is to be started; `sandbox` is the directory that it sees as its pod's.
    #[must_use]
    pub fn new(machine: Machine, sandbox: PathBuf) -> Self {
        Self {
            machine,
            sandbox,
            listener: OnceLock::new(),
            ended: watch::Sender::new(None),
        }
    }

    async fn start(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), Failed> {
        let files = VmFiles::new(self.machine.files.clone());
        let driver = self.machine.driver.find(&files)?;
        let nonce = nonce()?;
        let user = VmUser::lease(Path::new(VmUser::DIRECTORY))?;
        let plan = self.confine(&*driver, &files, plan, nonce, user.number())?;
        let shares = self.machine.distinct_shares().map(|share| Share {
            tag: share.tag(),
            directory: Path::new(SHARES).join(share.number.to_string()),
            setuid: share.root,
        });
        let spec = VmSpec {
            memory_mib: self.machine.memory_mib,
            vcpus: self.machine.vcpus,
            root: ROOT.into(),
            shares: shares.collect(),
            sockets: SOCKETS.into(),
            user: Some(user.into()),
        };
        let limit = self.machine.hello_time;
        let Booted {
            mut vm,
            listener,
            launch,
        } = boot(&*driver, &spec, &nonce, limit).await?;
        let _ = self.listener.set(listener);
        let ended = self.ended.clone();
        // The machine belongs to the task, and ends with this process at the latest.
        tokio::spawn(async move {
            let why = vm.ended().await;
            ended.send_replace(Some(why.to_string()));
        });
        Ok((launch, plan))
    }

    /// Leaves everything behind that the machine does not need, and lays out what its guest sees. Returns the plan with the
    /// guest's layers: each image's are one file system there.
    fn confine(
        &self,
        driver: &dyn VmDriver,
        files: &VmFiles,
        plan: &PodPlan,
        nonce: [u8; NONCE],
        user: u32,
    ) -> Result<PodPlan, Failed> {
        let at = self.sandbox.join(layers::JAIL);
        std::fs::create_dir(&at)?;
        // Seen by the guest, and written before the sandbox becomes read-only.
        let config = self.machine.guest_config(&self.sandbox, nonce);
        write_config(&self.sandbox, &config)?;
        let jail = Jail::new(at)?;
        for file in driver.files().iter().filter(|file| !file.starts_with("/usr")) {
            jail.read_only(file)?;
        }
        for device in driver.devices() {
            jail.device(Path::new(device), user)?;
        }
        let root = Path::new(ROOT);
        for directory in ROOT_DIRECTORIES {
            jail.directory(&root.join(directory), 0o755)?;
        }
        jail.bind_read_only(&files.vminit()?, &root.join("init"))?;
        jail.bind_read_only(&self.sandbox, &root.join("pod"))?;
        jail.growing(Path::new(layers::LAYERS), &root.join(layers::IN_SHARE))?;
        let mut plan = plan.clone();
        for container in plan.init_containers.iter_mut().chain(&mut plan.containers) {
            share_layers(&jail, container)?;
        }
        jail.close(root)?;
        for share in &self.machine.shares {
            let mut target = Path::new(SHARES).join(share.number.to_string());
            if let Some(name) = &share.name {
                target.push(name);
            }
            if share.read_only {
                jail.bind_read_only(&share.host_path, &target)?;
            } else {
                jail.share(&share.host_path, &target)?;
            }
        }
        jail.directory(Path::new(SOCKETS), 0o700)?;
        std::os::unix::fs::chown(jail.inside(Path::new(SOCKETS)), Some(user), Some(user))?;
        let logs = self.machine.data.join("logs");
        jail.bind(&logs, &logs)?;
        jail.enter()?;
        Ok(plan)
    }
}

/// Shows the guest a container's layers, merged here: there a look at each of them would be a message to the host. A root that is
/// no layers is one of the machine's shares.
fn share_layers(jail: &Jail, container: &mut ContainerPlan) -> Result<(), Failed> {
    let RootfsPlan::Overlay { lower, .. } = &mut container.rootfs else {
        return Ok(());
    };
    let target = Path::new(layers::LAYERS).join(&container.name);
    jail.directory(&target, 0o755)?;
    mount_layers(lower, &jail.inside(&target))?;
    *lower = vec![layers::in_guest(&container.name)];
    Ok(())
}

#[async_trait]
impl Guest for MachineGuest {
    async fn boot(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), String> {
        self.start(plan).await.map_err(|e| e.to_string())
    }

    async fn connection(&self) -> Option<UnixStream> {
        self.listener.get()?.connection().await
    }

    fn removed(&self, container: &str) {
        layers::hide(container);
    }

    async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        // The sender is this guest's own: there is an end to wait for.
        let why = ended.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }
}

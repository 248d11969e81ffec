//! A disk that is full, at whatever moment: what was there stays, and nothing is added to it.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use magik_image::{ImageSource, ImageStore, PruneOptions, pull::PullOptions};

use crate::{
    fixture::{Served, archive, census, options},
    server,
};

const ROLE: &str = "MAGIK_IMAGE_DISK_FULL";
/// How much the image takes in the store, roughly: 2.4 MB of blobs and the same unpacked.
const NEEDED: u64 = 5 << 20;
/// How many levels are tried.
const LEVELS: u64 = 40;

fn pull(store: &ImageStore, image: &str) -> magik_image::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let source: ImageSource = image.parse().unwrap();
    let options = PullOptions {
        unpack: true,
        ..options()
    };
    runtime.block_on(store.pull(&source, &options, &())).map(drop)
}

fn served(seed: u8) -> Served {
    let large: Vec<u8> = (0..500_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761 + u32::from(seed)).to_le_bytes())
        .collect();
    let small: Vec<(String, Vec<u8>)> = (0..60).map(|n| (format!("d/{n}"), vec![seed; 5000])).collect();
    let small: Vec<(&str, &[u8])> = small.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    Served::new(&[&archive(&[("large", &large)]), &archive(&small)])
}

/// Every file with its size; the directories that blobs are spread over stay.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut all: Vec<_> = census(dir).into_iter().collect();
    all.retain(|(path, _)| Path::new(path).is_file());
    all
}

/// Not a test of its own: what happens on a small disk of its own, in a mount namespace of its own.
#[test]
fn role() {
    let Ok(root) = env::var(ROLE) else { return };
    let disk = Path::new(&root);
    let [kept, wanted] = [1, 2].map(|seed| {
        let image = served(seed);
        format!(
            "{}/test/image:latest",
            server::in_background(move |r| image.reply(r))
        )
    });
    let data = disk.join("data");
    let store = ImageStore::open(&data).unwrap();
    pull(&store, &kept).unwrap();
    store.prune(PruneOptions::default()).unwrap();
    let before = files(&data);
    let ballast = disk.join("ballast");
    let (mut refused, mut accepted) = (0, 0);
    for level in 0..LEVELS {
        // So much is free at this level.
        let free = NEEDED * level / LEVELS;
        let stat = rustix::fs::statvfs(disk).unwrap();
        let room = stat.f_bavail * stat.f_frsize;
        let file = fs::File::create(&ballast).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room - free).unwrap();
        match pull(&store, &wanted) {
            Ok(()) => accepted += 1,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("No space left") && !text.contains('\n'), "{text}");
                refused += 1;
            }
        }
        let damage = store.verify().unwrap();
        assert!(damage.is_empty(), "{free} bytes free: {damage:?}");
        store.find(&kept).expect("an image was lost");
        // The next command: a full disk is no obstacle for it.
        if let Ok(image) = store.find(&wanted) {
            store.remove_images(&[image]).unwrap();
        }
        store.prune(PruneOptions::default()).unwrap();
        let left = files(&data);
        let added: Vec<_> = left.iter().filter(|file| !before.contains(file)).collect();
        assert!(
            added.is_empty(),
            "{free} bytes free: something is left: {added:?}"
        );
        assert_eq!(left.len(), before.len(), "{free} bytes free: something is lost");
        fs::remove_file(&ballast).unwrap();
    }
    assert!(
        refused > LEVELS / 2 && accepted > 0,
        "{refused} refused, {accepted} not"
    );
    pull(&store, &wanted).unwrap();
}

#[test]
fn a_full_disk_loses_nothing_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED a_full_disk_loses_nothing_and_leaves_nothing: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let role = "mount -t tmpfs -o size=24m tmpfs \"$1\" && exec \"$2\" --exact disk_full::role --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", role, "sh"])
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .env(ROLE, dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}{text}",
        String::from_utf8_lossy(&output.stdout)
    );
}

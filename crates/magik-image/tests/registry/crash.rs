//! Processes that are killed, and processes that get in each other's way: the store stays whole.
//!
//! The other process is this test binary, started again with a role. Instants are drawn from a fixed seed, over a little more than
//! the time that the whole takes.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use magik_cas::Durability;
use magik_image::{Image, ImageSource, ImageStore, PruneOptions, pull::PullOptions};

use crate::{
    fixture::{Served, archive, options},
    server,
};

const ROLE: &str = "MAGIK_IMAGE_TEST_ROLE";
const ROOT: &str = "MAGIK_IMAGE_TEST_ROOT";
const IMAGE: &str = "MAGIK_IMAGE_TEST_IMAGE";
/// Kills of each kind; four tests share them.
const KILLS: u32 = 100;
const SHARDS: u32 = 4;

fn open(root: &Path) -> ImageStore {
    ImageStore::open(root).unwrap().with_durability(Durability::None)
}

fn unpacking() -> PullOptions {
    PullOptions {
        unpack: true,
        ..options()
    }
}

fn pull(store: &ImageStore, image: &str) -> magik_image::Result<Image> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let source: ImageSource = image.parse().unwrap();
    runtime.block_on(store.pull(&source, &unpacking(), &()))
}

/// Not a test of its own: what the other process does.
#[test]
fn role() {
    let Ok(role) = env::var(ROLE) else { return };
    let store = open(Path::new(&env::var(ROOT).unwrap()));
    let image = env::var(IMAGE).unwrap_or_default();
    writeln!(std::io::stdout(), "reached").unwrap();
    match role.as_str() {
        "pull" => drop(pull(&store, &image).unwrap()),
        "prune" => drop(store.prune(PruneOptions::default()).unwrap()),
        // As pods do: pull, unpack under a lease, use, give back.
        "run" => {
            for _ in 0..12 {
                let pulled = pull(&store, &image).unwrap();
                let lease = format!("pod-{}", std::process::id());
                for tree in store.unpack_blocking(&pulled, &lease).unwrap() {
                    assert!(tree.join("dir").is_dir(), "{}", tree.display());
                }
                store.release(&lease).unwrap();
                let removed = store.find(&image).and_then(|image| store.remove_images(&[image]));
                assert!(
                    removed.is_ok() || matches!(removed, Err(magik_image::Error::NotFound(_))),
                    "{removed:?}"
                );
            }
        }
        "sweep" => {
            for _ in 0..40 {
                store.prune(PruneOptions::default()).unwrap();
            }
        }
        other => unreachable!("{other}"),
    }
}

fn start(role: &str, root: &Path, image: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::role", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .env(IMAGE, image)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut child: Child) {
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{output}");
}

/// Numbers that look random and are the same each time (Knuth's MMIX constants).
struct Instants(u64);

impl Instants {
    fn next(&mut self, span: Duration) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let part = u32::try_from(self.0 >> 33).unwrap();
        span.mul_f64(f64::from(part) / f64::from(1_u32 << 31))
    }
}

/// Three layers: a large file, many small ones, one that is shared by all images here.
fn image(seed: u8) -> Served {
    let noise: Vec<u8> = (0..400_000_u32)
        .flat_map(|n| {
            n.wrapping_mul(2_654_435_761)
                .wrapping_add(u32::from(seed))
                .to_le_bytes()
        })
        .collect();
    let small: Vec<(String, Vec<u8>)> = (0..100)
        .map(|n| (format!("dir/{seed}-{n}"), vec![n; 500]))
        .collect();
    let layers = [
        archive(&[("dir/shared", b"shared")]),
        archive(&[("dir/large", &noise)]),
        archive(
            &small
                .iter()
                .map(|(name, bytes)| (&**name, &**bytes))
                .collect::<Vec<_>>(),
        ),
    ];
    Served::new(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Serves an image, and returns its name.
fn serve(seed: u8) -> String {
    let image = image(seed);
    format!(
        "{}/test/image:latest",
        server::in_background(move |r| image.reply(r))
    )
}

/// What must hold whatever was killed, and that nothing is left after a prune.
fn check(root: &Path, kept: &str) {
    let store = open(root);
    let damage = store.verify().unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    let image = store.find(kept).expect("an image was lost");
    for layer in image.layers() {
        let tree = root.join("layers").join(layer.chain_id.hex());
        assert!(
            !tree.exists() || tree.join("layer.json").is_file(),
            "half a layer is to be seen"
        );
    }
    store.prune(PruneOptions::default()).unwrap();
    let left: Vec<String> = ["tmp", "layers"]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(['.', '-']))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(store.find(kept).is_ok());
}

fn killed_pulls(shard: u32) {
    let kept = serve(1);
    let wanted = serve(2);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    pull(&store, &kept).unwrap();
    let begun = Instant::now();
    finish(start("pull", dir.path(), &wanted));
    let span = begun.elapsed().mul_f64(1.1);
    let mut instants = Instants(u64::from(shard) + 1);
    for _ in 0..KILLS / SHARDS {
        let image = store.find(&wanted);
        if let Ok(image) = image {
            store.remove_images(&[image]).unwrap();
        }
        let mut child = start("pull", dir.path(), &wanted);
        std::thread::sleep(instants.next(span));
        child.kill().unwrap();
        child.wait().unwrap();
        check(dir.path(), &kept);
    }
    // And then it can be pulled.
    pull(&store, &wanted).unwrap();
    check(dir.path(), &wanted);
}

fn killed_prunes(shard: u32) {
    let kept = serve(3);
    let garbage = serve(4);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    pull(&store, &kept).unwrap();
    let begun = Instant::now();
    finish(start("prune", dir.path(), ""));
    let span = begun.elapsed().mul_f64(1.3);
    let mut instants = Instants(u64::from(shard) + 101);
    for _ in 0..KILLS / SHARDS {
        pull(&store, &garbage).unwrap();
        let image = store.find(&garbage).unwrap();
        // The name only: the rest is for prune.
        store.remove_image(&image).unwrap();
        let mut child = start("prune", dir.path(), "");
        std::thread::sleep(instants.next(span));
        child.kill().unwrap();
        child.wait().unwrap();
        check(dir.path(), &kept);
    }
}

macro_rules! shards {
    ($($name:ident: $run:ident($shard:literal);)*) => {$(
        #[test]
        fn $name() {
            $run($shard);
        }
    )*};
}

shards! {
    a_pull_killed_at_25_instants_leaves_the_store_whole_1: killed_pulls(0);
    a_pull_killed_at_25_instants_leaves_the_store_whole_2: killed_pulls(1);
    a_pull_killed_at_25_instants_leaves_the_store_whole_3: killed_pulls(2);
    a_pull_killed_at_25_instants_leaves_the_store_whole_4: killed_pulls(3);
    a_prune_killed_at_25_instants_leaves_the_store_whole_1: killed_prunes(0);
    a_prune_killed_at_25_instants_leaves_the_store_whole_2: killed_prunes(1);
    a_prune_killed_at_25_instants_leaves_the_store_whole_3: killed_prunes(2);
    a_prune_killed_at_25_instants_leaves_the_store_whole_4: killed_prunes(3);
}

#[test]
fn processes_that_pull_run_remove_and_prune_at_once_lose_nothing() {
    let kept = serve(5);
    let first = serve(6);
    let second = serve(7);
    let dir = tempfile::tempdir().unwrap();
    pull(&open(dir.path()), &kept).unwrap();
    let others = [
        start("run", dir.path(), &first),
        start("run", dir.path(), &second),
        start("sweep", dir.path(), ""),
    ];
    others.into_iter().for_each(finish);
    check(dir.path(), &kept);
}

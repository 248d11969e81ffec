//! Layers made of whatever entries: nothing outside is touched, and all forms are refused or are the same tree.
//!
//! As root, in a mount namespace of its own: overlayfs itself is what the overlay form is compared by.
#![no_main]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use magik_image::{ImageStore, fuzzing};
use magikrun_test_corpus::{
    tarball::{Entry, Tar},
    tree,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

/// A path of few names, so that entries meet.
#[derive(Arbitrary, Debug)]
struct Names(Vec<Name>);

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Name {
    A,
    B,
    C,
    Dot,
    Up,
    HideA,
    HideB,
    HideC,
    Opaque,
    Odd,
}

#[derive(Arbitrary, Debug)]
struct Op {
    kind: Kind,
    at: Names,
    to: Names,
    absolute: bool,
    mode: u16,
    owner: u8,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Fifo,
    Device,
    Outside,
}

impl Names {
    fn text(&self) -> String {
        let name = |name: &Name| match name {
            Name::A => "a",
            Name::B => "b",
            Name::C => "c",
            Name::Dot => ".",
            Name::Up => "..",
            Name::HideA => ".wh.a",
            Name::HideB => ".wh.b",
            Name::HideC => ".wh.c",
            Name::Opaque => ".wh..wh..opq",
            Name::Odd => "a-",
        };
        let names: Vec<_> = self.0.iter().take(5).map(name).collect();
        names.join("/")
    }
}

struct World {
    dir: tempfile::TempDir,
    outside: String,
    /// Its limits are those of copies.
    store: ImageStore,
    _store_dir: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        // SAFETY: the fuzzer has no other threads that hold on to the file system's state.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .expect("private mounts");
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None).expect("tmpfs");
        fs::create_dir(dir.path().join("outside")).expect("outside");
        fs::write(dir.path().join("outside/secret"), "secret").expect("secret");
        let outside = tree::listing(&dir.path().join("outside")).expect("listing");
        let store_dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let store = ImageStore::open(&store_dir.path().join("data")).expect("store");
        World {
            dir,
            outside,
            store,
            _store_dir: store_dir,
        }
    })
}

fn tar(ops: &[Op], outside: &Path) -> Vec<u8> {
    let mut tar = Tar::new();
    for op in ops.iter().take(24) {
        let path = op.at.text();
        let mut target = op.to.text();
        if op.absolute {
            target.insert(0, '/');
        }
        let entry = match op.kind {
            Kind::File => Entry::file(&path, &target),
            Kind::Directory => Entry::dir(&path),
            Kind::Symlink => Entry::new(b'2', &path).to(&target),
            Kind::Hardlink => Entry::new(b'1', &path).to(&target),
            Kind::Fifo => Entry::new(b'6', &path),
            Kind::Device => Entry::new(b'3', &path).device(1, 3),
            Kind::Outside => {
                Entry::new(b'2', &path).to(outside.join("secret").as_os_str().as_encoded_bytes())
            }
        };
        let owner = i64::from(op.owner);
        tar = tar.add(&entry.mode(i64::from(op.mode) & 0o7777).owner(owner, owner));
    }
    tar.done()
}

fn merged(world: &World, dirs: &[PathBuf], scratch: &Path) -> String {
    let at = world.dir.path().join("merged");
    fs::create_dir(&at).expect("merged");
    let mut lower: Vec<_> = dirs.iter().rev().map(|d| d.display().to_string()).collect();
    if lower.len() == 1 {
        fs::create_dir(scratch.join("empty")).expect("empty");
        lower.push(scratch.join("empty").display().to_string());
    }
    let options = format!("lowerdir={}\0", lower.join(":"));
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("no NUL");
    mount("overlay", &at, "overlay", MountFlags::empty(), options).expect("overlay");
    let listing = tree::listing(&at);
    unmount(&at, UnmountFlags::DETACH).expect("unmount");
    fs::remove_dir(&at).expect("merged");
    listing.expect("listing")
}

fn copied(world: &World, dirs: &[PathBuf], scratch: &Path) -> String {
    let layers: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
    let at = scratch.join("copy");
    world.store.copy_layers(&layers, &at).expect("copy");
    tree::listing(&at).expect("listing")
}

fuzz_target!(|layers: Vec<Vec<Op>>| {
    let world = world();
    let outside = world.dir.path().join("outside");
    let layers: Vec<Vec<u8>> = layers.iter().take(4).map(|ops| tar(ops, &outside)).collect();
    if layers.is_empty() {
        return;
    }
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let scratch = world.dir.path().join("scratch");
    fs::create_dir(&scratch).expect("scratch");
    let flat_dir = scratch.join("flat");
    fs::create_dir(&flat_dir).expect("flat");
    let dirs: Vec<PathBuf> = (0..layers.len()).map(|n| scratch.join(n.to_string())).collect();
    for dir in &dirs {
        fs::create_dir(dir).expect("layer");
    }
    let flat = fuzzing::flat(&layers, &flat_dir).map(|()| tree::listing(&flat_dir).expect("listing"));
    let overlay = fuzzing::overlay(&layers, &dirs).map(|()| merged(world, &dirs, &scratch));
    match (&flat, &overlay) {
        (Ok(flat), Ok(overlay)) => {
            assert_eq!(flat, overlay);
            assert_eq!(overlay, &copied(world, &dirs, &scratch));
        }
        (Err(_), Err(_)) => {}
        _ => panic!("flat {flat:?}, overlay {overlay:?}"),
    }
    fs::remove_dir_all(&scratch).expect("scratch");
    assert_eq!(tree::listing(&outside).expect("listing"), world.outside);
    let names = fs::read_dir(world.dir.path()).expect("world").count();
    assert_eq!(names, 1, "something beside the layers");
});

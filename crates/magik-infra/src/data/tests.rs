//! Tests of volumes of data: how they are written, and what is not taken.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;

fn staged(volume: &str, files: &[(&str, u32, &str)]) -> Result<Staged, StageError> {
    let mut staged = Staged::default();
    staged.add(request(volume, files))?;
    Ok(staged)
}

fn request(volume: &str, files: &[(&str, u32, &str)]) -> proto::StageFilesRequest {
    let mut request = proto::StageFilesRequest::new();
    request.volume = volume.into();
    for (path, mode, text) in files {
        let mut file = proto::StagedFile::new();
        file.path = (*path).into();
        file.mode = *mode;
        file.data = text.as_bytes().to_vec();
        request.files.push(file);
    }
    request
}

fn plan(target: PathBuf) -> DataPlan {
    DataPlan {
        name: "v".into(),
        target,
        group: None,
    }
}

fn put(dir: &Path, files: &[(&str, u32, &str)]) {
    let staged = staged("v", files).unwrap();
    update(&[plan(dir.to_owned())], &staged).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("..2"))
        .collect();
    names.sort();
    names
}

#[test]
fn files_are_laid_out_as_kubelet_does_and_replaced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(
        dir,
        &[("a", 0o644, "1"), ("sub/b", 0o400, "2"), ("gone", 0o777, "")],
    );
    assert_eq!(names(dir), ["..data", "a", "gone", "sub"]);
    assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("a"), mode("sub/b"), mode("gone")], [0o644, 0o400, 0o777]);
    assert_eq!(mode("sub"), 0o755);
    let first = fs::read_link(dir.join("..data")).unwrap();

    put(dir, &[("a", 0o600, "3"), ("new", 0o644, "4")]);
    assert_eq!(names(dir), ["..data", "a", "new"]);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    assert_eq!(mode("a"), 0o600);
    assert!(!dir.join(first).exists(), "the old version is gone");

    // What has not changed is left alone.
    let second = fs::read_link(dir.join("..data")).unwrap();
    put(dir, &[("a", 0o600, "3"), ("new", 0o644, "4")]);
    assert_eq!(fs::read_link(dir.join("..data")).unwrap(), second);
    for changed in [
        &[("a", 0o600, "3")][..],
        &[("a", 0o644, "3")],
        &[("a", 0o644, "5")],
        &[("a", 0o644, "5"), ("b/c", 0o644, "")],
    ] {
        let before = fs::read_link(dir.join("..data")).unwrap();
        put(dir, changed);
        assert_ne!(fs::read_link(dir.join("..data")).unwrap(), before, "{changed:?}");
    }

    put(dir, &[]);
    assert_eq!(names(dir), ["..data"]);
}

#[test]
fn what_a_container_put_there_is_neither_followed_nor_kept() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, outside) = (dir.path(), outside.path());
    fs::write(outside.join("precious"), "x").unwrap();
    put(dir, &[("a", 0o644, "1")]);
    // As a privileged container could.
    for name in ["..data_tmp", "a"] {
        let _ = fs::remove_file(dir.join(name));
        std::os::unix::fs::symlink(outside, dir.join(name)).unwrap();
    }
    fs::remove_file(dir.join("..data")).unwrap();
    std::os::unix::fs::symlink(outside, dir.join("..data")).unwrap();
    fs::create_dir_all(dir.join("b/c")).unwrap();
    put(dir, &[("a", 0o644, "2"), ("b", 0o644, "3")]);
    assert_eq!(names(dir), ["..data", "a", "b"]);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2");
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "3");
    assert_eq!(names(outside), ["precious"]);
}

#[test]
fn a_link_of_a_container_is_not_compared_with() {
    // A container with rights over its mounts makes ..data a link of its own: to files of the host,
    // which it would learn something of, or to a pipe, which would be read.
    let (dir, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = dir.path();
    fs::create_dir(host.path().join("..2026")).unwrap();
    for place in [
        host.path().to_owned(),
        host.path().join("..2026"),
        PathBuf::from(".."),
    ] {
        let there = dir.join(&place);
        let _ = fs::write(there.join("k"), "same");
        let _ = fs::set_permissions(there.join("k"), fs::Permissions::from_mode(0o644));
        let _ = fs::remove_file(dir.join(CURRENT));
        std::os::unix::fs::symlink(&place, dir.join(CURRENT)).unwrap();
        put(dir, &[("k", 0o644, "same")]);
        let link = fs::read_link(dir.join(CURRENT)).unwrap();
        assert!(
            link.to_str().unwrap().starts_with("..20") && link != place,
            "{link:?}"
        );
        assert_eq!(fs::read_to_string(dir.join("k")).unwrap(), "same");
    }
}

#[test]
fn a_version_that_cannot_be_written_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    put(dir, &[("a", 0o644, "1")]);
    let staged = staged("v", &[("x", 0o644, "2"), ("x/y", 0o644, "3")]).unwrap();
    assert!(update(&[plan(dir.to_owned())], &staged).is_err());
    assert_eq!(names(dir), ["..data", "a"]);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
    let versions = fs::read_dir(dir).unwrap().count();
    assert_eq!(versions, 3, "nothing of the other version is left");
}

#[test]
fn paths_that_lead_out_are_not_taken() {
    for path in [
        "", ".", "..", "/a", "../a", "a/../b", "..data", "..a", "a//b", "a/", "./a", "a/./b", "a\0b",
    ] {
        assert!(
            matches!(staged("v", &[(path, 0o644, "")]), Err(StageError::Path(_))),
            "{path:?}"
        );
    }
    for path in [
        "a",
        "a..b",
        "a/..b",
        ".a",
        "a b/c",
        "a/".repeat(63).trim_end_matches('/'),
    ] {
        assert!(staged("v", &[(path, 0o644, "")]).is_ok(), "{path:?}");
    }
    assert!(staged("v", &[(&["a"; 65].join("/"), 0o644, "")]).is_err());
    assert!(staged("v", &[(&"a".repeat(256), 0o644, "")]).is_err());
    assert!(staged("v", &[("a", 0o4755, "")]).is_err());
}

#[test]
fn what_is_staged_is_bounded() {
    let mut many = Staged::default();
    let text = "x".repeat(1 << 20);
    for number in 0..16 {
        let name = number.to_string();
        many.add(request("v", &[(&name, 0o644, &text)])).unwrap();
    }
    let one_more = many.add(request("v", &[("one", 0o644, "x")]));
    assert!(matches!(one_more, Err(StageError::TooMuch)));
    let mut many = Staged::default();
    for number in 0..64 {
        many.add(request(&number.to_string(), &[])).unwrap();
    }
    assert!(matches!(many.add(request("64", &[])), Err(StageError::TooMuch)));
    let unknown = update(&[], &staged("v", &[]).unwrap());
    assert!(matches!(
        unknown,
        Err(UpdateError::Stage(StageError::UnknownVolume(_)))
    ));
}

#[test]
fn a_volume_is_a_tmpfs_of_its_own() {
    magikrun_test_world::with_own_mounts("a_volume_is_a_tmpfs_of_its_own", || {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path().to_owned());
        let staged = staged("v", &[("a", 0o600, "secret")]).unwrap();
        mount_all(std::slice::from_ref(&plan), &staged).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "secret");
        let stat = rustix::fs::statfs(dir.path()).unwrap();
        assert_eq!(i128::from(stat.f_type), magik_sys::mount::TMPFS_MAGIC);
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing lies below it"
        );
    });
}

//! Volumes, tmpfs, what is read-only.

use std::{fs, os::unix::fs::FileTypeExt as _, process::Command};

use anyhow::ensure;
use magikrun_tests::dropin::{Check, Client};

use crate::support::{Sleeper, contains, equal};

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("a bind mount", |p| {
        let dir = p.directory()?;
        p.ok(&format!("run --rm -v {dir}:/v box sh -c 'echo written >/v/f'"))?;
        equal(&fs::read_to_string(format!("{dir}/f"))?, "written\n")
    }),
    ("a read-only bind mount", |p| {
        let dir = p.directory()?;
        p.exits(&format!("run --rm -v {dir}:/v:ro box sh -c 'echo x >/v/f'"), 1)?
            .complains("read-only")
            .map(drop)
    }),
    ("a bind mount of a file", |p| {
        let dir = p.directory()?;
        fs::write(format!("{dir}/f"), "the file\n")?;
        p.says(
            &format!("run --rm -v {dir}/f:/etc/mounted:ro box cat /etc/mounted"),
            "the file",
        )
    }),
    ("mount propagation", |p| {
        for (option, word) in [("shared", "shared:"), ("slave", "master:"), ("private", "")] {
            let dir = p.directory()?;
            let status = Command::new("sh")
                .args([
                    "-c",
                    &format!("mount -t tmpfs t {dir} && mount --make-shared {dir}"),
                ])
                .status()?;
            ensure!(status.success(), "mount");
            let line =
                format!("run --rm -v {dir}:/v:{option} box sh -c 'grep \" /v \" /proc/self/mountinfo'");
            let out = p.ok(&line);
            Command::new("umount").args(["-l", &dir]).status()?;
            let out = out?;
            ensure!(
                if word.is_empty() {
                    !out.contains("shared:") && !out.contains("master:")
                } else {
                    out.contains(word)
                },
                "{option}: {out}"
            );
        }
        Ok(())
    }),
    ("a named volume keeps its data", |p| {
        let volume = p.name();
        p.ok(&format!("run --rm -v {volume}:/v box sh -c 'echo kept >/v/f'"))?;
        p.says(&format!("run --rm -v {volume}:/v box cat /v/f"), "kept")?;
        p.ok(&format!("volume rm {volume}")).map(drop)
    }),
    ("another container's volumes", |p| {
        let c = Sleeper::new(p, "-v /shared")?;
        c.exec("", "sh -c 'echo theirs >/shared/f'")?;
        p.says(
            &format!("run --rm --volumes-from {} box cat /shared/f", c.name),
            "theirs",
        )
    }),
    ("a tmpfs", |p| {
        p.ok("run --rm --tmpfs /t:size=1m,mode=1777 box sh -c 'grep \" /t \" /proc/mounts'")
            .and_then(|o| {
                contains(&o, "tmpfs")?;
                contains(&o, "size=1024k")
            })
    }),
    ("a tmpfs over a directory starts with its files", |p| {
        p.says("run --rm --tmpfs /data box cat /data/file", "from image")
    }),
    ("a read-only root", |p| {
        p.exits("run --rm --read-only box touch /x", 1)?
            .complains("read-only")
            .map(drop)
    }),
    ("a read-only root with writable /tmp", |p| {
        p.ok("run --rm --read-only --read-only-tmpfs box touch /tmp/x /run/x")
            .map(drop)
    }),
    ("the size of /dev/shm", |p| {
        p.ok("run --rm --shm-size 2m box sh -c 'grep /dev/shm /proc/mounts'")
            .and_then(|o| contains(&o, "size=2048k"))
    }),
    ("only the standard devices", |p| {
        let out = p.ok("run --rm box sh -c 'ls /dev'")?;
        let unexpected: Vec<_> = out
            .split_whitespace()
            .filter(|d| {
                ![
                    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                    "stderr", "stdin", "stdout", "tty", "urandom", "zero",
                ]
                .contains(d)
            })
            .collect();
        ensure!(unexpected.is_empty(), "{unexpected:?}");
        Ok(())
    }),
    ("the host's /dev as a volume", |p| {
        p.says(
            "run --rm -v /dev:/dev box sh -c 'test -e /dev/kmsg && ls /dev/pts'",
            "ptmx",
        )?;
        ensure!(
            fs::metadata("/dev/null")?.file_type().is_char_device(),
            "/dev/null of the host"
        );
        Ok(())
    }),
];

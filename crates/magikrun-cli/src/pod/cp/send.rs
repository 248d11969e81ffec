//! From this host into a container.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_pri::{ExecInput, ExecSession};
use tokio::{sync::mpsc::Receiver, task::JoinHandle};

use super::{
    misused,
    pack::Source,
    pipe::{self, Writer},
    place::{InPod, Split},
    session::{Remote, interruptible},
};

/// How much is handed over at once, in bytes.
const PIECE: usize = 32 << 10;

pub(super) async fn from_host(remote: &Remote<'_>, from: &Path, to: &InPod) -> Result<u64> {
    let source = Source::open(from)?;
    let copy = async {
        let (dir, name) = target(remote, &source, to).await?;
        let (writer, pieces) = pipe::from_thread();
        let writing = tokio::task::spawn_blocking(move || {
            let mut buffered = io::BufWriter::with_capacity(PIECE, writer);
            let skipped = source.pack(name.as_deref(), &mut buffered)?;
            buffered.flush()?;
            Ok(skipped)
        });
        unpack(remote, &dir, pieces, writing).await
    };
    interruptible(copy).await
}

pub(super) async fn from_stdin(remote: &Remote<'_>, to: &InPod) -> Result<u64> {
    if io::IsTerminal::is_terminal(&io::stdin()) {
        return Err(misused("standard input is a terminal: write '< FILE.tar'"));
    }
    let copy = async {
        if !remote.is_directory(&to.path).await? {
            bail!("{to}: is no directory: an archive is unpacked in one that exists");
        }
        let (mut writer, pieces) = pipe::from_thread();
        let (done, ended) = tokio::sync::oneshot::channel();
        // Not one of the runtime's threads: a read cannot be given up, and nobody waits for it.
        std::thread::spawn(move || done.send(copy_stdin(&mut writer)));
        let writing = tokio::spawn(async move { ended.await.context("stdin")? });
        unpack(remote, &to.path, pieces, writing).await
    };
    interruptible(copy).await
}

fn copy_stdin(writer: &mut Writer) -> Result<u64> {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(n) => writer.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("stdin"),
        }
    }
}

/// The directory in the container, and what the source is called in it; docker's rules.
async fn target(remote: &Remote<'_>, source: &Source, to: &InPod) -> Result<(String, Option<OsString>)> {
    if remote.is_directory(&to.path).await? {
        return Ok((to.path.clone(), source.name().map(OsStr::to_owned)));
    }
    if to.path.ends_with('/') && !source.is_directory() {
        bail!("{to}: No such directory in the container: make it first");
    }
    match to.split() {
        Split {
            dir,
            name: Some(name),
        } => Ok((dir.to_owned(), Some(name.into()))),
        Split { name: None, .. } => bail!("{to}: No such directory in the container"),
    }
}

/// Has the container unpack what is written; returns what the writer does.
async fn unpack(
    remote: &Remote<'_>,
    dir: &str,
    pieces: Receiver<Vec<u8>>,
    writing: JoinHandle<Result<u64>>,
) -> Result<u64> {
    // Files belong to who unpacks them, and have the permissions that the archive says.
    let args = ["tar", "-x", "-p", "-o", "-f", "-", "-C", dir];
    let ExecSession {
        input, mut output, ..
    } = remote.start(&args, true).await?;
    let following = remote.follow(&mut output, async |_| Ok(true));
    let (mut feeding, mut following) = (Box::pin(feed(input, pieces, writing)), Box::pin(following));
    let mut written = None;
    let ended = loop {
        tokio::select! {
            fed = &mut feeding, if written.is_none() => written = Some(fed?),
            ended = &mut following => break ended?,
        }
    };
    let ended = ended.ok_or_else(|| anyhow!("{}: tar did not end", remote.shown()))?;
    remote.check("tar", &ended)?;
    match written {
        Some(written) => Ok(written),
        // It has seen the archive's end before we have.
        None => feeding.await,
    }
}

/// Hands the archive over. An archive that is cut short has no end: the program is ended with it.
async fn feed(
    input: ExecInput,
    mut pieces: Receiver<Vec<u8>>,
    writing: JoinHandle<Result<u64>>,
) -> Result<u64> {
    let mut listens = true;
    while let Some(piece) = pieces.recv().await {
        // What became of the program is said by its end; the writer writes on, to nobody.
        listens = listens && input.write(&piece).await.is_ok();
    }
    let written = writing.await.context("pod cp")??;
    if listens {
        // As above.
        let _ = input.close().await;
    }
    Ok(written)
}

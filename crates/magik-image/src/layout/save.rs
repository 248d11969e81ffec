//! Export: the ways of `import`, in the other direction.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, Write},
    path::Path,
};

use magik_cas::Digest;
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageIndexBuilder, MediaType};

use super::{
    CONTAINERD_NAME,
    contents::{invalid, open_regular},
    docker::{MANIFEST, SavedImage},
    oci::{INDEX_FILE, LAYOUT, LAYOUT_FILE, blob_path},
};
use crate::{
    Error, Image, ImageSource, ImageStore, Reference, Result,
    reference::DEFAULT_TAG,
    store::oci_digest,
    unpack::{Refusal, decompress},
};

const BUFFER: usize = 256 << 10;

/// How an image is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// An OCI image layout in a directory, which may hold other images.
    OciDir,
    /// An OCI image layout in a tar file.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// Saves an image to `destination`. An archive appears when it is complete, replacing a file of
/// that name; a layout that is there keeps its other images.
///
/// # Errors
/// [`Error::Cas`] if a blob is missing or damaged, or [`Error::Io`].
pub fn save(store: &ImageStore, image: &Image, destination: &Path, format: SaveFormat) -> Result<()> {
    save_under(store, image, destination, format, &Names::own(image))
}

/// Saves an image to a layout or an archive, under the tag or name that `destination` gives, or
/// else its own. It replaces what [`save`] replaces.
///
/// # Errors
/// As [`save`], [`Error::Reference`] for a name that a docker archive cannot have, and
/// [`Error::Unsupported`] for a registry, which images are pushed to.
pub fn save_to(store: &ImageStore, image: &Image, destination: &ImageSource) -> Result<()> {
    let (path, format, tag) = match destination {
        ImageSource::OciDir { path, tag } => (path, SaveFormat::OciDir, tag),
        ImageSource::OciArchive { path, tag } => (path, SaveFormat::OciArchive, tag),
        ImageSource::DockerArchive { path, tag } => (path, SaveFormat::DockerArchive, tag),
        ImageSource::Registry(reference) => {
            let why = "it is a name at a registry: push to it";
            return Err(Error::unsupported(format!("saving to {reference}"), why));
        }
    };
    let names = match tag {
        Some(tag) => Names::given(tag, format)?,
        None => Names::own(image),
    };
    save_under(store, image, path, format, &names)
}

/// What an image is called where it is saved.
#[derive(Debug, Default)]
struct Names {
    /// The `org.opencontainers.image.ref.name` in a layout.
    tag: Option<String>,
    /// Its whole name, as containerd and docker note it in a layout.
    full: Option<String>,
    /// The `RepoTags` of a docker archive.
    repo_tag: Option<String>,
}

impl Names {
    /// Those of the image.
    fn own(image: &Image) -> Self {
        image
            .reference
            .as_ref()
            .map_or_else(Self::default, |reference| Self {
                tag: Some(reference.tag().unwrap_or(DEFAULT_TAG).to_owned()),
                full: Some(reference.to_string()),
                repo_tag: reference.tag().map(|_| reference.familiar()),
            })
    }

    /// The one that the user gives.
    fn given(tag: &str, format: SaveFormat) -> Result<Self> {
        if format != SaveFormat::DockerArchive {
            // As skopeo writes it.
            return Ok(Self {
                tag: Some(tag.to_owned()),
                ..Self::default()
            });
        }
        let name: Reference = tag.parse()?;
        if name.digest().is_some() {
            return Err(Error::unsupported(
                format!("the name {name} in a docker archive"),
                "a digest is what an image has; name a tag",
            ));
        }
        Ok(Self {
            repo_tag: Some(name.familiar()),
            ..Self::default()
        })
    }
}

fn save_under(
    store: &ImageStore,
    image: &Image,
    destination: &Path,
    format: SaveFormat,
    names: &Names,
) -> Result<()> {
    if format == SaveFormat::OciDir {
        return save_dir(store, image, destination, names);
    }
    let context = || format!("write {}", destination.display());
    let dir = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temp = temporary(dir).map_err(Error::io(context()))?;
    write_under(store, image, temp.as_file(), format, names)?;
    temp.persist(destination)
        .map_err(|e| Error::io(context())(e.error))?;
    Ok(())
}

/// Writes an image as a tar archive, to a file or a pipe.
///
/// # Errors
/// As [`save`], and [`Error::Unsupported`] for [`SaveFormat::OciDir`].
pub fn write_archive(
    store: &ImageStore,
    image: &Image,
    output: impl Write,
    format: SaveFormat,
) -> Result<()> {
    write_under(store, image, output, format, &Names::own(image))
}

fn write_under(
    store: &ImageStore,
    image: &Image,
    output: impl Write,
    format: SaveFormat,
    names: &Names,
) -> Result<()> {
    let _lease = store.cas().lease()?;
    let mut archive = Archive(tar::Builder::new(BufWriter::with_capacity(BUFFER, output)));
    match format {
        SaveFormat::OciArchive => write_oci(store, image, &mut archive, names)?,
        SaveFormat::DockerArchive if image.layers().iter().any(|layer| layer.is_module) => {
            return Err(Error::unsupported(
                format!("writing image {} as a docker archive", image.name()),
                "it is a WebAssembly artifact, which docker archives cannot hold: write an OCI archive",
            ));
        }
        SaveFormat::DockerArchive => write_docker(store, image, &mut archive, names)?,
        SaveFormat::OciDir => {
            let why = "a directory is no stream".to_owned();
            return Err(Error::unsupported("writing an OCI directory to a stream", why));
        }
    }
    let written = archive.0.into_inner().and_then(|mut output| output.flush());
    written.map_err(Error::io("write the archive"))
}

/// The descriptor of an image for a layout's index, with its names as in docker and containerd.
fn index_entry(image: &Image, names: &Names) -> Descriptor {
    let mut entry = image.descriptor().clone();
    let annotations: HashMap<String, String> =
        [(ANNOTATION_REF_NAME, &names.tag), (CONTAINERD_NAME, &names.full)]
            .into_iter()
            .filter_map(|(key, name)| Some((key.to_owned(), name.clone()?)))
            .collect();
    if !annotations.is_empty() {
        entry.set_annotations(Some(annotations));
    }
    entry
}

fn index(manifests: Vec<Descriptor>) -> Result<Vec<u8>> {
    let invalid = |reason: String| Error::document(INDEX_FILE.to_owned(), reason);
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()
        .map_err(|e| invalid(e.to_string()))?;
    // oci-spec's annotations have no order; a value sorts its keys, so the bytes stay the same.
    serde_json::to_value(index)
        .and_then(|sorted| serde_json::to_vec(&sorted))
        .map_err(|e| invalid(e.to_string()))
}

/// The blobs of an image, each once, with their sizes.
fn blobs(image: &Image) -> Result<Vec<(Digest, u64)>> {
    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for descriptor in image.blobs() {
        let digest = oci_digest(descriptor)?;
        if seen.insert(digest) {
            blobs.push((digest, descriptor.size()));
        }
    }
    Ok(blobs)
}

/// A tar archive whose bytes depend on nothing but its contents.
struct Archive<W: Write>(tar::Builder<W>);

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        let mut content = content.take(size);
        let written = self.0.append_data(&mut header, name, &mut content);
        let failed = || Error::io(format!("write {name}"));
        written.map_err(failed())?;
        // A source that is too short or too long would shift all that follows. A verifying one says
        // at its end whether all was well.
        let wrong = match (content.limit(), content.into_inner().read(&mut [0])) {
            (0, Ok(0)) => return Ok(()),
            (_, Err(error)) => error,
            (0, Ok(_)) => io::Error::other("it has more bytes than expected"),
            (_, Ok(_)) => io::Error::other("it has fewer bytes than expected"),
        };
        Err(failed()(wrong))
    }
}

fn write_oci(
    store: &ImageStore,
    image: &Image,
    archive: &mut Archive<impl Write>,
    names: &Names,
) -> Result<()> {
    archive.add(LAYOUT_FILE, LAYOUT.len() as u64, LAYOUT.as_bytes())?;
    let index = index(vec![index_entry(image, names)])?;
    archive.add(INDEX_FILE, index.len() as u64, index.as_slice())?;
    for (digest, size) in blobs(image)? {
        archive.add(&blob_path(&digest), size, store.cas().open_verified(&digest)?)?;
    }
    Ok(())
}

fn write_docker(
    store: &ImageStore,
    image: &Image,
    archive: &mut Archive<impl Write>,
    names: &Names,
) -> Result<()> {
    let config_name = format!("{}.json", image.config_digest.hex());
    let config_size = image.manifest.config().size();
    archive.add(
        &config_name,
        config_size,
        store.cas().open_verified(&image.config_digest)?,
    )?;
    let mut layers = Vec::new();
    let mut seen = HashSet::new();
    for layer in image.layers() {
        let name = format!("{}.tar", layer.diff_id.hex());
        if seen.insert(layer.diff_id) {
            // A tar header wants the size first, and a compressed layer does not know it.
            let (size, file) = plain_layer(store, layer)?;
            archive.add(&name, size, file)?;
        }
        layers.push(name);
    }
    let list = [SavedImage {
        config: config_name,
        repo_tags: Some(names.repo_tag.iter().cloned().collect()),
        layers,
    }];
    let list = serde_json::to_vec(&list).map_err(Error::io(format!("write {MANIFEST}")))?;
    archive.add(MANIFEST, list.len() as u64, list.as_slice())
}

/// A layer decompressed into a file without a name, checked against its diff id.
fn plain_layer(store: &ImageStore, layer: &crate::store::Layer) -> Result<(u64, File)> {
    let context = || format!("decompress layer {}", layer.digest);
    let limit = store.limits().max_layer_size;
    let blob = store.cas().open_blob(&layer.digest)?;
    let (_, mut source) = decompress(blob).map_err(|e| {
        Refusal::of(&e, || format!("layer {}", layer.digest)).unwrap_or_else(|| Error::io(context())(e))
    })?;
    let mut file = tempfile::tempfile_in(store.cas().tmp_dir()).map_err(Error::io(context()))?;
    let mut hasher = layer.diff_id.algorithm().hasher();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io(context())(e)),
        };
        size += n as u64;
        if size > limit {
            return Err(Error::too_large(
                format!("layer {}, decompressed,", layer.digest),
                limit,
            ));
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(Error::io(context()))?;
    }
    let found = hasher.finish();
    if found != layer.diff_id {
        store.cas().check(&layer.digest)?;
        return Err(Error::DiffIdMismatch {
            layer: layer.digest,
            expected: Box::new(layer.diff_id),
            found: Box::new(found),
        });
    }
    file.rewind().map_err(Error::io(context()))?;
    Ok((size, file))
}

fn save_dir(store: &ImageStore, image: &Image, dir: &Path, names: &Names) -> Result<()> {
    let _lease = store.cas().lease()?;
    let context = |path: &Path| format!("write {}", path.display());
    for (digest, size) in blobs(image)? {
        let path = dir.join(blob_path(&digest));
        if fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == size) {
            continue;
        }
        replace(&path, store.cas().open_verified(&digest)?)?;
    }
    replace(&dir.join(LAYOUT_FILE), LAYOUT.as_bytes())?;

    let path = dir.join(INDEX_FILE);
    let entry = index_entry(image, names);
    let mut manifests = if path.exists() {
        let limit = store.limits().max_manifest_size;
        let mut text = Vec::new();
        open_regular(&path)?
            .take(limit)
            .read_to_end(&mut text)
            .map_err(Error::io(context(&path)))?;
        let there: ImageIndex = serde_json::from_slice(&text).map_err(|e| invalid(&path, e.to_string()))?;
        there.manifests().clone()
    } else {
        Vec::new()
    };
    let name = |descriptor: &Descriptor| {
        descriptor
            .annotations()
            .as_ref()?
            .get(ANNOTATION_REF_NAME)
            .cloned()
    };
    // A tag means one image; an image without a tag is there once.
    manifests.retain(|other| match (name(other), name(&entry)) {
        (Some(a), Some(b)) => a != b,
        (None, None) => other.digest() != entry.digest(),
        _ => true,
    });
    manifests.push(entry);
    replace(&path, index(manifests)?.as_slice())
}

/// A file that is being written. Others may read it, as umask allows: the user asked for it.
fn temporary(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".saving-").tempfile_in(dir)
}

/// Writes a file beside its place and puts it there.
fn replace(path: &Path, mut content: impl Read) -> Result<()> {
    let mut write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut temp = temporary(dir)?;
        io::copy(&mut content, temp.as_file_mut())?;
        temp.persist(path)?;
        Ok(())
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}

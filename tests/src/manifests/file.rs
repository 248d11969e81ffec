//! The files of `tests/manifests`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Header;

/// A manifest, and what must be seen when it runs.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file without `.yaml`, and the pod's name where there is one pod.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What the comment on top says.
    pub header: Header,
    /// Its documents.
    pub documents: Vec<Value>,
}

/// As magikrun reads them: the modes of files are octal.
fn documents(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

/// The directories of `tests/manifests`.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn directories() -> Vec<String> {
    let entries = fs::read_dir(root()).expect("tests/manifests").flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = directories
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.sort();
    names
}

/// The manifests of a directory of `tests/manifests`, by name.
///
/// # Panics
/// If one cannot be read or its header is wrong: all of these are told.
#[must_use]
pub fn manifests(directory: &str) -> Vec<Manifest> {
    let entries = fs::read_dir(root().join(directory)).expect(directory).flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let mut mistakes = Vec::new();
    let mut read = Vec::new();
    for path in paths {
        match Manifest::read(&path) {
            Ok(manifest) => read.push(manifest),
            Err(mistake) => mistakes.push(format!("{}: {mistake}", path.display())),
        }
    }
    assert!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
    read
}

impl Manifest {
    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let name = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".yaml"));
        let name = name.ok_or("is not called NAME.yaml")?.to_owned();
        let manifest = Self {
            path: path.to_owned(),
            header: Header::parse(&text)?,
            documents: documents(&text)?,
            name,
        };
        manifest.check_names().map(|()| manifest)
    }

    /// Two manifests never make a pod of the same name, and who looks for one finds it.
    fn check_names(&self) -> Result<(), String> {
        for document in &self.documents {
            let is_workload = !document["spec"]["template"].is_null();
            let name = document["metadata"]["name"].as_str();
            let is_pod = is_workload || document["kind"] == "Pod";
            if is_pod && name.is_some_and(|name| !name.starts_with(&self.name)) {
                return Err(format!("a pod's name must begin with {}", self.name));
            }
        }
        Ok(())
    }

    /// What it runs: the specs of its pods, or the templates of them.
    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        let listed = self.documents.iter().flat_map(|document| {
            let items = document["items"].as_array();
            items.map_or(std::slice::from_ref(document), Vec::as_slice)
        });
        listed.filter_map(|document| {
            [document, &document["spec"]["template"]]
                .into_iter()
                .find(|pod| pod["spec"]["containers"].is_array())
        })
    }
}

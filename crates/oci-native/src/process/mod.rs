//! What a container's first process and an exec'd one have in common: the way from the host to a
//! program of the container.
//!
//! The steps are, in this order: attributes ([`attributes`]), a terminal ([`terminal`]), the user
//! ([`user`]), looking up the program ([`program`]), filter and capabilities ([`confine`]), last a
//! pid namespace with others in it ([`birth`]): they see no more rights than theirs.

pub(crate) mod attributes;
pub(crate) mod birth;
pub(crate) mod confine;
pub(crate) mod cwd;
pub(crate) mod home;
pub(crate) mod owner;
pub(crate) mod program;
pub(crate) mod streams;
pub(crate) mod terminal;
pub(crate) mod user;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Process;

use self::cwd::Cwd;
use crate::failure::Failure;

/// The program of a process.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) environment: Vec<String>,
}

impl Program {
    /// Its name in the spec: `process.args[0]`.
    pub(crate) fn name(process: &Process) -> &str {
        process.args().iter().flatten().next().map_or("", String::as_str)
    }

    /// Executes it, which only returns to say why not.
    pub(crate) fn execute(&self, process: &Process) -> Failure {
        let args = process.args().as_deref().unwrap_or_default();
        program::execute(Self::name(process), &self.path, args, &self.environment)
    }
}

/// Each variable once: of several with one name the last counts, as in runc.
fn environment(process: &Process) -> Vec<String> {
    let pairs = process.env().iter().flatten().filter_map(|v| v.split_once('='));
    let each: BTreeMap<&str, &str> = pairs.collect();
    each.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// Becomes the process's user in its working directory, in the container's root, and finds its
/// program with all capabilities. `between` runs before the user changes, in the directory.
pub(crate) fn assume(
    process: &Process,
    find: bool,
    between: impl FnOnce() -> Result<(), Failure>,
) -> Result<Program, Failure> {
    let cwd = Cwd::enter(process)?;
    between()?;
    user::assume(process.user()).map_err(|e| Failure::Other(format!("process.user: {e}")))?;
    cwd.verify(process)?;
    let mut environment = environment(process);
    home::add(&mut environment, process.user().uid(), Path::new("/"));
    let name = Program::name(process);
    let path = if find {
        program::find_program(name, program::search_path(&environment)).map_err(Failure::Executable)?
    } else {
        name.into()
    };
    Ok(Program { path, environment })
}

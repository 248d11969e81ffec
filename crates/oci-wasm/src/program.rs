//! What a program is, whether it fits, and how it begins.

use wasmtime::{Engine, ExternType, InstancePre, Linker, Module, component::Component};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::{
    LoadError, World,
    engine::Running,
    error::one_line,
    host::Host,
    linkers::PREVIEW1,
    loader::{Code, Program},
};

/// The interfaces a component is started by, without their versions.
const RUN: &str = "wasi:cli/run";
const INCOMING_HANDLER: &str = "wasi:http/incoming-handler";

/// Bytes of a page of linear memory.
const WASM_PAGE: u64 = 65536;

/// The most imports an error names.
const MAX_NAMED: usize = 10;

/// A linked program.
pub(crate) enum Linked {
    Module(InstancePre<Host>),
    Command(CommandPre<Host>),
    Proxy(ProxyPre<Host>),
}

impl Program {
    /// What the program is.
    pub(crate) fn world(&self) -> Result<World, LoadError> {
        match &self.code {
            Code::Module(module) => module_world(module),
            Code::Component(component) => component_world(component),
        }
    }

    /// Connects the program's imports to this host; `listening`: it is given sockets.
    pub(crate) fn link(&self, listening: bool) -> Result<Linked, LoadError> {
        let world = self.world()?;
        let Running { engine, linkers } = self.running;
        match &self.code {
            Code::Module(module) => {
                let linker = linkers.module(engine, listening)?;
                linker
                    .instantiate_pre(module)
                    .map(Linked::Module)
                    .map_err(|e| module_imports(linker, module, &e))
            }
            Code::Component(component) => {
                let linker = linkers.component(engine)?;
                let pre = linker
                    .instantiate_pre(component)
                    .map_err(|e| component_imports(component, &e))?;
                let bad = |e: wasmtime::Error| LoadError::Invalid(one_line(&e));
                match world {
                    World::HttpProxy => ProxyPre::new(pre).map(Linked::Proxy).map_err(bad),
                    _ => CommandPre::new(pre).map(Linked::Command).map_err(bad),
                }
            }
        }
    }

    /// How much the largest of the program's linear memories has at first, in bytes.
    pub(crate) fn initial_memory(&self) -> u64 {
        let resources = match &self.code {
            Code::Module(module) => Some(module.resources_required()),
            Code::Component(component) => component.resources_required(),
        };
        resources
            .and_then(|r| r.max_initial_memory_size)
            .unwrap_or_default()
            .saturating_mul(WASM_PAGE)
    }
}

fn module_world(module: &Module) -> Result<World, LoadError> {
    for import in module.imports() {
        let found = match import.module() {
            "wasi_unstable" => "WASI preview 0 (it imports wasi_unstable)",
            other if other.starts_with("wasi:") => "a component that was never linked (it imports wasi:…)",
            _ => continue,
        };
        return Err(LoadError::WrongWasiVersion {
            found: found.to_owned(),
        });
    }
    match module.get_export("_start") {
        Some(ExternType::Func(start)) if start.params().len() == 0 && start.results().len() == 0 => {
            Ok(World::Preview1)
        }
        Some(_) => Err(LoadError::Invalid(
            "its _start is not a function without parameters and results".to_owned(),
        )),
        None if module.get_export("_initialize").is_some() => Err(LoadError::MissingEntry(
            "_start: it is a library (a WASI reactor), not a command",
        )),
        None => Err(LoadError::MissingEntry("_start")),
    }
}

fn component_world(component: &Component) -> Result<World, LoadError> {
    let ty = component.component_type();
    let mut other = None;
    for (name, _) in ty.exports(component.engine()) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let world = match interface {
            RUN => World::Command,
            INCOMING_HANDLER => World::HttpProxy,
            "wasi:http/handler" => {
                other = Some(name.to_owned());
                continue;
            }
            _ => continue,
        };
        if version.starts_with("0.2.") {
            return Ok(world);
        }
        other = Some(name.to_owned());
    }
    match other {
        Some(found) => Err(LoadError::WrongWasiVersion {
            found: format!("another version of WASI (it exports {found})"),
        }),
        None => Err(newer_imports(component).unwrap_or(LoadError::MissingEntry(
            "export of wasi:cli/run or wasi:http/incoming-handler",
        ))),
    }
}

/// The complaint about imports of a version of WASI that is newer than 0.2.
fn newer_imports(component: &Component) -> Option<LoadError> {
    let ty = component.component_type();
    let mut imports = ty.imports(component.engine()).map(|(name, _)| name);
    let found = imports.find(|i| i.starts_with("wasi:") && i.contains("@0.3"))?;
    Some(LoadError::WrongWasiVersion {
        found: format!("WASI 0.3 (it imports {})", shorten(found)),
    })
}

/// Says which imports of a module are the problem.
fn module_imports(linker: &Linker<Host>, module: &Module, error: &wasmtime::Error) -> LoadError {
    let known = |import: &wasmtime::ImportType<'_>| {
        import.module() == PREVIEW1 && linker_has(linker, module.engine(), import)
    };
    let unknown = module
        .imports()
        .filter(|i| !known(i))
        .map(|i| format!("{}::{}", i.module(), i.name()));
    named(unknown, error)
}

fn linker_has(linker: &Linker<Host>, engine: &Engine, import: &wasmtime::ImportType<'_>) -> bool {
    // A store is only needed for its type: nothing is instantiated in it.
    Host::empty(engine)
        .is_some_and(|mut store| linker.get(&mut store, import.module(), import.name()).is_ok())
}

/// Says which imports of a component are the problem.
fn component_imports(component: &Component, error: &wasmtime::Error) -> LoadError {
    const PACKAGES: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];
    if let Some(newer) = newer_imports(component) {
        return newer;
    }
    let ty = component.component_type();
    let known = |name: &str| {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        let package = interface.strip_prefix("wasi:").and_then(|i| i.split('/').next());
        package.is_some_and(|p| PACKAGES.contains(&p)) && version.starts_with("0.2.")
    };
    let imports: Vec<String> = ty
        .imports(component.engine())
        .map(|(name, _)| name.to_owned())
        .collect();
    named(imports.into_iter().filter(|i| !known(i)), error)
}

/// The unknown imports by name, or wasmtime's error if all are known and one has the wrong type.
fn named(unknown: impl Iterator<Item = String>, error: &wasmtime::Error) -> LoadError {
    let unknown: Vec<String> = unknown.collect();
    if unknown.is_empty() {
        return LoadError::Invalid(one_line(error));
    }
    let more = unknown.len().saturating_sub(MAX_NAMED);
    let mut names = unknown
        .into_iter()
        .take(MAX_NAMED)
        .map(|n| shorten(&n))
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    LoadError::UnknownImports(names)
}

/// A name from a module, fit for a line of text.
fn shorten(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

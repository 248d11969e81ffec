//! What running a program costs inside one process: the floor under every pod of WebAssembly.
//!
//! `cargo run --profile bench -p magik-wasm --example floor -- MODULE...` compiles each module once
//! and prints medians: first (a new process: engine, cache, linker, container, to its exit), again
//! (the same process, everything but the container is there) and instantiate (wasmtime alone, from
//! a pool).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use magik_oci::{CreateOptions, OciRuntime, Stdio};
use oci_wasm::{Loader, Metering, WasmtimeRuntime, annotations::FUEL};

const ROUNDS: usize = 51;
/// What this program calls itself with for one cold run.
const ONCE: &str = "--once";

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    oci_wasm::run_compiler_if_asked();
    let args: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if let [once, cache, bundle] = &args[..]
        && once == ONCE
    {
        let took = runtime.block_on(run(&loader(cache.as_ref()), bundle.as_ref(), "c"))?;
        say(&took.as_nanos().to_string());
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let cache = directory.path().join("cache");
    for (i, module) in args.iter().enumerate() {
        for (fuel, metering) in [("1000000000", Metering::Fuel), ("off", Metering::Epochs)] {
            let bundle = bundle(
                &directory.path().join(format!("{i}-{fuel}")),
                module.as_ref(),
                fuel,
            )?;
            let loader = loader(&cache);
            let cold = Instant::now();
            runtime.block_on(loader.prepare(module.as_ref(), metering))?;
            let cold = cold.elapsed();
            let first = median(|| {
                let output = Command::new(env::current_exe()?)
                    .arg(ONCE)
                    .arg(&cache)
                    .arg(&bundle)
                    .output()?;
                Ok(Duration::from_nanos(
                    String::from_utf8(output.stdout)?.trim().parse()?,
                ))
            })?;
            let mut n = 0;
            let again = median(|| {
                n += 1;
                runtime.block_on(run(&loader, &bundle, &format!("c{n}")))
            })?;
            say(&format!(
                "{module} {fuel:>10}: compile {cold:.1?}, first {first:.1?}, again {again:.1?}"
            ));
        }
        say(&format!(
            "{module} instantiate from a pool: {:.2?}",
            instantiate(module.as_ref())?
        ));
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}

fn loader(cache: &Path) -> Loader {
    Loader::builder(cache.to_owned()).build()
}

fn median(mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut all = (0..ROUNDS).map(|_| once()).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all[ROUNDS / 2])
}

fn bundle(directory: &Path, module: &Path, fuel: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(directory.join("rootfs"))?;
    std::fs::copy(module, directory.join("rootfs/app.wasm"))?;
    let spec = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/app.wasm"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": true},
        "annotations": {FUEL: fuel},
    });
    std::fs::write(directory.join("config.json"), spec.to_string())?;
    Ok(directory.to_owned())
}

/// From nothing to the exit of one container.
async fn run(loader: &Loader, bundle: &Path, id: &str) -> Result<Duration> {
    let began = Instant::now();
    let runtime = WasmtimeRuntime::new(loader.clone());
    let id = id.parse()?;
    runtime
        .create(&id, bundle, Stdio::default(), CreateOptions::default())
        .await?;
    runtime.start(&id).await?;
    let exit = runtime.wait(&id).await?;
    let took = began.elapsed();
    if exit.code != 0 {
        return Err(format!("exit code {}", exit.code).into());
    }
    Ok(took)
}

/// An instance and its end, without running anything.
fn instantiate(module: &Path) -> Result<Duration> {
    use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, Module, Store};
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::pooling());
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, std::fs::read(module)?)?;
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_traps(&module)?;
    let pre = linker.instantiate_pre(&module)?;
    median(|| {
        let began = Instant::now();
        let mut store = Store::new(&engine, ());
        pre.instantiate(&mut store)?;
        drop(store);
        Ok(began.elapsed())
    })
}

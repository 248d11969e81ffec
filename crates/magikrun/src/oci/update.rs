//! `update`: resources from a file, standard input or options.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use super::args::UpdateArgs;

/// The longest resources document that is read.
const MAX_RESOURCES_SIZE: u64 = 1 << 20;

/// The resources that the arguments ask for; what is absent stays as it is.
pub(super) fn resources(args: &UpdateArgs) -> Result<LinuxResources> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        bail!("--l3-cache-schema and --mem-bw-schema: Intel RDT is not supported");
    }
    let mut resources = match &args.resources {
        Some(path) if path == Path::new("-") => parse(io::stdin().lock(), "standard input")?,
        Some(path) => {
            let name = path.display().to_string();
            parse(File::open(path).with_context(|| name.clone())?, &name)?
        }
        None => from_options(args)?,
    };
    drop_unset(&mut resources);
    Ok(resources)
}

fn parse(reader: impl Read, name: &str) -> Result<LinuxResources> {
    let mut text = Vec::new();
    reader
        .take(MAX_RESOURCES_SIZE + 1)
        .read_to_end(&mut text)
        .with_context(|| name.to_owned())?;
    if text.len() as u64 > MAX_RESOURCES_SIZE {
        bail!("{name}: more than {MAX_RESOURCES_SIZE} bytes of resources");
    }
    serde_json::from_slice(&text).with_context(|| format!("{name}: not the resources of the runtime-spec"))
}

fn from_options(args: &UpdateArgs) -> Result<LinuxResources> {
    let mut memory = LinuxMemory::default();
    memory.set_limit(bytes("--memory", args.memory.as_deref())?);
    memory.set_reservation(bytes("--memory-reservation", args.memory_reservation.as_deref())?);
    memory.set_swap(bytes("--memory-swap", args.memory_swap.as_deref())?);

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share)
        .set_period(args.cpu_period)
        .set_quota(args.cpu_quota)
        .set_burst(args.cpu_burst)
        .set_idle(args.cpu_idle)
        .set_realtime_period(args.cpu_rt_period)
        .set_realtime_runtime(args.cpu_rt_runtime)
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());

    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu));
    resources.set_pids(args.pids_limit.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    }));
    resources.set_block_io(args.blkio_weight.map(|weight| {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        block_io
    }));
    Ok(resources)
}

/// Docker sends every field, 0 for those that do not change; runc takes 0 the same way. An empty
/// part is no part. `cpu.idle` is the exception: there 0 is a value.
fn drop_unset(resources: &mut LinuxResources) {
    let mut memory = resources.memory().unwrap_or_default();
    memory.set_limit(memory.limit().filter(|v| *v != 0));
    memory.set_reservation(memory.reservation().filter(|v| *v != 0));
    memory.set_swap(memory.swap().filter(|v| *v != 0));
    #[allow(deprecated, reason = "Docker 20.10 still sends it, as 0")]
    memory.set_kernel(None);
    memory.set_kernel_tcp(memory.kernel_tcp().filter(|v| *v != 0));
    resources.set_memory((memory != LinuxMemory::default()).then_some(memory));

    let mut cpu = resources.cpu().clone().unwrap_or_default();
    cpu.set_shares(cpu.shares().filter(|v| *v != 0));
    cpu.set_period(cpu.period().filter(|v| *v != 0));
    cpu.set_quota(cpu.quota().filter(|v| *v != 0));
    cpu.set_burst(cpu.burst().filter(|v| *v != 0));
    cpu.set_realtime_period(cpu.realtime_period().filter(|v| *v != 0));
    cpu.set_realtime_runtime(cpu.realtime_runtime().filter(|v| *v != 0));
    cpu.set_cpus(cpu.cpus().clone().filter(|v| !v.is_empty()));
    cpu.set_mems(cpu.mems().clone().filter(|v| !v.is_empty()));
    resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));

    let mut block_io = resources.block_io().clone().unwrap_or_default();
    block_io.set_weight(block_io.weight().filter(|v| *v != 0));
    block_io.set_leaf_weight(block_io.leaf_weight().filter(|v| *v != 0));
    resources.set_block_io((block_io != LinuxBlockIo::default()).then_some(block_io));
    resources.set_pids((*resources.pids()).filter(|p| p.limit() != 0));
}

/// A size as runc reads it: a number, with k, m, g or t for powers of 1024; -1 is no limit.
fn bytes(option: &str, text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let lower = text.trim().to_ascii_lowercase();
    if lower == "-1" {
        return Ok(Some(-1));
    }
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number = digits
        .parse::<u32>()
        .map(i64::from)
        .or_else(|_| digits.parse::<i64>());
    match number
        .ok()
        .filter(|n| *n >= 0)
        .and_then(|n| n.checked_mul(1 << shift))
    {
        Some(value) => Ok(Some(value)),
        None => bail!("{option} {text:?}: use a number of bytes, such as 64m, or -1 for no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn options(line: &str) -> Result<LinuxResources> {
        resources(&UpdateArgs::try_parse_from(line.split_whitespace()).unwrap())
    }

    #[test]
    fn options_become_resources_and_nothing_else_is_set() {
        let r = options("--memory 64m --cpu-quota -1 --cpuset-cpus 0-1 --pids-limit 20 --blkio-weight 100 c")
            .unwrap();
        assert_eq!(
            serde_json::to_value(&r).unwrap(),
            serde_json::json!({
                "memory": {"limit": 67_108_864}, "cpu": {"quota": -1, "cpus": "0-1"},
                "pids": {"limit": 20}, "blockIO": {"weight": 100},
            })
        );
    }

    #[test]
    fn zeros_as_docker_sends_them_change_nothing() {
        let text = r#"{"blockIO":{"weight":0},"memory":{"limit":33554432,"reservation":0,"swap":0,"kernel":0},
            "cpu":{"shares":0,"quota":0,"period":0,"cpus":"","mems":""},"pids":{"limit":0}}"#;
        let mut r = parse(text.as_bytes(), "x").unwrap();
        drop_unset(&mut r);
        assert_eq!(
            serde_json::to_value(&r).unwrap(),
            serde_json::json!({"memory": {"limit": 33_554_432}})
        );
    }

    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, value) in [
            ("1024", 1024),
            ("1k", 1024),
            ("2M", 2 << 20),
            ("3gb", 3 << 30),
            ("1GiB", 1 << 30),
            ("-1", -1),
        ] {
            assert_eq!(bytes("--memory", Some(text)).unwrap(), Some(value), "{text}");
        }
        for text in ["", "x", "1.5g", "-2", "9999999999t", "k"] {
            assert!(
                bytes("--memory", Some(text))
                    .unwrap_err()
                    .to_string()
                    .contains("--memory"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_resources_document_is_refused() {
        assert!(parse(&b"true"[..], "x").is_err());
        assert!(parse(&b"{\"memory\":{\"limit\":\"1\"}}"[..], "x").is_err());
        assert!(
            parse(io::repeat(b' '), "x")
                .unwrap_err()
                .to_string()
                .contains("more than")
        );
    }
}

//! The machine that the figures are of, in one line.

use anyhow::{Context, Result};

/// Cores, processor, memory, kernel.
pub(crate) fn describe() -> Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown processor");
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
    let gib = kib.trim().trim_end_matches(" kB").parse::<u64>().context("MemTotal")? >> 20;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!("{cores} cores, {model}, {gib} GiB, Linux {}", kernel.trim()))
}

/// How busy other programs keep the machine: the load average of the last minute.
pub(crate) fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

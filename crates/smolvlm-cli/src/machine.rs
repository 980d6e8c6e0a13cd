//! What this process takes.

/// Memory of this process that is in use, in bytes, where the system tells.
pub(crate) fn memory() -> Option<u64> {
    status("VmRSS:")
}

/// The most that it has been.
pub(crate) fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// A field of `/proc/self/status` that is in KiB.
fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

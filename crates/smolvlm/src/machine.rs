//! What the machine has, memory that is left and cores; and what this process takes.

use std::num::NonZero;

use crate::{Error, Result};

/// Bytes that new work may take without swapping, where the system tells.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    kibibytes(&text, "MemAvailable:")
}

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// In use now.
    pub now: u64,
    /// The most that ever was.
    pub peak: u64,
}

impl ProcessMemory {
    /// What the system tells; none where it does not.
    pub fn read() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/status").ok()?;
        Some(Self { now: kibibytes(&text, "VmRSS:")?, peak: kibibytes(&text, "VmHWM:")? })
    }
}

/// A field of the kernel's tables that is in KiB, in bytes.
fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Fewer bytes than this are made faster than a thread starts.
const BYTES_PER_THREAD: usize = 1 << 20;

/// Threads that making so many bytes of pixels keeps busy.
pub(crate) fn threads_for(bytes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.min(bytes / BYTES_PER_THREAD + 1)
}

/// Refuses work that needs more memory than there is, before it begins.
pub(crate) fn check_memory(what: &str, needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available => Err(Error::budget(format!(
            "{what} need {} MiB of memory; {} MiB are left on this machine",
            needed >> 20,
            available >> 20
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn work_that_does_not_fit_is_refused_with_both_numbers() {
        let error = check_memory("the weights", 3 << 20, Some(2 << 20)).expect_err("too much");
        assert_eq!(error.kind(), ErrorKind::Budget);
        assert!(error.to_string().contains("3 MiB") && error.to_string().contains("2 MiB"));
        assert!(check_memory("the weights", 3 << 20, Some(3 << 20)).is_ok());
        assert!(check_memory("the weights", 3 << 20, None).is_ok());
    }
}

//! A read-only file in memory whose pages can be handed back.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// A file mapped read-only. Changing the file while it is mapped is the user's fault and shows as changed bytes.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps the whole file at `path`. An empty file maps to no bytes.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to this value; bytes are only ever read as plain numbers, so a
        // file that is changed underneath can alter values but not break any invariant of the type system.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that `range` will not be needed soon, so that it no longer counts as this process's memory.
    /// Reading it again brings it back from the file. A hint: failure is ignored.
    pub fn release(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start >= end {
            return;
        }
        #[cfg(unix)]
        // SAFETY: the mapping is shared and read-only, backed by the file: dropped pages are read again on access.
        unsafe {
            let _ = self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, end - range.start);
        }
    }
}

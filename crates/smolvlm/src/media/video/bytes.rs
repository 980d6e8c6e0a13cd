//! Random access to an encoded file, on disk or in memory, and the fields in a part of it.

use std::fs::File;
use std::sync::Arc;

use crate::media::source::Opened;
use crate::{Error, Result};

/// An encoded file of known length. Nothing is read until asked for, and never more than asked
/// for; clones share the file, and any thread may read.
#[derive(Debug, Clone)]
pub(super) struct ByteSource {
    inner: Inner,
    len: u64,
}

#[derive(Debug, Clone)]
enum Inner {
    File(Arc<File>),
    Bytes(Arc<[u8]>),
}

impl ByteSource {
    pub(super) fn open(opened: &Opened) -> Result<Self> {
        match opened {
            Opened::Bytes(bytes) => Ok(Self { len: bytes.len() as u64, inner: Inner::Bytes(bytes.clone()) }),
            Opened::File(path) => {
                let cannot =
                    |error: std::io::Error| Error::input(format!("cannot be opened: {error}")).caused_by(error);
                let metadata = std::fs::metadata(path).map_err(cannot)?;
                if !metadata.is_file() {
                    // Opening a pipe would wait for its writer.
                    return Err(Error::input("is not a regular file"));
                }
                let (file, len) = (File::open(path).map_err(cannot)?, metadata.len());
                Ok(Self { inner: Inner::File(Arc::new(file)), len })
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Replaces the content of `buffer` with the `size` bytes at `offset`, which must lie within the file.
    pub(super) fn read_at(&self, offset: u64, size: usize, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let end = offset.checked_add(size as u64).filter(|&end| end <= self.len);
        let Some(end) = end else {
            let len = self.len;
            return Err(Error::input(format!("{size} bytes at {offset} lie outside the file of {len} bytes")));
        };
        match &self.inner {
            Inner::Bytes(bytes) => buffer.extend_from_slice(&bytes[offset as usize..end as usize]),
            Inner::File(file) => {
                buffer.resize(size, 0);
                read_exact_at(file, offset, buffer).map_err(|error| {
                    Error::input(format!("cannot be read at byte {offset}: {error}")).caused_by(error)
                })?;
            }
        }
        Ok(())
    }

    /// The whole file, of at most `limit` bytes.
    pub(super) fn read_all(&self, limit: u64) -> Result<Arc<[u8]>> {
        if let Inner::Bytes(bytes) = &self.inner {
            return Ok(bytes.clone());
        }
        if self.len > limit {
            return Err(Error::input(format!("it has {} bytes; at most {limit} are read", self.len)));
        }
        let mut data = Vec::new();
        self.read_at(0, self.len as usize, &mut data)?;
        Ok(data.into())
    }

    /// At most `size` bytes at `offset`; fewer at the end of the file.
    pub(super) fn read_up_to(&self, offset: u64, size: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let present = self.len.saturating_sub(offset).min(size as u64) as usize;
        self.read_at(offset.min(self.len), present, buffer)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                offset += read as u64;
                buffer = &mut buffer[read..];
            }
        }
    }
    Ok(())
}

/// Big-endian fields one after another. `None` where the bytes end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// 32 bits in version 0 of a box, 64 in later ones.
    pub(super) fn u32_or_u64(&mut self, version: u8) -> Option<u64> {
        if version == 0 { self.u32().map(u64::from) } else { self.u64() }
    }
}

//! Reads safetensors files, and writes broken ones.

use std::path::Path;

use serde_json::Value;

/// A file's header and data.
#[derive(Clone)]
pub(crate) struct Safetensors {
    pub(crate) header: Value,
    data: Vec<u8>,
}

impl Safetensors {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a header's length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).expect("a header"), data: data.to_vec() }
    }

    /// Writes the header as it stands, whatever it says, filled up with spaces so that the data is aligned.
    pub(crate) fn write(&self, path: &Path) {
        let mut header = self.header.to_string();
        header.push_str(&" ".repeat((header.len() + 8).next_multiple_of(64) - 8 - header.len()));
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(path, [&length, header.as_bytes(), &self.data].concat()).expect("written");
    }

    /// The same without one tensor and its bytes.
    pub(crate) fn without(mut self, name: &str) -> Self {
        let header = self.header.as_object_mut().expect("an object");
        let entry = header.remove(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let offset = |entry: &Value, i: usize| entry["data_offsets"][i].as_u64().expect("an offset") as usize;
        let (start, end) = (offset(&entry, 0), offset(&entry, 1));
        self.data.drain(start..end);
        for (_, entry) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
            for i in 0..2 {
                let place = offset(entry, i);
                entry["data_offsets"][i] = if place >= end { place - (end - start) } else { place }.into();
            }
        }
        self
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let names = self.header.as_object().expect("an object").keys().map(String::as_str);
        let mut names: Vec<&str> = names.filter(|name| *name != "__metadata__").collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn metadata(&self, name: &str) -> &str {
        self.header["__metadata__"][name].as_str().unwrap_or_else(|| panic!("no metadata {name}"))
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let shape = self.header[name]["shape"].as_array().unwrap_or_else(|| panic!("no tensor {name}"));
        shape.iter().map(|size| size.as_u64().expect("a size") as usize).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let (values, rest) = self.bytes(name, "F32").as_chunks::<4>();
        assert!(rest.is_empty());
        values.iter().map(|value| f32::from_le_bytes(*value)).collect()
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<i64> {
        let (values, rest) = self.bytes(name, "I64").as_chunks::<8>();
        assert!(rest.is_empty());
        values.iter().map(|value| i64::from_le_bytes(*value)).collect()
    }

    pub(crate) fn bytes(&self, name: &str, dtype: &str) -> &[u8] {
        let tensor = &self.header[name];
        assert_eq!(tensor["dtype"], dtype, "{name}");
        let offset = |i: usize| tensor["data_offsets"][i].as_u64().expect("an offset") as usize;
        &self.data[offset(0)..offset(1)]
    }
}

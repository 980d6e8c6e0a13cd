//! Which weight file holds what, and its header.

use serde_json::{Map, Value, json};
use smolvlm_kernels::packed::ALIGNMENT;

use crate::checkpoint::names::Expected;
use crate::checkpoint::packed::Description;
use crate::checkpoint::packed::plan::{Plan, Planned};
use crate::checkpoint::{INDEX, SINGLE};

/// A tensor of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    /// Packed, as bytes.
    Matrix(&'a Planned),
    /// As f32.
    Vector(&'a Expected),
}

impl Item<'_> {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Matrix(matrix) => matrix.bytes(),
            Self::Vector(vector) => 4 * vector.elements(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Matrix(matrix) => &matrix.name,
            Self::Vector(vector) => &vector.name,
        }
    }

    /// Its entry in the header, for data from `start` on.
    fn entry(&self, start: u64) -> Value {
        let offsets = [start, start + self.bytes()];
        match self {
            Self::Matrix(matrix) => json!({ "dtype": "U8", "shape": [matrix.bytes()], "data_offsets": offsets }),
            Self::Vector(vector) => {
                let shape: Vec<usize> = vector.shape.iter().map(|dim| dim.size).collect();
                json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets })
            }
        }
    }
}

/// One weight file.
#[derive(Debug)]
pub(super) struct Volume<'a> {
    pub(super) file: String,
    /// In the order of their data: what fills whole lines first, so that every matrix is aligned.
    pub(super) items: Vec<Item<'a>>,
}

impl<'a> Volume<'a> {
    /// The files of a plan, of at most `limit` bytes of data each unless one tensor has more.
    pub(super) fn all(plan: &'a Plan, limit: u64) -> Vec<Self> {
        let matrices = plan.matrices.iter().map(Item::Matrix);
        let (mut volumes, mut size): (Vec<Vec<Item<'_>>>, u64) = (vec![Vec::new()], 0);
        for item in matrices.chain(plan.vectors.iter().map(Item::Vector)) {
            if size.saturating_add(item.bytes()) > limit && size > 0 {
                volumes.push(Vec::new());
                size = 0;
            }
            size = size.saturating_add(item.bytes());
            volumes.last_mut().into_iter().for_each(|volume| volume.push(item));
        }
        let count = volumes.len();
        let named = |(i, items): (usize, Vec<Item<'a>>)| {
            let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
            Self { file: if count == 1 { SINGLE.to_owned() } else { file }, items }
        };
        volumes.into_iter().enumerate().map(named).collect()
    }

    /// Bytes of its data.
    pub(super) fn bytes(&self) -> u64 {
        self.items.iter().map(Item::bytes).sum()
    }

    /// Everything before the data, filled up with spaces so that the data is aligned.
    pub(super) fn header(&self, description: &Description) -> Vec<u8> {
        let matrices = self.items.iter().filter_map(|item| match item {
            Item::Matrix(matrix) => Some(*matrix),
            Item::Vector(_) => None,
        });
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), description.metadata(matrices));
        let mut start = 0;
        for item in &self.items {
            entries.insert(item.name().to_owned(), item.entry(start));
            start += item.bytes();
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize((json.len() + 8).next_multiple_of(ALIGNMENT) - 8, b' ');
        [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()
    }
}

/// The file that says which of several files holds which tensor: its name and text.
pub(super) fn index(volumes: &[Volume<'_>]) -> Option<(String, String)> {
    if volumes.len() == 1 {
        return None;
    }
    let mut map = Map::new();
    for volume in volumes {
        map.extend(volume.items.iter().map(|item| (item.name().to_owned(), json!(volume.file))));
    }
    let total: u64 = volumes.iter().map(Volume::bytes).sum();
    Some((INDEX.to_owned(), json!({ "metadata": { "total_size": total }, "weight_map": map }).to_string()))
}

#[cfg(test)]
mod tests {
    use smolvlm_kernels::Format;

    use super::*;
    use crate::checkpoint::testing;

    #[test]
    fn every_matrix_of_every_file_is_aligned_and_no_file_is_too_large() {
        let config = testing::published("2.2b");
        for dtype in Format::ALL {
            let plan = Plan::new(&config, dtype);
            let volumes = Volume::all(&plan, 1 << 30);
            assert_eq!(volumes.iter().map(Volume::bytes).sum::<u64>(), plan.bytes());
            for volume in &volumes {
                assert!(volume.bytes() <= 1 << 30);
                let mut place = volume.header(&Description { dtype, tied_head: false }).len() as u64;
                for item in &volume.items {
                    assert!(matches!(item, Item::Vector(_)) || place.is_multiple_of(ALIGNMENT as u64), "{item:?}");
                    place += item.bytes();
                }
            }
        }
    }

    #[test]
    fn what_fits_one_file_has_the_published_name_and_no_index() {
        let plan = Plan::new(&testing::published("256m"), Format::Q8);
        let volumes = Volume::all(&plan, 4 << 30);
        assert_eq!((volumes.len(), volumes[0].file.as_str()), (1, SINGLE));
        assert!(index(&volumes).is_none());
    }
}

//! Reads what the Python reference recorded under `goldens/` (its README names every field).

#![allow(dead_code, missing_docs, unreachable_pub, reason = "shared by several test binaries")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use serde_json::Value;
use smolvlm::media::source::{DecodedImage, MediaSource};
use smolvlm::messages::{self, Content, Messages};
use smolvlm::preprocess::Overrides;
use smolvlm::{Compat, Device, Dtype, LoadOptions, MediaOptions, SmolVlm};

/// A folder that `goldens/make_goldens.py` wrote.
pub struct Goldens {
    pub folder: PathBuf,
}

/// One conversation and everything recorded of it.
pub struct Case {
    pub name: String,
    pub json: Value,
    tensors: Vec<u8>,
    folder: PathBuf,
}

/// Whether tests are to run on the first GPU.
pub fn gpu_is_asked_for() -> bool {
    std::env::var_os("SMOLVLM_TEST_CUDA").is_some()
}

impl Goldens {
    /// Those in the repository.
    pub fn committed() -> Self {
        Self { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny") }
    }

    pub fn checkpoint(&self) -> String {
        self.folder.join("checkpoint").display().to_string()
    }

    pub fn case(&self, name: &str) -> Case {
        let folder = self.folder.join("cases");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect("a case's JSON");
        let tensors = std::fs::read(folder.join(format!("{name}.safetensors"))).expect("a case's tensors");
        Case { name: name.to_owned(), json: serde_json::from_str(&text).expect("JSON"), tensors, folder }
    }

    /// Every case, by name.
    pub fn cases(&self) -> Vec<Case> {
        let entries = std::fs::read_dir(self.folder.join("cases")).expect("the cases");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter_map(|name| name.strip_suffix(".safetensors").map(str::to_owned))
            .collect();
        names.sort();
        assert!(names.len() >= 20, "only {} cases", names.len());
        names.iter().map(|name| self.case(name)).collect()
    }

    /// On the device under test: the processor, or the first GPU where `SMOLVLM_TEST_CUDA` is set.
    pub fn load(&self, dtype: Dtype) -> SmolVlm {
        let on_gpu = gpu_is_asked_for() && matches!(dtype, Dtype::F32 | Dtype::Bf16);
        let device = if on_gpu { Device::Cuda(0) } else { Device::Cpu };
        self.load_as(LoadOptions { device, ..LoadOptions::default().dtype(dtype) })
    }

    /// On the processor, unless another device is named.
    pub fn load_as(&self, options: LoadOptions) -> SmolVlm {
        let device = if options.device == Device::Auto { Device::Cpu } else { options.device };
        LoadOptions { device, ..options }.load(&self.checkpoint()).expect("the reference checkpoint loads")
    }
}

impl Case {
    pub fn messages(&self) -> Messages {
        let text = self.json["messages"].to_string();
        let mut parsed = messages::parse(&text, &self.folder, &self.name).expect("the case's messages");
        let mut messages = parsed.remove(0);
        if self.json["decoded_images"] == true {
            let blocks = messages.0.iter_mut().flat_map(|message| &mut message.content);
            blocks.for_each(|block| {
                if let Content::Image(source) = block {
                    *source = decoded(source);
                }
            });
        }
        messages
    }

    /// What the reference's caller overrode.
    pub fn media_options(&self) -> MediaOptions {
        let given = &self.json["processor_kwargs"];
        let count = |value: &Value| value.as_u64().map(|count| count as usize);
        let overrides = Overrides {
            split_images: given["do_image_splitting"].as_bool(),
            longest_edge: count(&given["size"]["longest_edge"]),
            max_frames: count(&given["num_frames"]),
            fps: given["fps"].as_f64(),
        };
        MediaOptions { overrides, ..MediaOptions::default() }
    }

    pub fn integers(&self, field: &str) -> Vec<u32> {
        let list = self.json.pointer(field).and_then(Value::as_array).expect("a list");
        list.iter().map(|value| value.as_u64().expect("an integer") as u32).collect()
    }

    pub fn numbers(&self, field: &str) -> Vec<f64> {
        let list = self.json.pointer(field).and_then(Value::as_array).expect("a list");
        list.iter().map(|value| value.as_f64().expect("a number")).collect()
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let file = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        file.tensor(name).ok().map(|tensor| tensor.data().to_vec())
    }

    pub fn u8(&self, name: &str) -> Option<Vec<u8>> {
        self.bytes(name)
    }

    pub fn f32(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.bytes(name)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub fn i64(&self, name: &str) -> Option<Vec<i64>> {
        let bytes = self.bytes(name)?;
        Some(bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }
}

fn decoded(source: &MediaSource) -> MediaSource {
    let MediaSource::Path(path) = source else { panic!("the cases' pictures are files") };
    let picture = image::open(path).expect("a picture").into_rgba8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    MediaSource::Decoded(Arc::new(DecodedImage { width, height, channels: 4, data: picture.into_raw() }))
}

/// Loads the model as another release of the reference.
pub fn as_release(compat: Compat) -> LoadOptions {
    LoadOptions { compat, ..LoadOptions::default().dtype(Dtype::F32) }
}

/// The largest error relative to the largest number expected.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "sizes");
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let error = found.iter().zip(expected).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(found.iter().all(|x| x.is_finite()), "a number is not finite");
    error / largest
}

/// ‖found − expected‖ / ‖expected‖.
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|x| f64::from(*x)))
}

//! The first numbers of adapters, and adapters as files: what learns becomes an [`AdapterFile`], and one is gone on from.

pub use smolvlm::adapter::{AdapterFile, LoraMatrices, LoraOptions, Pattern, Targets};
use smolvlm_kernels::TrainBackend;

use crate::taped::Taped;
use crate::{Error, Result};

impl<B: TrainBackend> Taped<B> {
    /// What the adapters have learned on the model called `base`; nothing without adapters.
    pub fn adapter_file(&self, base: &str) -> Option<AdapterFile> {
        let options = self.lora()?.clone();
        let adapters = self.adapters();
        let matrices = adapters.iter().flat_map(|adapter| adapter.matrices(self.inner())).collect();
        Some(AdapterFile::new(base, options, matrices))
    }

    /// Puts a file's matrices in the place of those that are there.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the two are not of the same modules, shapes, rank and scaling: nothing changes then.
    pub fn load_adapter(&self, file: &AdapterFile) -> Result<()> {
        self.check_options(&file.options)?;
        let adapters = self.adapters();
        let mut expected = 0;
        for (module, outputs, inputs) in adapters.iter().flat_map(|adapter| adapter.modules()) {
            expected += 1;
            let found = file.of_module(module);
            let found = found.ok_or_else(|| Error::usage(format!("{module}: the adapter has no matrices for it")))?;
            if found.shape() != [outputs, inputs] {
                let shape = found.shape();
                return Err(Error::usage(format!("{module}: expected [{outputs}, {inputs}], found {shape:?}")));
            }
        }
        if expected != file.matrices.len() {
            let found = file.matrices.len();
            return Err(Error::usage(format!(
                "the adapter is for {found} modules, the model has adapters on {expected}"
            )));
        }
        adapters.iter().for_each(|adapter| adapter.set_matrices(self.inner(), |module| file.of_module(module)));
        Ok(())
    }

    /// Whether adapters of these options compute what those of this model do.
    fn check_options(&self, found: &LoraOptions) -> Result<()> {
        let Some(expected) = self.lora() else { return Err(Error::usage("the model has no adapters")) };
        let (rank, scaling) = (expected.rank, expected.scaling());
        if found.rank != rank || (found.scaling() - scaling).abs() > 1e-9 {
            let (found_rank, found_scaling) = (found.rank, found.scaling());
            return Err(Error::usage(format!(
                "expected an adapter of rank {rank} and scaling {scaling}, found rank {found_rank} and scaling {found_scaling}"
            )));
        }
        if found.dora != expected.dora {
            let (expected, found) = (expected.dora, found.dora);
            return Err(Error::usage(format!(
                "use_dora: expected {expected}, as the model's adapters are, found {found}"
            )));
        }
        Ok(())
    }
}

/// The first `A` of a module, `[rank, inputs]`: uniform up to `1 / √inputs`, as PEFT draws it
/// (`kaiming_uniform_` with `a = √5`). (The first `B` is zero.)
pub(crate) fn first_matrix(options: &LoraOptions, module: &str, inputs: usize) -> Vec<f32> {
    let mut state = module.bytes().fold(options.seed, |state, byte| mixed(state ^ u64::from(byte)));
    let bound = (inputs as f64).powf(-0.5);
    let mut draw = || {
        state = mixed(state);
        let unit = (state >> 11) as f64 / (1_u64 << 53) as f64;
        ((2.0 * unit - 1.0) * bound) as f32
    };
    (0..options.rank * inputs).map(|_| draw()).collect()
}

/// A step of splitmix64.
fn mixed(state: u64) -> u64 {
    let x = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A tensor's module: its name without `.weight`.
pub(crate) fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matrix_is_uniform_and_the_seeds() {
        let options = LoraOptions { rank: 64, ..LoraOptions::default() };
        let first = first_matrix(&options, "a.q_proj", 100);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let deviation = (first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32).sqrt();
        assert!(first.iter().all(|x| x.abs() <= 0.1) && mean.abs() < 2e-3, "{mean}");
        assert!((deviation - 0.1 / 3.0_f32.sqrt()).abs() < 2e-3, "{deviation}");
        assert_eq!(first, first_matrix(&options, "a.q_proj", 100));
        assert_ne!(first, first_matrix(&options, "a.v_proj", 100));
        assert_ne!(first, first_matrix(&LoraOptions { seed: 1, ..options }, "a.q_proj", 100));
    }
}

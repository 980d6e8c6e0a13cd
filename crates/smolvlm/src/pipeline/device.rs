//! What computes: the processor, or an NVIDIA GPU found when the program starts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use smolvlm_kernels::{CpuBackend, CudaBackend, cuda};

pub use smolvlm_kernels::cuda::{DeviceInfo as Gpu, Library as GpuLibrary};

use super::dtype::Dtype;
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Which device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The first GPU that can be used with what else was asked for, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(format!("'{text}' is no device: auto, cpu, cuda or cuda:N")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// An opened device.
pub enum Machine {
    /// The processor.
    Cpu {
        /// What computes.
        backend: CpuBackend,
        /// Why a GPU that is there does not compute.
        instead_of_gpu: Option<String>,
    },
    /// An NVIDIA GPU.
    Cuda(CudaBackend),
}

impl Machine {
    /// Opens what was asked for, to compute with a checkpoint's weights in a number format. Quantised weights are the processor's.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when a GPU was asked for that cannot be used: says why.
    pub fn open(device: Device, threads: usize, dtype: Option<Dtype>, checkpoint: &Checkpoint) -> Result<Self> {
        let packed = checkpoint.packed_as().map(Dtype::from);
        let quantised = packed.or(dtype).filter(|dtype| dtype.format().is_quantised());
        match (device, quantised) {
            (Device::Cuda(_), Some(dtype)) => Err(Error::usage(format!(
                "{} weights are computed by the processor only: use --device cpu, or --dtype bf16 with the original checkpoint",
                dtype.name()
            ))),
            (Device::Cuda(index), None) => match gpu(index) {
                Ok(backend) => Ok(Self::Cuda(backend)),
                Err(error) => Err(Error::usage(format!("--device cuda:{index}: {}", error.message))),
            },
            // Only asked where there is one: opening it takes libraries that most machines do not have.
            (Device::Auto, None) if !cuda::devices().unwrap_or_default().is_empty() => match gpu(0) {
                Ok(backend) => Ok(Self::Cuda(backend)),
                Err(error) => processor(threads, Some(error.message)),
            },
            _ => processor(threads, None),
        }
    }

    /// The format that it computes fastest among those that stay near the reference.
    pub fn best_dtype(&self) -> Dtype {
        match self {
            Self::Cpu { .. } => Dtype::best(),
            Self::Cuda(_) => Dtype::Bf16,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { backend, instead_of_gpu } => {
                write!(f, "CPU, {}, {} threads", backend.instruction_set().name, backend.threads())?;
                instead_of_gpu.as_ref().map_or(Ok(()), |why| write!(f, " (not the GPU: {why})"))
            }
            Self::Cuda(backend) => write!(f, "GPU {}, {}", backend.info().index, backend.info()),
        }
    }
}

fn processor(threads: usize, instead_of_gpu: Option<String>) -> Result<Machine> {
    let backend = CpuBackend::new(threads).map_err(Error::from)?;
    Ok(Machine::Cpu { backend, instead_of_gpu })
}

fn gpu(index: usize) -> std::result::Result<CudaBackend, smolvlm_kernels::BackendError> {
    CudaBackend::new(index, kernel_folder())
}

/// Where compiled kernels are kept: `$XDG_CACHE_HOME/smolvlm/kernels`, else `~/.cache/smolvlm/kernels`.
fn kernel_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Some(cache?.join("smolvlm/kernels"))
}

/// The NVIDIA GPUs of this machine, and the libraries that computing on them needs.
///
/// # Errors
/// [`Internal`](crate::ErrorKind::Internal) when the driver is there and does not work.
pub fn gpus() -> Result<(Vec<Gpu>, Vec<GpuLibrary>)> {
    let devices = cuda::devices().map_err(Error::from)?;
    Ok((devices, cuda::libraries().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_printed() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "CUDA"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}

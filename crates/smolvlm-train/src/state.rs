//! Masters and moments in a file, so that a run can go on where it stopped, bit by bit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View};
use smolvlm_kernels::TrainBackend;
use smolvlm_kernels::mapped::MappedFile;

use crate::files::{finish_file, part_of};
use crate::optimizer::{Moments, Optimizer};
use crate::parameters::{Parameter, lock};
use crate::taped::Taped;
use crate::{Error, ErrorKind, Result};

/// The file's version, in its metadata.
const FORMAT: &str = "smolvlm-training-state 1";
/// Between the names of tensors that are one parameter.
const JOINT: &str = "+";

/// Fetches some numbers.
type Read<'a> = Box<dyn Fn() -> Vec<f32> + 'a>;

/// Numbers that are fetched when they are written.
struct Numbers<F> {
    shape: [usize; 1],
    read: F,
}

impl<F: Fn() -> Vec<f32>> View for Numbers<F> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.read)().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into()
    }

    fn data_len(&self) -> usize {
        self.shape[0] * size_of::<f32>()
    }
}

fn name_of<B: TrainBackend>(parameter: &Parameter<B>) -> String {
    parameter.names().join(JOINT)
}

/// Writes masters, moments and step counts to `path`: beside it, then renamed.
///
/// # Errors
/// [`Input`](ErrorKind::Input) when the file cannot be written.
pub(crate) fn write<B: TrainBackend>(path: &Path, taped: &Taped<B>, optimizer: &Optimizer<B>) -> Result<()> {
    let (backend, parameters) = (taped.inner(), taped.parameters());
    let mut tensors: Vec<(String, Numbers<Read<'_>>)> = Vec::new();
    let mut metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned())]);
    for (parameter, moments) in parameters.iter().zip(&optimizer.moments) {
        let (name, shape) = (name_of(parameter), [parameter.len()]);
        metadata.insert(format!("steps.{name}"), moments.steps.to_string());
        tensors.push((format!("master.{name}"), Numbers { shape, read: Box::new(|| parameter.master(backend)) }));
        tensors.push((format!("first.{name}"), Numbers { shape, read: Box::new(|| backend.read(&moments.first)) }));
        tensors.push((format!("second.{name}"), Numbers { shape, read: Box::new(|| backend.read(&moments.second)) }));
    }
    let part = part_of(path);
    safetensors::serialize_to_file(tensors, Some(metadata), &part)
        .map_err(|error| Error::input(format!("{}: cannot be written: {error}", part.display())).caused_by(error))?;
    finish_file(&part, path)
}

/// Brings masters and moments to what `path` holds; nothing changes when it does not fit.
///
/// # Errors
/// [`Input`](ErrorKind::Input) when the file is missing or broken; [`Usage`](ErrorKind::Usage) when it is another run's.
pub(crate) fn read<B: TrainBackend>(path: &Path, taped: &Taped<B>, optimizer: &mut Optimizer<B>) -> Result<()> {
    let place = path.display();
    let broken = |what: String| Error::input(format!("{place}: not a usable training state: {what}"));
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        return Err(broken("it is empty".to_owned()));
    }
    let file = MappedFile::open(path).map_err(|error| broken(error.to_string()).caused_by(error))?;
    let (_, header) = SafeTensors::read_metadata(file.bytes()).map_err(|error| broken(error.to_string()))?;
    let tensors = SafeTensors::deserialize(file.bytes()).map_err(|error| broken(error.to_string()))?;
    let nothing = HashMap::new();
    let metadata = header.metadata().as_ref().unwrap_or(&nothing);
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(broken(format!("expected format {FORMAT:?}, found {:?}", metadata.get("format"))));
    }
    let (backend, parameters) = (taped.inner(), taped.parameters());
    if tensors.len() != 3 * parameters.len() {
        let (expected, found) = (3 * parameters.len(), tensors.len());
        let message = format!("{place}: expected {expected} tensors for what learns here, found {found}");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let mut loaded = Vec::new();
    for parameter in &parameters {
        let name = name_of(parameter);
        let numbers = |kind: &str| {
            let name = format!("{kind}.{name}");
            let tensor = tensors.tensor(&name).map_err(|_| Error::usage(format!("{place}: no tensor {name:?}")))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != [parameter.len()] {
                let (dtype, shape, len) = (tensor.dtype(), tensor.shape(), parameter.len());
                return Err(Error::usage(format!("{place}: {name}: expected F32 [{len}], found {dtype} {shape:?}")));
            }
            let words = tensor.data().as_chunks::<4>().0;
            Ok(backend.floats(&words.iter().map(|word| f32::from_le_bytes(*word)).collect::<Vec<_>>()))
        };
        let steps = metadata.get(&format!("steps.{name}")).and_then(|steps| steps.parse().ok());
        let steps = steps.ok_or_else(|| broken(format!("no count of steps for {name}")))?;
        loaded.push((numbers("master")?, Moments { first: numbers("first")?, second: numbers("second")?, steps }));
    }
    optimizer.moments.clear();
    for (parameter, (master, moments)) in parameters.iter().zip(loaded) {
        *lock(&parameter.master) = master;
        parameter.refresh(backend);
        optimizer.moments.push(moments);
    }
    Ok(())
}

impl<B: TrainBackend> Optimizer<B> {
    /// Writes master weights, moments and step counts to `path`: beside it, then renamed. A run that [reads](Self::resume) it goes
    /// on as if it had never stopped, to the bit where the backend's sums have one order.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) when the file cannot be written.
    pub fn store(&self, path: &Path, taped: &Taped<B>) -> Result<()> {
        write(path, taped, self)
    }

    /// Brings master weights, moments and step counts to what [`store`](Self::store) wrote; nothing changes when that does
    /// not fit.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) when the file is missing or broken; [`Usage`](ErrorKind::Usage) when it is another run's.
    pub fn resume(&mut self, path: &Path, taped: &Taped<B>) -> Result<()> {
        read(path, taped, self)
    }
}

//! Products of many rows, by cuBLASLt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUdeviceptr;

use super::device::{Device, Result, error};
use super::memory::Buffer;
use super::tensor::{Element, Tensor, Weight};

/// Memory that the library may use between its kernels: what it recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// The library with what it has settled so far.
pub(super) struct Matmul {
    device: Arc<Device>,
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    settled: Mutex<HashMap<Problem, Settled>>,
}

// Safety: the library's handle may be used from any thread; what it settled is behind a lock.
unsafe impl Send for Matmul {}
unsafe impl Sync for Matmul {}

/// What decides how a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    rows: usize,
    inputs: usize,
    outputs: usize,
    element: Element,
    result: Element,
    residual: bool,
    bias: bool,
    gelu: bool,
}

/// The library's descriptors of a problem, and the way it recommends.
struct Settled {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// `out = x · Wᵀ + residual + bias`, or `gelu(x · Wᵀ + bias)`.
pub(super) struct Product<'a> {
    pub(super) x: &'a Tensor,
    pub(super) weight: &'a Weight,
    pub(super) out: &'a Tensor,
    /// `[rows, outputs]` stored as `out` is; may be `out`.
    pub(super) residual: Option<CUdeviceptr>,
    /// `[outputs]` stored as `out` is.
    pub(super) bias: Option<CUdeviceptr>,
    pub(super) gelu: bool,
}

impl Matmul {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        let handle = result::create_handle().map_err(|error| failed("starting cuBLASLt", error))?;
        let workspace = Buffer::new(device, WORKSPACE);
        Ok(Self { device: device.clone(), handle, workspace, settled: Mutex::default() })
    }

    /// Starts a product. Failures are kept by the device.
    pub(super) fn product(&self, product: &Product<'_>) {
        if product.x.rows == 0 || self.device.has_failed() {
            return;
        }
        if let Err(error) = self.start(product) {
            let (rows, outputs, inputs) = (product.x.rows, product.weight.outputs, product.weight.inputs);
            self.device.fail(failed(&format!("a product of {rows} × {inputs} × {outputs}"), error));
        }
    }

    fn start(&self, product: &Product<'_>) -> std::result::Result<(), CublasError> {
        assert_eq!(product.x.element, product.weight.element, "formats of a product");
        let problem = Problem {
            rows: product.x.rows,
            inputs: product.weight.inputs,
            outputs: product.weight.outputs,
            element: product.weight.element,
            result: product.out.element,
            residual: product.residual.is_some(),
            bias: product.bias.is_some(),
            gelu: product.gelu,
        };
        let mut all = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = match all.entry(problem) {
            Entry::Occupied(settled) => settled.into_mut(),
            Entry::Vacant(place) => place.insert(self.settle(problem)?),
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let beta = if problem.residual { &one } else { &zero };
        let out = product.out.pointer();
        // Safety: pointers are good for what the layouts say, and stay so until the stream has passed.
        unsafe {
            if let Some(bias) = product.bias {
                let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
                set(settled.product, which, &bias)?;
            }
            result::matmul(
                self.handle,
                settled.product,
                (&raw const one).cast(),
                std::ptr::from_ref(beta).cast(),
                product.weight.data.pointer() as *const _,
                settled.weight,
                product.x.pointer() as *const _,
                settled.x,
                product.residual.unwrap_or(out) as *const _,
                settled.out,
                out as *mut _,
                settled.out,
                &raw const settled.algorithm,
                self.workspace.pointer() as *mut _,
                self.workspace.bytes(),
                self.device.stream.cast(),
            )
        }
    }

    /// Asks the library how to compute a problem. It thinks in columns: our rows of `[rows, n]` are its columns of `[n, rows]`, so the
    /// result is `W · xᵀ`.
    fn settle(&self, problem: Problem) -> std::result::Result<Settled, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Problem { rows, inputs, outputs, element, result, .. } = problem;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let product = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)?;
        let epilogue = match (problem.bias, problem.gelu) {
            (false, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            (true, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        let layout = |element, width: usize, rows: usize| {
            result::create_matrix_layout(data_type(element), width as u64, rows as u64, width as i64)
        };
        let (weight, x) = (layout(element, inputs, outputs)?, layout(element, inputs, rows)?);
        let out = layout(result, outputs, rows)?;
        let preference = result::create_matmul_pref()?;
        // Safety: everything set is read before this returns.
        let algorithm = unsafe {
            set(product, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
            set(product, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            if problem.bias {
                set(product, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &data_type(result))?;
            }
            let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = self.workspace.bytes();
            result::set_matmul_pref_attribute(preference, most, (&raw const bytes).cast(), size_of_val(&bytes))?;
            // Sums are not split: less of their order depends on how many rows there are.
            let schemes = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            let none = 0_u32;
            result::set_matmul_pref_attribute(preference, schemes, (&raw const none).cast(), size_of_val(&none))?;
            let found = result::get_matmul_algo_heuristic(self.handle, product, weight, x, out, out, preference);
            let _ = result::destroy_matmul_pref(preference);
            found?.algo
        };
        Ok(Settled { product, weight, x, out, algorithm })
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        self.device.bind();
        self.device.synchronise("closing cuBLASLt");
        let settled = self.settled.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Safety: created by `settle` and `new`, destroyed once, and nothing runs any more.
        unsafe {
            for settled in settled.values() {
                let _ = result::destroy_matmul_desc(settled.product);
                for layout in [settled.weight, settled.x, settled.out] {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

/// Sets one attribute of a product.
unsafe fn set<T>(
    product: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // Safety: the caller's word that the attribute is a `T`.
    unsafe { result::set_matmul_desc_attribute(product, attribute, std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn data_type(element: Element) -> sys::cudaDataType_t {
    match element {
        Element::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Element::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}

fn failed(what: &str, failure: CublasError) -> crate::backend::BackendError {
    let out_of_memory = failure.0 == sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED;
    crate::backend::BackendError { out_of_memory, ..error(format!("CUDA: {what}: {:?}", failure.0)) }
}

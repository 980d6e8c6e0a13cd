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

/// Most problems that are remembered: sizes vary with prompts and batches without end.
const MOST_SETTLED: usize = 4096;

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

/// A matrix as the library sees it: columns of `height` numbers, one after another. Rows of ours are its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Layout {
    element: Element,
    height: usize,
    columns: usize,
}

/// One side of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Side {
    layout: Layout,
    transposed: bool,
}

/// What happens to a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gelu {
    No,
    Yes,
    /// What it is applied to is stored too.
    Keeping,
}

/// What decides how a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    left: Side,
    right: Side,
    out: Layout,
    added: bool,
    bias: bool,
    gelu: Gelu,
    /// Whether several blocks may share a sum: its order then depends on the sizes.
    split: bool,
}

/// The library's descriptors of a problem, and the way it recommends.
struct Settled {
    product: sys::cublasLtMatmulDesc_t,
    left: sys::cublasLtMatrixLayout_t,
    right: sys::cublasLtMatrixLayout_t,
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
    /// Where what gelu is applied to is stored as well, as `out` is.
    pub(super) before: Option<CUdeviceptr>,
}

/// A product with the addresses of all that takes part.
struct Started {
    problem: Problem,
    left: CUdeviceptr,
    right: CUdeviceptr,
    out: CUdeviceptr,
    added: Option<CUdeviceptr>,
    bias: Option<CUdeviceptr>,
    before: Option<CUdeviceptr>,
}

impl Layout {
    fn of(x: &Tensor) -> Self {
        Self { element: x.element, height: x.width, columns: x.rows }
    }

    fn as_is(self) -> Side {
        Side { layout: self, transposed: false }
    }

    fn transposed(self) -> Side {
        Side { layout: self, transposed: true }
    }
}

impl Matmul {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        let handle = result::create_handle().map_err(|error| failed("starting cuBLASLt", error))?;
        let workspace = Buffer::new(device, WORKSPACE);
        Ok(Self { device: device.clone(), handle, workspace, settled: Mutex::default() })
    }

    /// Starts a product. Failures are kept by the device. The library's columns are our rows, so its result is `W · xᵀ`.
    pub(super) fn product(&self, product: &Product<'_>) {
        let Product { x, weight, out, .. } = product;
        assert_eq!(x.element, weight.element, "formats of a product");
        let gelu = match (product.gelu, product.before) {
            (false, _) => Gelu::No,
            (true, None) => Gelu::Yes,
            (true, Some(_)) => Gelu::Keeping,
        };
        self.start(&Started {
            problem: Problem {
                left: weight.layout().transposed(),
                right: Layout::of(x).as_is(),
                out: Layout::of(out),
                added: product.residual.is_some(),
                bias: product.bias.is_some(),
                gelu,
                // Less of the order of sums depends on how many rows there are.
                split: false,
            },
            left: weight.data.pointer(),
            right: x.pointer(),
            out: out.pointer(),
            added: product.residual,
            bias: product.bias,
            before: product.before,
        });
    }

    /// `out = dy · W`, or the same added to `out`; `weight` is its numbers, row-major.
    pub(super) fn input_gradient(&self, dy: &Tensor, weight: CUdeviceptr, out: &Tensor, added: bool) {
        let layout = Layout { element: dy.element, height: out.width, columns: dy.width };
        self.start(&Started {
            problem: Problem {
                left: layout.as_is(),
                right: Layout::of(dy).as_is(),
                out: Layout::of(out),
                added,
                bias: false,
                gelu: Gelu::No,
                split: true,
            },
            left: weight,
            right: dy.pointer(),
            out: out.pointer(),
            added: added.then(|| out.pointer()),
            bias: None,
            before: None,
        });
    }

    /// Adds `dyᵀ · x` to `gradient` `[width of dy, width of x]` in f32.
    pub(super) fn add_weight_gradient(&self, dy: &Tensor, x: &Tensor, gradient: CUdeviceptr) {
        assert_eq!((dy.rows, dy.element), (x.rows, x.element), "operands of a weight's gradient");
        self.start(&Started {
            problem: Problem {
                left: Layout::of(x).as_is(),
                right: Layout::of(dy).transposed(),
                out: Layout { element: Element::F32, height: x.width, columns: dy.width },
                added: true,
                bias: false,
                gelu: Gelu::No,
                split: true,
            },
            left: x.pointer(),
            right: dy.pointer(),
            out: gradient,
            added: Some(gradient),
            bias: None,
            before: None,
        });
    }

    fn start(&self, started: &Started) {
        let Problem { left, right, out, .. } = &started.problem;
        let depth = if left.transposed { left.layout.height } else { left.layout.columns };
        let other = if right.transposed { right.layout.columns } else { right.layout.height };
        assert_eq!(depth, other, "the depth of a product");
        if out.columns == 0 || depth == 0 || self.device.has_failed() {
            return;
        }
        if let Err(error) = self.run(started) {
            let what = format!("a product of {} × {depth} × {}", out.columns, out.height);
            self.device.fail(failed(&what, error));
        }
    }

    fn run(&self, started: &Started) -> std::result::Result<(), CublasError> {
        let mut all = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_SETTLED && !all.contains_key(&started.problem) {
            all.clear();
        }
        let settled = match all.entry(started.problem) {
            Entry::Occupied(settled) => settled.into_mut(),
            Entry::Vacant(place) => place.insert(self.settle(started.problem)?),
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        let beta = if started.added.is_some() { &one } else { &zero };
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        // Safety: pointers are good for what the layouts say, and stay so until the stream has passed.
        unsafe {
            if let Some(bias) = started.bias {
                set(settled.product, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            }
            if let Some(before) = started.before {
                set(settled.product, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &before)?;
            }
            result::matmul(
                self.handle,
                settled.product,
                (&raw const one).cast(),
                std::ptr::from_ref(beta).cast(),
                started.left as *const _,
                settled.left,
                started.right as *const _,
                settled.right,
                started.added.unwrap_or(started.out) as *const _,
                settled.out,
                started.out as *mut _,
                settled.out,
                &raw const settled.algorithm,
                self.workspace.pointer() as *mut _,
                self.workspace.bytes(),
                self.device.stream.cast(),
            )
        }
    }

    /// Asks the library how to compute a problem.
    fn settle(&self, problem: Problem) -> std::result::Result<Settled, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let product = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)?;
        let layout = |layout: Layout| {
            let Layout { element, height, columns } = layout;
            result::create_matrix_layout(data_type(element), height as u64, columns as u64, height as i64)
        };
        let (left, right) = (layout(problem.left.layout)?, layout(problem.right.layout)?);
        let out = layout(problem.out)?;
        let preference = result::create_matmul_pref()?;
        // Safety: everything set is read before this returns.
        let algorithm = unsafe {
            for (attribute, side) in [
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, problem.left),
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, problem.right),
            ] {
                if side.transposed {
                    set(product, attribute, &TRANSPOSED)?;
                }
            }
            set(product, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue(problem))?;
            if problem.bias {
                set(product, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &data_type(problem.out.element))?;
            }
            if problem.gelu == Gelu::Keeping {
                let height = problem.out.height as i64;
                set(product, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &height)?;
            }
            let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = self.workspace.bytes();
            result::set_matmul_pref_attribute(preference, most, (&raw const bytes).cast(), size_of_val(&bytes))?;
            if !problem.split {
                let schemes = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
                let none = 0_u32;
                result::set_matmul_pref_attribute(preference, schemes, (&raw const none).cast(), size_of_val(&none))?;
            }
            let found = result::get_matmul_algo_heuristic(self.handle, product, left, right, out, out, preference);
            let _ = result::destroy_matmul_pref(preference);
            found?.algo
        };
        Ok(Settled { product, left, right, out, algorithm })
    }
}

fn epilogue(problem: Problem) -> sys::cublasLtEpilogue_t {
    use sys::cublasLtEpilogue_t as Epilogue;
    match (problem.bias, problem.gelu) {
        (false, Gelu::No) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
        (true, Gelu::No) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
        (false, Gelu::Yes) => Epilogue::CUBLASLT_EPILOGUE_GELU,
        (true, Gelu::Yes) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        (false, Gelu::Keeping) => Epilogue::CUBLASLT_EPILOGUE_GELU_AUX,
        (true, Gelu::Keeping) => Epilogue::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        // Safety: created by `settle`, destroyed once; a call has read them when it returns.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.left, self.right, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        self.device.bind();
        self.device.synchronise("closing cuBLASLt");
        self.settled.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // Safety: created by `new`, destroyed once, and nothing runs any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Weight {
    fn layout(&self) -> Layout {
        Layout { element: self.element, height: self.inputs, columns: self.outputs }
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

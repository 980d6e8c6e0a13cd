//! From kernel sources to machine code of the GPU at hand, once: images are kept on disk.

use std::ffi::CString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::result as nvrtc;
use cudarc::nvrtc::sys;

use super::device::{Result, error};

const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// Kernel files that are compiled together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) files: &'static [&'static str],
}

/// Compiles for one GPU.
pub(super) struct Compiler {
    architecture: String,
    /// Where images are kept; none: nowhere.
    folder: Option<PathBuf>,
}

impl Compiler {
    /// A compiler for a compute capability. Instructions that only this very generation has are allowed where there are any.
    pub(super) fn new((major, minor): (u32, u32), folder: Option<PathBuf>) -> Self {
        let specific = if (major, minor) == (9, 0) { "a" } else { "" };
        Self { architecture: format!("sm_{major}{minor}{specific}"), folder }
    }

    /// The machine code of a file with `defines` (`NAME=value`).
    ///
    /// # Errors
    /// When it does not compile; the message holds the compiler's log.
    pub(super) fn image(&self, source: Source, defines: &[String]) -> Result<Vec<u8>> {
        let text = [&[PRELUDE], source.files].concat().join("\n");
        let path = self.folder.as_ref().map(|folder| folder.join(self.file_name(source.name, &text, defines)));
        if let Some(image) = path.as_ref().and_then(|path| fs::read(path).ok()).filter(|image| is_whole(image)) {
            return Ok(image[..image.len() - MARK.len()].to_vec());
        }
        let image = self.compile(source.name, &text, defines)?;
        if let Some(path) = path {
            // A cache that cannot be written costs time, nothing else.
            let _ = keep(&path, &image);
        }
        Ok(image)
    }

    fn file_name(&self, name: &str, text: &str, defines: &[String]) -> String {
        let mut hasher = DefaultHasher::new();
        (text, defines, compiler_version()).hash(&mut hasher);
        format!("{name}-{}-{:016x}.cubin", self.architecture, hasher.finish())
    }

    fn compile(&self, name: &str, text: &str, defines: &[String]) -> Result<Vec<u8>> {
        let what = |error: nvrtc::NvrtcError| super::device::error(format!("CUDA: compiling {name}.cu: {error}"));
        let (text, file) = (c_string(text)?, c_string(&format!("{name}.cu"))?);
        let program = Program(nvrtc::create_program(&text, Some(&file)).map_err(what)?);
        let mut options = vec![format!("--gpu-architecture={}", self.architecture), "--std=c++17".to_owned()];
        options.extend(defines.iter().map(|define| format!("--define-macro={define}")));
        // Safety: the program is alive until the end of this function; the image's size is asked first.
        unsafe {
            if let Err(failure) = nvrtc::compile_program(program.0, &options) {
                let log = nvrtc::get_program_log(program.0).unwrap_or_default();
                let log: String = log.iter().map(|byte| *byte as u8 as char).collect();
                return Err(error(format!("CUDA: compiling {name}.cu: {failure}: {}", log.trim_end_matches('\0'))));
            }
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program.0, &raw mut size).result().map_err(what)?;
            let mut image = vec![0_u8; size];
            sys::nvrtcGetCUBIN(program.0, image.as_mut_ptr().cast()).result().map_err(what)?;
            Ok(image)
        }
    }
}

/// Freed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // Safety: created by `create_program`, destroyed once.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

/// Ends an image that was written whole.
const MARK: &[u8] = b"smolvlm kernel image";

fn is_whole(image: &[u8]) -> bool {
    image.ends_with(MARK)
}

/// Writes beside the place and renames, since several processes and threads may start at once.
fn keep(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension(format!("{}-{:?}.part", std::process::id(), std::thread::current().id()));
    fs::write(&beside, [image, MARK].concat())?;
    fs::rename(&beside, path).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

fn compiler_version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // Safety: both are written by the library.
    let _ = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major, minor)
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| error("CUDA: a kernel source holds a zero byte"))
}

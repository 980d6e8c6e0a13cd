//! Makes the demonstration model, `models/demo` of the repository, part of the program. Without it the program is built all the
//! same, and `smolvlm demo` says so.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Endings of the files that a checkpoint consists of.
const ENDINGS: [&str; 3] = ["json", "jinja", "safetensors"];
/// Without these a folder is no checkpoint.
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];
/// Most bytes that are made part of the program.
const LIMIT: u64 = 32 << 20;

fn main() -> io::Result<()> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    println!("cargo::rerun-if-changed=build.rs");
    if models.is_dir() {
        println!("cargo::rerun-if-changed={}", models.display());
    }
    let files = checkpoint(&models.join("demo"))?;
    let mut code = "&[".to_owned();
    for (name, path) in files {
        let _ = write!(code, "({name:?}, include_bytes!({path:?})),");
    }
    code += "]";
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("demo_model.rs"), code)
}

/// Names and paths of a checkpoint's files, in order; none when it is not whole.
fn checkpoint(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if !NEEDED.iter().all(|name| folder.join(name).is_file()) {
        return Ok(Vec::new());
    }
    let (mut files, mut bytes) = (Vec::new(), 0);
    for entry in fs::read_dir(folder)? {
        let path = fs::canonicalize(entry?.path())?;
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if path.is_file() && ENDINGS.contains(&ending) {
            bytes += path.metadata()?.len();
            files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    if bytes > LIMIT {
        println!(
            "cargo::warning=models/demo has {bytes} bytes; at most {LIMIT} are made part of the program, so it is left out"
        );
        files.clear();
    }
    files.sort();
    Ok(files)
}

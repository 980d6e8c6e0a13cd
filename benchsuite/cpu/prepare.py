"""`setup`: a virtual environment, the peers, the checkpoint in every peer's format, and the inputs. What is there stays."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PACKAGES = ["torch", "torchvision", "torchcodec", "transformers", "pillow", "av", "num2words", "jinja2", "openvino", "nncf",
            "sentencepiece", "cmake", "ninja"]
# optimum-intel exports with older libraries than the newest transformers: they live in a folder of their own, without a
# second torch, and are used while exporting only.
EXPORT_PACKAGES = ["optimum", "optimum-intel", "openvino-tokenizers", "transformers<4.58", "huggingface-hub<1", "tokenizers<0.23",
                   "httpx", "requests", "urllib3", "charset-normalizer", "idna", "certifi"]
# Its source archive holds the whole of llama.cpp at the release's state.
LLAMA_PACKAGE = "llama-cpp-python"
LLAMA_TARGETS = ["llama-bench", "llama-mtmd-cli", "llama-quantize"]


def setup(work: Path, tokenizer: Path | None, llama_source: Path | None, jobs: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    steps = {
        "venv/installed": lambda done: install(work, done),
        "optimum/installed": lambda done: install_exporter(work, done),
        "checkpoint/model.safetensors": lambda _: write_checkpoint(work, tokenizer),
        "inputs/clip.mp4": lambda _: run([python(work), HERE / "inputs.py", work / "inputs"]),
        "openvino/installed": lambda done: convert_openvino(work, done),
        "llama.cpp/bin/llama-mtmd-cli": lambda _: build_llama(work, llama_source, jobs),
        "gguf/text-q4_0.gguf": lambda _: convert_llama(work),
        "llama.cpp/checked": lambda done: check_llama(work, jobs, done),
    }
    for result, step in steps.items():
        done = work / result
        if not done.exists():
            print(f"making {done.parent.name}", flush=True)
            step(done)


def python(work: Path) -> Path:
    return work / "venv" / "bin" / "python"


def run(command: list[object], **environment: str) -> None:
    subprocess.run([str(word) for word in command], check=True, env=os.environ | environment)


def install(work: Path, done: Path) -> None:
    run([sys.executable, "-m", "venv", work / "venv"])
    run([python(work), "-m", "pip", "install", "--quiet", *PACKAGES])
    done.touch()


def install_exporter(work: Path, done: Path) -> None:
    run([python(work), "-m", "pip", "install", "--quiet", "--no-deps", "--target", work / "optimum", *EXPORT_PACKAGES])
    done.touch()


def write_checkpoint(work: Path, tokenizer: Path | None) -> None:
    words = ["--tokenizer", tokenizer] if tokenizer else []
    script = REPOSITORY / "goldens" / "make_goldens.py"
    run([python(work), script, "--size", "256m", "--dtype", "bf16", *words, "--out", work / "checkpoint"])


def convert_openvino(work: Path, done: Path) -> None:
    run([python(work), HERE / "openvino_convert.py", "--checkpoint", work / "checkpoint", "--out", work / "openvino"],
        PYTHONPATH=str(work / "optimum"))
    done.touch()


def build_llama(work: Path, source: Path | None, jobs: int) -> None:
    source = source or download_llama(work)
    link = work / "llama.cpp-source"
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve(), target_is_directory=True)
    compile_llama(work, jobs)


def compile_llama(work: Path, jobs: int, *options: str) -> None:
    tools = work / "venv" / "bin"
    off = ["LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_UI"]
    # Without regeneration: a source archive's file times can be ahead of the clock.
    run([tools / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", "-S", work / "llama.cpp-source",
         "-B", work / "llama.cpp", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DCMAKE_SUPPRESS_REGENERATION=ON",
         *(f"-D{name}=OFF" for name in off), *options])
    run([tools / "cmake", "--build", work / "llama.cpp", "-j", jobs, "--target", *LLAMA_TARGETS])


def download_llama(work: Path) -> Path:
    run([python(work), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", LLAMA_PACKAGE, "--dest", work / "download",
         LLAMA_PACKAGE])
    archive = max((work / "download").glob("llama_cpp_python-*.tar.gz"), key=lambda file: file.stat().st_mtime)
    with tarfile.open(archive) as tar:
        tar.extractall(work / "download", filter="data")
    return work / "download" / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def convert_llama(work: Path) -> None:
    source, out = work / "llama.cpp-source", work / "gguf"
    out.mkdir(exist_ok=True)
    converter = [python(work), source / "convert_hf_to_gguf.py", work / "checkpoint"]
    for kind in ("bf16", "q8_0"):
        for name, flags in (("vision", ["--mmproj"]), ("text", [])):
            run([*converter, *flags, "--outtype", kind, "--outfile", out / f"{name}-{kind}.gguf"],
                PYTHONPATH=str(source / "gguf-py"))
    run([work / "llama.cpp" / "bin" / "llama-quantize", out / "text-bf16.gguf", out / "text-q4_0.gguf", "Q4_0"])


def check_llama(work: Path, jobs: int, done: Path) -> None:
    """Builds without AMX where llama.cpp's AMX kernels crash, as they did on a virtual Xeon: illegal tile loads."""
    if not reads_a_prompt(work):
        print("llama.cpp crashes with AMX here; building it without")
        (work / "llama.cpp" / "without-amx").touch()
        compile_llama(work, jobs, f"-DCMAKE_PROJECT_ggml_INCLUDE={HERE / 'no_amx.cmake'}")
        if not reads_a_prompt(work):
            raise SystemExit("llama-bench crashes on a q8_0 prompt")
    done.touch()


def reads_a_prompt(work: Path) -> bool:
    command = [work / "llama.cpp/bin/llama-bench", "-m", work / "gguf/text-q8_0.gguf", "-t", "2", "-r", "1", "-p", "64", "-n", "0"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

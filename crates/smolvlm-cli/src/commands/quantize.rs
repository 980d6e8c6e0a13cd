//! `smolvlm quantize`: a checkpoint packed for fast loading.

use smolvlm::checkpoint::{Checkpoint, hub};
use smolvlm::{QuantizeOptions, Quantized, Result};

use crate::args::QuantizeArgs;
use crate::console::{self, Console, bytes};
use crate::{json, plan};

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<()> {
    let console = Console::new(args.quiet, false);
    let mut download = console.download();
    let folder = hub::resolve(&args.model, &mut |progress| download.update(&progress))?;
    download.finish();
    let source = Checkpoint::open(&folder)?.with_adapter_in(args.adapter.as_deref())?;
    let dtype = plan::dtype(args.dtype);
    let options = QuantizeOptions { threads: args.threads, replace: args.force, ..QuantizeOptions::new(dtype) };
    let bar = console.bar(0, "packing  {wide_bar:.cyan/dim} {bytes}/{total_bytes} {eta:>4}");
    let written = smolvlm::quantize(&source, &args.out, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let written = written?;
    if args.json {
        return json::print(&as_json(args, &source, &written));
    }
    console.note(&format!(
        "{}: {} as {}, {} before",
        args.model,
        bytes(written.weight_bytes),
        dtype.name(),
        bytes(source.weight_bytes())
    ));
    console::print(&format!("{}\n", written.folder.display()))
}

fn as_json(args: &QuantizeArgs, source: &Checkpoint, written: &Quantized) -> serde_json::Value {
    serde_json::json!({
        "model": args.model,
        "adapter": args.adapter,
        "dtype": plan::dtype(args.dtype).name(),
        "folder": written.folder,
        "weight_files": written.weight_files,
        "weight_bytes": written.weight_bytes,
        "original_weight_bytes": source.weight_bytes(),
        "copied_files": written.copied_files,
    })
}

//! `smolvlm merge`: a checkpoint and an adapter as one checkpoint.

use smolvlm::adapter::AdapterFile;
use smolvlm::checkpoint::{Checkpoint, StoredDtype, hub};
use smolvlm::{Error, Result};
use smolvlm_train::{MergeOptions, Merged, merge_adapter};

use crate::args::{MergeArgs, StoredDtypeArg};
use crate::console::{self, Console, bytes};
use crate::json;

pub(crate) fn merge(args: &MergeArgs) -> Result<()> {
    let console = Console::new(args.quiet, false);
    // The smaller one first: a mistake in it is seen before anything is fetched.
    let adapter = AdapterFile::read(&args.adapter)?;
    let mut download = console.download();
    let folder = hub::resolve(&args.model, &mut |progress| download.update(&progress))?;
    download.finish();
    let source = Checkpoint::open(&folder)?;
    source.validate()?;
    let options = MergeOptions { dtype: args.dtype.map(stored_dtype), replace: args.force };
    let bar = console.bar(0, "merging  {wide_bar:.cyan/dim} {bytes}/{total_bytes} {eta:>4}");
    let merged = merge_adapter(&source, &adapter, &args.out, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let merged = merged.map_err(|error| Error::new(error.kind(), error.to_string()).caused_by(error))?;
    if args.json {
        return json::print(&as_json(args, &adapter, &merged));
    }
    console.note(&format!("{} with {}: {}", args.model, adapter.options.describe(), bytes(merged.weight_bytes)));
    console::print(&format!("{}\n", merged.folder.display()))
}

fn stored_dtype(arg: StoredDtypeArg) -> StoredDtype {
    match arg {
        StoredDtypeArg::F32 => StoredDtype::F32,
        StoredDtypeArg::Bf16 => StoredDtype::Bf16,
        StoredDtypeArg::F16 => StoredDtype::F16,
    }
}

fn as_json(args: &MergeArgs, adapter: &AdapterFile, merged: &Merged) -> serde_json::Value {
    serde_json::json!({
        "model": args.model,
        "adapter": json::adapter(adapter),
        "folder": merged.folder,
        "weight_bytes": merged.weight_bytes,
    })
}

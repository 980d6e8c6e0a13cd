//! `smolvlm download`: a model into the standard hub cache.

use smolvlm::Result;
use smolvlm::checkpoint::{Checkpoint, hub};

use crate::args::DownloadArgs;
use crate::console::{self, Console};
use crate::json;

pub(crate) fn download(args: &DownloadArgs) -> Result<()> {
    let mut bar = Console::new(args.quiet, false).download();
    let folder = hub::resolve(&args.model, &mut |progress| bar.update(&progress))?;
    bar.finish();
    Checkpoint::open(&folder)?.validate()?;
    if args.json {
        return json::print(&serde_json::json!({ "model": args.model, "folder": folder }));
    }
    console::print(&format!("{}\n", folder.display()))
}

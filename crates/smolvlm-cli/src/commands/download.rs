//! `smolvlm download`: a model into the standard hub cache.

use smolvlm::Result;
use smolvlm::checkpoint::Checkpoint;
use smolvlm::checkpoint::hub::{self, HubOptions};

use crate::args::DownloadArgs;
use crate::console::{self, Console};
use crate::json;

pub(crate) fn download(args: &DownloadArgs) -> Result<()> {
    let mut bar = Console::new(args.quiet, false).download();
    // Somebody who asks for a download wants what the hub has now, not the copy at hand.
    let options = HubOptions { refresh: true, ..HubOptions::from_env()? };
    let folder = hub::resolve_with(&args.model, &options, &mut |progress| bar.update(&progress))?;
    bar.finish();
    Checkpoint::open(&folder)?.validate()?;
    if args.json {
        return json::print(&serde_json::json!({ "model": args.model, "folder": folder }));
    }
    console::print(&format!("{}\n", folder.display()))
}

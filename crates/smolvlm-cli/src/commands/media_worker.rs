//! `smolvlm media-worker`: what this program starts itself as, to keep decoders and tools apart.

use smolvlm::Result;
use smolvlm::media::video::{guard_tool, serve_standard_streams};

use crate::args::MediaWorkerArgs;

pub(crate) fn media_worker(args: &MediaWorkerArgs) -> Result<()> {
    if args.tool.is_empty() {
        return serve_standard_streams();
    }
    match guard_tool(&args.tool)? {
        0 => Ok(()),
        // The tool has said why on standard error.
        code => std::process::exit(code),
    }
}

//! Any text as a messages file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = smolvlm::messages::parse(text, std::path::Path::new("."), "input");
});

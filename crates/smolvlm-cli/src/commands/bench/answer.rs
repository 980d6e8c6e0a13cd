//! From pixels in memory to an answer: what a user waits for.

use std::time::Instant;

use serde_json::{Value, json};
use smolvlm::generate::{Logits, Request};
use smolvlm::{Result, SmolVlm};

use super::{Times, exactly, generate, noise, words};
use crate::args::BenchArgs;

/// Time from pixels in memory to a token.
pub(super) struct Answer {
    pub(super) what: &'static str,
    pub(super) tiles: usize,
    pub(super) new_tokens: usize,
    pub(super) first_token: f64,
    pub(super) last_token: f64,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        json!({
            "what": self.what, "tiles": self.tiles, "new_tokens": self.new_tokens,
            "first_token_seconds": self.first_token, "last_token_seconds": self.last_token,
        })
    }
}

/// A question about a square picture, with a prompt of about 1,130 tokens.
pub(super) fn picture(model: &mut SmolVlm, args: &BenchArgs) -> Result<Answer> {
    answer(model, args, "picture", 17, 60)
}

/// A question about a clip whose every frame has a line of text before it.
pub(super) fn video(model: &mut SmolVlm, args: &BenchArgs) -> Result<Answer> {
    answer(model, args, "video", args.frames, 60 + 14 * args.frames)
}

fn answer(model: &mut SmolVlm, args: &BenchArgs, what: &'static str, tiles: usize, text: usize) -> Result<Answer> {
    let values = model.pixel_table();
    let size = model.config().vision.image_size;
    let pixels: Vec<Vec<u8>> = (0..tiles).map(|i| noise(size * size * 3, i as u64)).collect();
    let pixels: Vec<&[u8]> = pixels.iter().map(Vec::as_slice).collect();
    let image_token = model.config().image_token_id;
    let image_tokens = tiles * model.config().tokens_per_tile();
    let mut firsts = Vec::new();
    let times = Times::measure(args.repeat.min(2), || {
        let started = Instant::now();
        let features = model.engine().encode(&pixels, &values)?;
        let ids = [vec![image_token; image_tokens], words(model, text)].concat();
        let encoded = started.elapsed().as_secs_f64();
        let options = exactly(args.decode_tokens.max(1));
        let (first, rest) = generate(model.engine(), Request { ids, features, options, logits: Logits::None })?;
        firsts.push(encoded + first);
        Ok(encoded + first + rest)
    })?;
    // The first run is not measured.
    firsts.remove(0);
    firsts.sort_by(f64::total_cmp);
    let (first_token, last_token) = (firsts[firsts.len() / 2], times.median());
    Ok(Answer { what, tiles, new_tokens: args.decode_tokens.max(1), first_token, last_token })
}

//! Replies as they come and as they end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::SmolVlm;
use super::encode::{EncodeTimes, encode};
use super::prepare::{numbered, prepare};
use crate::generate::{
    FinishReason, GenerateOptions, Logits, Request, SequenceId, StepOutput, TextFilter, TokenLogprob,
};
use crate::messages::Messages;
use crate::prompt::TextStream;
use crate::{Error, Result};

/// A finished reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The text, without special tokens and without the stop string that ended it.
    pub text: String,
    /// The tokens, the end token included.
    pub ids: Vec<u32>,
    /// Log-probabilities of the tokens, when they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish: FinishReason,
    /// How many tokens went in and came out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// How many tokens went in and came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that show media.
    pub image_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
}

/// Where the time went. For a batch, media and vision are those of the whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Opening files and writing the prompt.
    pub prepare: Duration,
    /// Decoding files and cutting tiles.
    pub media: Duration,
    /// The vision tower and connector; without what a device computed while files were still being decoded.
    pub vision: Duration,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// From the call to the first token.
    pub first_token: Duration,
    /// From the call to the last token.
    pub total: Duration,
}

/// A part of a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyPiece {
    /// Which conversation of the batch.
    pub conversation: usize,
    /// Text to show; empty while a character or a possible stop string is unfinished.
    pub text: String,
    /// The token it came with; none for text that was held back to the end.
    pub id: Option<u32>,
    /// Its log-probability, when asked for.
    pub logprob: Option<TokenLogprob>,
}

/// Replies under way: an iterator over their pieces.
pub struct ReplyStream<'a> {
    model: &'a mut SmolVlm,
    replies: Vec<Pending>,
    /// The last step's, whose memory the next one uses again.
    outputs: Vec<StepOutput>,
    pieces: VecDeque<ReplyPiece>,
    started: Instant,
    steps_started: Instant,
}

/// One reply under way.
struct Pending {
    sequence: SequenceId,
    stream: TextStream,
    filter: TextFilter,
    reply: Reply,
    ended: bool,
}

impl<'a> ReplyStream<'a> {
    pub(super) fn start(model: &'a mut SmolVlm, conversations: &[Messages], options: &GenerateOptions) -> Result<Self> {
        let started = Instant::now();
        let mut prompts = prepare(&model.processor, conversations)?;
        let prepare = started.elapsed();
        let (features, times) = encode(model, &mut prompts)?;
        let image_token = model.config().image_token_id;
        let mut stream = Self {
            model,
            replies: Vec::new(),
            pieces: VecDeque::new(),
            outputs: Vec::new(),
            started,
            steps_started: Instant::now(),
        };
        for (i, (prompt, features)) in prompts.into_iter().zip(features).enumerate() {
            let usage = Usage {
                prompt_tokens: prompt.ids.len(),
                image_tokens: prompt.ids.iter().filter(|id| **id == image_token).count(),
                generated_tokens: 0,
            };
            let request = Request { ids: prompt.ids, features, options: options.clone(), logits: Logits::None };
            let sequence = stream.model.engine.submit(request);
            let sequence = sequence.map_err(|error| numbered(error, i, conversations.len()))?;
            stream.replies.push(Pending::new(sequence, stream.model, options, usage, prepare, times));
        }
        Ok(stream)
    }

    /// Computes one step. False when every reply has ended.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.replies.iter().all(|pending| pending.ended) {
            return Ok(false);
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        self.model.engine.step(&mut outputs)?;
        if outputs.is_empty() {
            return Err(Error::internal("the engine has nothing to do but replies have not ended"));
        }
        for output in outputs.drain(..) {
            let Some(i) = self.replies.iter().position(|pending| pending.sequence == output.sequence) else { continue };
            let pending = &mut self.replies[i];
            pending.clock(self.started, self.steps_started, &output);
            self.pieces.extend(pending.take(i, output));
            if pending.ended {
                self.model.engine.cancel(pending.sequence);
            }
        }
        self.outputs = outputs;
        Ok(true)
    }

    /// The replies as far as they have come, in the order of the conversations.
    pub fn into_replies(mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies).into_iter().map(|pending| pending.reply).collect()
    }
}

impl Iterator for ReplyStream<'_> {
    type Item = Result<ReplyPiece>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(Ok(piece));
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.replies.iter_mut().for_each(|pending| pending.ended = true);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Drop for ReplyStream<'_> {
    /// A reply that nobody waits for takes no further step.
    fn drop(&mut self) {
        for pending in &self.replies {
            self.model.engine.cancel(pending.sequence);
        }
    }
}

impl Pending {
    fn new(
        sequence: SequenceId,
        model: &SmolVlm,
        options: &GenerateOptions,
        usage: Usage,
        prepare: Duration,
        times: EncodeTimes,
    ) -> Self {
        let timings = Timings { prepare, media: times.media, vision: times.vision, ..Timings::default() };
        let reply = Reply {
            text: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: FinishReason::Length,
            usage,
            timings,
        };
        Self {
            sequence,
            stream: model.tokenizer().stream(true),
            filter: TextFilter::new(options.stop_strings.clone()),
            reply,
            ended: false,
        }
    }

    fn clock(&mut self, started: Instant, steps_started: Instant, output: &StepOutput) {
        if output.token.is_none() {
            return;
        }
        let timings = &mut self.reply.timings;
        timings.total = started.elapsed();
        if self.reply.ids.is_empty() {
            timings.first_token = timings.total;
            timings.prefill = steps_started.elapsed();
        }
        timings.decode = timings.total - timings.first_token;
    }

    /// Adds what a step gave; returns what may be shown.
    fn take(&mut self, conversation: usize, output: StepOutput) -> Vec<ReplyPiece> {
        let Some(id) = output.token else { return Vec::new() };
        self.reply.ids.push(id);
        self.reply.usage.generated_tokens += 1;
        self.reply.logprobs.extend(output.logprob.clone());
        let filtered = self.filter.push(&self.stream.push(id));
        let piece = |text: String, id, logprob| ReplyPiece { conversation, text, id, logprob };
        let mut pieces = vec![piece(filtered.text, Some(id), output.logprob)];
        if filtered.stopped {
            self.reply.finish = FinishReason::StopString;
            self.ended = true;
        } else if let Some(finish) = output.finish {
            let rest = self.filter.push(&self.stream.finish());
            self.reply.finish = if rest.stopped { FinishReason::StopString } else { finish };
            pieces.push(piece(rest.text + &self.filter.finish(), None, None));
            self.ended = true;
        }
        self.reply.text.extend(pieces.iter().map(|piece| piece.text.as_str()));
        pieces
    }
}

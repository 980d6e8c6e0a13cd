//! One request on its way through the model.

use smolvlm_kernels::{Backend, FeatureRow, Segment, TokenBatch};

use super::features::{Features, Shown};
use super::options::{FinishReason, GenerateOptions};
use super::pages::pages_for;
use super::sampling::Sampler;
use super::{Logits, Request, SequenceId, StepOutput};

/// What a step computed for a sequence.
pub(super) enum Chosen<'a> {
    /// No logits.
    Nothing,
    /// Its next token.
    Token(u32),
    /// Its logits, `[rows, vocab]`.
    Logits(&'a [f32]),
}

/// A sequence with its pages: the prompt is computed in chunks, then one token a step.
pub(super) struct Sequence<B: Backend> {
    pub(super) id: SequenceId,
    /// Prompt, then what was generated.
    ids: Vec<u32>,
    prompt: usize,
    /// Tokens whose keys and values are in the cache.
    cached: usize,
    pub(super) pages: Vec<u32>,
    /// While the prompt needs them.
    features: Option<Shown<B>>,
    pub(super) sampler: Sampler,
    options: GenerateOptions,
    end_ids: Vec<u32>,
    max_positions: usize,
    pub(super) logits: Logits,
}

impl<B: Backend> Sequence<B> {
    pub(super) fn new(
        id: SequenceId,
        request: Request,
        pages: Vec<u32>,
        end_ids: &[u32],
        max_positions: usize,
    ) -> Self {
        let mut end_ids = if request.options.ignore_end { Vec::new() } else { end_ids.to_vec() };
        end_ids.extend(&request.options.stop_ids);
        let mut ids = request.ids;
        let sampler = Sampler::new(&request.options, &ids);
        let prompt = ids.len();
        // Room for the whole reply, so that no token allocates.
        ids.reserve_exact(request.options.max_new_tokens.min(max_positions.saturating_sub(prompt)) + 1);
        Self {
            id,
            sampler,
            prompt,
            ids,
            cached: 0,
            pages,
            features: None,
            options: request.options,
            end_ids,
            max_positions,
            logits: request.logits,
        }
    }

    /// Tokens still to be computed before the next one can be chosen.
    pub(super) fn pending(&self) -> usize {
        self.ids.len() - self.cached
    }

    /// Whether the prompt is not computed yet.
    pub(super) fn in_prompt(&self) -> bool {
        self.cached < self.prompt
    }

    /// Shows features, `hidden` numbers a row, where the prompt has `image_token`. `engine` is the engine's own number.
    pub(super) fn show(&mut self, backend: &B, engine: u64, features: Features, image_token: u32, hidden: usize) {
        let positions: Vec<usize> =
            (0..).zip(&self.ids).filter(|(_, id)| **id == image_token).map(|(i, _)| i).collect();
        self.features = (!positions.is_empty()).then(|| Shown::new(backend, engine, features, positions, hidden));
    }

    /// The features, while the prompt needs them.
    pub(super) fn features(&self) -> impl Iterator<Item = &B::Tensor> {
        self.features.iter().flat_map(Shown::sources)
    }

    /// Adds the next `count` tokens to a step, as a segment of their own.
    pub(super) fn add_to(&self, batch: &mut TokenBatch, count: usize) {
        let (row, page) = (batch.ids.len(), batch.pages.len());
        batch.ids.extend_from_slice(&self.ids[self.cached..self.cached + count]);
        batch.pages.extend_from_slice(&self.pages[..pages_for(self.cached + count)]);
        batch.segments.push(Segment { rows: row..row + count, start: self.cached, pages: page..batch.pages.len() });
    }

    /// Which of the next `count` tokens show image features; `source` is the place of this sequence's first matrix among the step's.
    pub(super) fn feature_rows(&self, row: usize, count: usize, source: usize) -> impl Iterator<Item = FeatureRow> {
        let positions = self.cached..self.cached + count;
        self.features.iter().flat_map(move |features| features.rows(positions.clone(), row, source))
    }

    /// Whether nobody wants to see a step's logits.
    pub(super) fn needs_no_logits(&self) -> bool {
        self.logits == Logits::None || !self.in_prompt()
    }

    /// What it makes of a step that computed `count` of its tokens.
    pub(super) fn settle(&mut self, count: usize, chosen: &Chosen<'_>, vocab: usize) -> StepOutput {
        let (in_prompt, complete) = (self.in_prompt(), count == self.pending());
        self.advance(count);
        let prompt_logits = match (chosen, self.logits) {
            (Chosen::Logits(logits), Logits::All) if in_prompt => logits.to_vec(),
            (Chosen::Logits(logits), Logits::Last) if in_prompt && complete => logits.to_vec(),
            _ => Vec::new(),
        };
        let mut output = StepOutput { sequence: self.id, prompt_logits, token: None, logprob: None, finish: None };
        if complete && count > 0 {
            let (id, logprob) = match chosen {
                Chosen::Logits(logits) => self.sampler.choose(&logits[logits.len() - vocab..]),
                Chosen::Token(id) => (*id, None),
                Chosen::Nothing => return output,
            };
            output.token = Some(id);
            output.logprob = logprob;
            output.finish = self.push(id);
        }
        output
    }

    /// `count` more tokens are in the cache.
    fn advance(&mut self, count: usize) {
        self.cached += count;
        if !self.in_prompt() {
            self.features = None;
        }
    }

    /// Adds a chosen token and says whether the sequence ends with it.
    fn push(&mut self, id: u32) -> Option<FinishReason> {
        self.ids.push(id);
        let generated = self.ids.len() - self.prompt;
        if self.end_ids.contains(&id) {
            Some(FinishReason::EndToken)
        } else if generated >= self.options.max_new_tokens {
            Some(FinishReason::Length)
        } else if self.ids.len() >= self.max_positions {
            Some(FinishReason::Context)
        } else {
            None
        }
    }
}

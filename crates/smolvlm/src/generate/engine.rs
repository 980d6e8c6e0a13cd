//! Runs many sequences through one model, step by step.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use smolvlm_kernels::{Appetite, Backend, CacheShape, Ceilings, Draw, Format, PAGE_TOKENS, TileBatch, TokenBatch};

use super::features::Features;
use super::options::{FinishReason, GenerateOptions};
use super::pages::{PagePool, pages_for};
use super::sampling::TokenLogprob;
use super::sequence::{Chosen, Sequence};
use crate::checkpoint::ModelConfig;
use crate::machine::available_bytes;
use crate::model::Model;
use crate::{Error, Result};

/// Context lengths' worth of cache where the system does not tell how much memory is left.
const FALLBACK_CONTEXTS: usize = 16;

static NEXT_GENERATOR: AtomicU64 = AtomicU64::new(0);

/// Names a sequence while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// Which logits of the prompt are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Logits {
    /// None.
    #[default]
    None,
    /// The last position's.
    Last,
    /// Every position's.
    All,
}

/// A prompt to be continued.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Image features in the order of the prompt's image tokens.
    pub features: Features,
    /// How to choose tokens and when to stop.
    pub options: GenerateOptions,
    /// Which logits to report.
    pub logits: Logits,
}

/// What one step did for one sequence.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// Which sequence.
    pub sequence: SequenceId,
    /// Logits of prompt positions, `[positions, vocab]`, when they were asked for.
    pub prompt_logits: Vec<f32>,
    /// The token chosen, once the prompt is computed.
    pub token: Option<u32>,
    /// Its log-probability, when asked for.
    pub logprob: Option<TokenLogprob>,
    /// Set when the sequence has ended.
    pub finish: Option<FinishReason>,
}

/// How large the key-value cache may grow.
#[derive(Debug, Clone, Copy, Default)]
pub struct CachePlan {
    /// Most bytes; none: what the machine has left.
    pub bytes: Option<u64>,
    /// Most tokens of one step; none: a default that keeps cores busy.
    pub step_tokens: Option<usize>,
}

impl CachePlan {
    /// The same plan beside weights that the machine still counts as free: mapped ones, until they are read.
    #[must_use]
    pub(crate) fn beside(self, weights: u64) -> Self {
        let left = || available_bytes().map(|bytes| bytes.saturating_sub(weights));
        Self { bytes: self.bytes.or_else(left), ..self }
    }
}

/// A generator over some backend: the one place of dynamic dispatch.
pub trait Engine: Send {
    /// The model's sizes.
    fn config(&self) -> &ModelConfig;
    /// What the machine can do at most with these weights, measured; takes about a second.
    ///
    /// # Errors
    /// When the machine fails.
    fn measure_ceilings(&self) -> Result<Ceilings>;
    /// Most bytes of a device's own memory that were ever held; none where the machine's are used.
    fn most_device_memory(&self) -> Option<u64>;
    /// Tiles that are encoded together: enough to keep the machine busy, few enough to bound memory.
    fn tiles_at_a_time(&self) -> usize;
    /// Image features of tiles (`[S, S, 3]` each), `[tiles × tokens per tile, hidden]`. `pixel_values` says what each
    /// value of each channel means. A device may still be computing when this returns.
    ///
    /// # Errors
    /// When the machine fails.
    fn encode(&mut self, tiles: &[&[u8]], pixel_values: &[[f32; 256]; 3]) -> Result<Features>;
    /// Waits until everything that was encoded is computed.
    ///
    /// # Errors
    /// When the machine failed.
    fn wait(&mut self) -> Result<()>;
    /// Image features as numbers, `[rows, hidden]`.
    ///
    /// # Errors
    /// When the machine fails, or another engine keeps them.
    fn download(&mut self, features: &Features) -> Result<Vec<f32>>;
    /// The vision tower's output before the connector, `[tiles × patches, vision hidden]`.
    ///
    /// # Errors
    /// When the machine fails.
    fn vision_hidden(&mut self, tiles: &[&[u8]], pixel_values: &[[f32; 256]; 3]) -> Result<Vec<f32>>;
    /// Queues a request.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when the prompt does not fit the context or its image tokens do not match
    /// its features; [`Usage`](crate::ErrorKind::Usage) when another engine keeps those on its device;
    /// [`Budget`](crate::ErrorKind::Budget) when its keys and values can never fit.
    fn submit(&mut self, request: Request) -> Result<SequenceId>;
    /// Computes one step for all sequences that have room and replaces `outputs` by what it did. No output means that
    /// nothing is left to do.
    ///
    /// # Errors
    /// When the machine fails.
    fn step(&mut self, outputs: &mut Vec<StepOutput>) -> Result<()>;
    /// Forgets a sequence.
    fn cancel(&mut self, sequence: SequenceId);
}

/// [`Engine`] over backend `B`.
pub struct Generator<B: Backend> {
    /// Tells what it keeps on its device from what others keep.
    id: u64,
    backend: B,
    model: Model<B>,
    end_ids: Vec<u32>,
    plan: B::Plan,
    cache: B::Cache,
    pages: PagePool,
    waiting: VecDeque<(SequenceId, Request)>,
    running: Vec<Sequence<B>>,
    next_id: u64,
    step_tokens: usize,
    work: StepWork,
}

/// What a step needs and the next one can use again, so that decoding allocates nothing.
#[derive(Default)]
struct StepWork {
    batch: TokenBatch,
    /// One for each running sequence.
    shares: Vec<Share>,
    /// Rows that were copied from the machine.
    numbers: Vec<f32>,
    /// Where the largest of each row of logits is.
    largest: Vec<u32>,
    /// What is to be drawn, and what was.
    draws: Vec<Draw>,
    drawn: Vec<u32>,
}

/// A sequence's part of a step.
#[derive(Clone, Copy)]
struct Share {
    tokens: usize,
    logit_rows: usize,
    choice: Choice,
}

/// Where a sequence's next token is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// By its sampler, which needs the logits.
    OnTheHost,
    /// Where the logits are: the largest.
    Largest,
    /// Where the logits are: by a draw.
    Drawn,
}

impl<B: Backend> Generator<B> {
    /// A generator that ends sequences at `end_ids`.
    pub fn new(backend: B, model: Model<B>, end_ids: Vec<u32>, cache: CachePlan) -> Self {
        let (text, format) = (&model.config().text, model.format().of_attention());
        let bytes = if format == Format::F32 { 4 } else { 2 };
        let page_bytes = (2 * text.layers * text.kv_heads * text.head_dim * bytes * PAGE_TOKENS) as u64;
        let fallback = (FALLBACK_CONTEXTS * pages_for(text.max_positions)) as u64;
        let budget = cache
            .bytes
            .or_else(|| backend.memory_left())
            .or_else(available_bytes)
            .map_or(fallback, |bytes| bytes / page_bytes);
        let shape = CacheShape {
            layers: text.layers,
            kv_heads: text.kv_heads,
            head_dim: text.head_dim,
            pages: usize::try_from(budget).unwrap_or(usize::MAX).min(1 << 20),
            format,
        };
        let appetite = backend.appetite();
        Self {
            id: NEXT_GENERATOR.fetch_add(1, Ordering::Relaxed),
            plan: backend.plan(),
            cache: backend.cache(shape),
            pages: PagePool::new(shape.pages),
            backend,
            model,
            end_ids,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            step_tokens: cache.step_tokens.unwrap_or(appetite.tokens).max(1),
            work: StepWork::default(),
        }
    }

    /// Tokens a request may come to hold in the cache. The last token is never fed back, so it needs no place.
    fn reserved_tokens(&self, request: &Request) -> usize {
        let most = request.ids.len().saturating_add(request.options.max_new_tokens - 1);
        most.min(self.model.config().text.max_positions)
    }

    /// Starts waiting requests, first come first served, while pages last.
    fn admit(&mut self) {
        while let Some((_, request)) = self.waiting.front() {
            let Some(pages) = self.pages.take(self.reserved_tokens(request)) else { return };
            let Some((id, mut request)) = self.waiting.pop_front() else { return };
            let config = self.model.config();
            let (image_token, max_positions) = (config.image_token_id, config.text.max_positions);
            let features = std::mem::take(&mut request.features);
            let mut sequence = Sequence::new(id, request, pages, &self.end_ids, max_positions);
            sequence.show(&self.backend, self.id, features, image_token, config.text.hidden);
            self.running.push(sequence);
        }
    }

    /// Settles what each running sequence computes in this step: one token each for those past their prompt, the rest
    /// of the step for prompts, first come first served.
    fn fill_work(&mut self) {
        let StepWork { batch, shares, .. } = &mut self.work;
        batch.clear();
        shares.clear();
        // A sequence's pages are reserved for its whole reply: they will not be more.
        batch.pages.reserve(self.running.iter().map(|sequence| sequence.pages.len()).sum());
        let decoding = self.running.iter().filter(|sequence| !sequence.in_prompt()).count();
        let mut left = self.step_tokens.saturating_sub(decoding).max(1);
        let mut sources = 0;
        for sequence in &self.running {
            let tokens = if sequence.in_prompt() { sequence.pending().min(left) } else { 1 };
            if sequence.in_prompt() {
                left -= tokens;
            }
            let first = batch.ids.len();
            batch.features.extend(sequence.feature_rows(first, tokens, sources));
            sources += sequence.features().count();
            if tokens > 0 {
                sequence.add_to(batch, tokens);
            }
            let logit_rows = if sequence.in_prompt() && sequence.logits == Logits::All {
                tokens
            } else {
                usize::from(tokens > 0 && tokens == sequence.pending())
            };
            batch.outputs.extend((first + tokens - logit_rows..first + tokens).map(|row| row as u32));
            shares.push(Share { tokens, logit_rows, choice: Choice::OnTheHost });
        }
    }

    /// What the running sequences make of their logits.
    fn settle(&mut self, logits: &B::Tensor, outputs: &mut Vec<StepOutput>) {
        self.choose_on_the_machine(logits);
        let (backend, StepWork { shares, numbers, largest, drawn, .. }) = (&self.backend, &mut self.work);
        let (mut first, mut drawn) = (0, drawn.iter());
        for (sequence, share) in self.running.iter_mut().zip(shares.iter()) {
            let rows = first..first + share.logit_rows;
            first = rows.end;
            let chosen = match share.choice {
                _ if rows.is_empty() => Chosen::Nothing,
                Choice::Largest => Chosen::Token(largest[rows.end - 1]),
                Choice::Drawn => Chosen::Token(drawn.next().copied().unwrap_or_default()),
                Choice::OnTheHost => {
                    backend.download_rows(logits, rows, numbers);
                    Chosen::Logits(numbers)
                }
            };
            outputs.push(sequence.settle(share.tokens, &chosen, self.model.config().text.vocab));
        }
    }

    /// Chooses the tokens of the sequences that need nothing but a token of their logits.
    fn choose_on_the_machine(&mut self, logits: &B::Tensor) {
        let StepWork { shares, draws, largest, drawn, .. } = &mut self.work;
        draws.clear();
        let (mut first, mut any_largest) = (0, false);
        for (sequence, share) in self.running.iter_mut().zip(shares.iter_mut()) {
            first += share.logit_rows;
            if share.logit_rows == 0 || !sequence.needs_no_logits() {
                continue;
            }
            if sequence.sampler.takes_the_largest() {
                (share.choice, any_largest) = (Choice::Largest, true);
            } else if let Some((rules, uniform)) = sequence.sampler.draws() {
                share.choice = Choice::Drawn;
                draws.push(Draw { row: first - 1, rules, uniform });
            }
        }
        if any_largest {
            self.backend.largest_into(logits, largest);
        }
        if !draws.is_empty() {
            self.backend.draw_into(logits, draws, drawn);
        }
    }

    /// What failed outside of a step.
    fn check_machine(&self) -> Result<()> {
        self.backend.failure().map_err(Error::from)
    }

    fn release(&mut self, sequence: Sequence<B>) {
        self.backend.release_pages(&mut self.cache, &sequence.pages);
        self.pages.give_back(sequence.pages);
    }
}

impl<B: Backend> Engine for Generator<B> {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn measure_ceilings(&self) -> Result<Ceilings> {
        let ceilings = self.backend.measure_ceilings(self.model.format());
        self.check_machine().map(|()| ceilings)
    }

    fn most_device_memory(&self) -> Option<u64> {
        self.backend.most_memory()
    }

    fn tiles_at_a_time(&self) -> usize {
        self.backend.appetite().tiles
    }

    fn encode(&mut self, tiles: &[&[u8]], pixel_values: &[[f32; 256]; 3]) -> Result<Features> {
        let size = self.model.config().vision.image_size;
        let (mut features, mut rest) = (Features::default(), tiles);
        for count in groups(tiles.len(), &self.backend.appetite()) {
            let (tiles, others) = rest.split_at(count);
            rest = others;
            let batch = TileBatch { size, tiles, pixel_values };
            let group = self.model.image_features(&self.backend, &mut self.plan, batch)?;
            let rows = self.backend.rows(&group);
            if let Some(kept) = self.backend.keep(&group) {
                features.push_kept(self.id, rows, kept);
            } else {
                self.backend.download_rows(&group, 0..rows, &mut self.work.numbers);
                features.push_numbers(&self.work.numbers);
            }
        }
        self.check_machine()?;
        Ok(features)
    }

    fn wait(&mut self) -> Result<()> {
        self.backend.wait().map_err(Error::from)
    }

    fn download(&mut self, features: &Features) -> Result<Vec<f32>> {
        let (backend, rows) = (&self.backend, &mut self.work.numbers);
        let numbers = features.numbers(self.id, |tensor: &B::Tensor, numbers| {
            backend.download_rows(tensor, 0..backend.rows(tensor), rows);
            numbers.extend_from_slice(rows);
        })?;
        self.check_machine()?;
        Ok(numbers)
    }

    fn vision_hidden(&mut self, tiles: &[&[u8]], pixel_values: &[[f32; 256]; 3]) -> Result<Vec<f32>> {
        let batch = TileBatch { size: self.model.config().vision.image_size, tiles, pixel_values };
        let hidden = self.model.vision_hidden(&self.backend, &mut self.plan, batch)?;
        let numbers = self.backend.download(&hidden);
        self.check_machine()?;
        Ok(numbers)
    }

    fn submit(&mut self, request: Request) -> Result<SequenceId> {
        request.options.validate()?;
        check_prompt(&request, self.model.config())?;
        request.features.check::<B::Tensor>(self.id)?;
        let tokens = self.reserved_tokens(&request);
        if pages_for(tokens) > self.pages.capacity() {
            return Err(Error::budget(format!(
                "the request needs a key-value cache of {tokens} tokens; the memory budget holds {}. Allow more memory \
                 (--cache-memory), fewer new tokens, or fewer or smaller images",
                self.pages.capacity() * PAGE_TOKENS
            )));
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back((id, request));
        Ok(id)
    }

    fn step(&mut self, outputs: &mut Vec<StepOutput>) -> Result<()> {
        outputs.clear();
        self.admit();
        if self.running.is_empty() {
            return Ok(());
        }
        self.fill_work();
        self.backend.fill_tokens(&mut self.plan, &mut self.cache, &self.work.batch);
        let features: Vec<&B::Tensor> = self.running.iter().flat_map(Sequence::features).collect();
        let text = self.model.text();
        let logits = text.forward(&self.backend, &self.plan, &mut self.cache, &features).map_err(Error::from)?;
        drop(features);
        self.settle(&logits, outputs);
        drop(logits);
        self.check_machine()?;
        for output in outputs.iter().filter(|output| output.finish.is_some()) {
            self.cancel(output.sequence);
        }
        Ok(())
    }

    fn cancel(&mut self, sequence: SequenceId) {
        self.waiting.retain(|(id, _)| *id != sequence);
        if let Some(i) = self.running.iter().position(|running| running.id == sequence) {
            let sequence = self.running.remove(i);
            self.release(sequence);
        }
    }
}

/// How many tiles go through the vision tower together, one group after another.
fn groups(tiles: usize, appetite: &Appetite) -> impl Iterator<Item = usize> {
    let (most, mut left) = (appetite.tiles.max(1), tiles);
    let mut next = if tiles > appetite.first_tiles { appetite.first_tiles.clamp(1, most) } else { most };
    std::iter::from_fn(move || {
        let count = next.min(left);
        (left, next) = (left - count, most);
        (count > 0).then_some(count)
    })
}

/// Whether a prompt of `length` tokens fits the model's context.
pub(crate) fn check_context(length: usize, context: usize) -> Result<()> {
    if length <= context {
        return Ok(());
    }
    Err(Error::input(format!(
        "the prompt has {length} tokens; the model's context holds {context}. Use fewer or smaller images, fewer \
         frames, or less text"
    )))
}

/// Whether a prompt can be computed at all.
fn check_prompt(request: &Request, config: &ModelConfig) -> Result<()> {
    if request.ids.is_empty() {
        return Err(Error::input("the prompt is empty"));
    }
    check_context(request.ids.len(), config.text.max_positions)?;
    if let Some(id) = request.ids.iter().find(|id| **id as usize >= config.text.vocab) {
        return Err(Error::input(format!("token id {id} is outside the vocabulary of {}", config.text.vocab)));
    }
    let image_tokens = request.ids.iter().filter(|id| **id == config.image_token_id).count();
    let features = request.features.rows(config.text.hidden);
    if image_tokens != features {
        return Err(Error::input(format!("the prompt shows {image_tokens} image tokens, the images give {features}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_groups_is_small() {
        let groups =
            |tiles| super::groups(tiles, &Appetite { tiles: 11, first_tiles: 4, tokens: 1 }).collect::<Vec<_>>();
        assert!(groups(0).is_empty());
        assert_eq!(groups(3), [3]);
        assert_eq!(groups(4), [4]);
        assert_eq!(groups(17), [4, 11, 2]);
        assert_eq!(groups(64), [4, 11, 11, 11, 11, 11, 5]);
        let alone = Appetite { tiles: 1, first_tiles: 1, tokens: 1 };
        assert_eq!(super::groups(3, &alone).collect::<Vec<_>>(), [1, 1, 1]);
    }
}

//! `generation_config.json`: how the model is meant to be sampled.

use serde_json::Value;

use super::fields::{Fields, brief};
use super::problems::Problems;
use crate::Result;

/// Most stop tokens or stop strings that are read.
const MAX_STOPS: usize = 1024;

/// Settings of `generate` that this engine knows, by the reference's names.
const KNOWN: &[&str] = &[
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "max_length",
    "stop_strings",
    "use_cache",
    "transformers_version",
];

/// The sampling settings a checkpoint brings along (transformers' `GenerationConfig`). `None` where it says nothing, so
/// that the caller can tell a setting from a default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// Tokens that end an answer; each alone is enough.
    pub eos_ids: Vec<u32>,
    /// The token a text begins with. The chat template writes it; nothing adds it again.
    pub bos: Option<u32>,
    /// The token that fills up finished rows of a batch. Always inside the vocabulary.
    pub pad: Option<u32>,
    /// Draw tokens rather than take the best.
    pub do_sample: Option<bool>,
    /// Divides the scores.
    pub temperature: Option<f32>,
    /// Keep the k best; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keep the best that together have this probability.
    pub top_p: Option<f32>,
    /// Keep those at least this fraction as likely as the best.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative scores of tokens already seen.
    pub repetition_penalty: Option<f32>,
    /// Longest answer, in tokens.
    pub max_new_tokens: Option<usize>,
    /// Longest prompt and answer together, in tokens.
    pub max_length: Option<usize>,
    /// Texts that end an answer.
    pub stop_strings: Vec<String>,
    /// Settings the file makes that this engine does not know, for the user to be told about.
    pub ignored: Vec<String>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`; without one, what `config.json` says, as the reference's
    /// `GenerationConfig.from_model_config` does. `vocab` is the number of tokens.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Checkpoint`] with every field of the wrong type or size.
    pub fn from_json(generation: Option<&Value>, config: &Value, vocab: usize) -> Result<Self> {
        let problems = Problems::default();
        let defaults = match generation {
            Some(json) => {
                let fields = Fields::new("generation_config.json: ", Some(json), &problems);
                let pad = fields.optional_count("pad_token_id", 0..=u32::MAX as usize);
                Self { pad: inside(pad, vocab), ignored: ignored(json), ..read(&fields, vocab) }
            }
            None => from_model_config(config, vocab, &problems),
        };
        problems.into_result("the generation settings are not usable")?;
        Ok(defaults)
    }
}

/// Top-level fields first, then `text_config`'s, whose end token defaults to 2 (`LlamaConfig.eos_token_id`).
fn from_model_config(config: &Value, vocab: usize, problems: &Problems) -> GenerationDefaults {
    let top = Fields::new("config.json: ", Some(config), problems);
    let text = Fields::new("config.json: text_config.", top.get("text_config"), problems);
    let (mut defaults, inner) = (read(&top, vocab), read(&text, vocab));
    if defaults.eos_ids.is_empty() {
        defaults.eos_ids = if inner.eos_ids.is_empty() { vec![2] } else { inner.eos_ids };
    }
    defaults.bos = defaults.bos.or(inner.bos).or(Some(1));
    // The published top level says 128002, which lies outside the vocabulary.
    defaults.pad = [top, text]
        .iter()
        .find_map(|fields| inside(fields.optional_count("pad_token_id", 0..=u32::MAX as usize), vocab));
    defaults
}

fn read(fields: &Fields<'_>, vocab: usize) -> GenerationDefaults {
    GenerationDefaults {
        eos_ids: eos_ids(fields, vocab),
        bos: inside(fields.optional_count("bos_token_id", 0..=u32::MAX as usize), vocab),
        pad: None,
        do_sample: fields.optional_flag("do_sample"),
        temperature: fields.optional_number("temperature", 0.0..=1e6),
        top_k: fields.optional_count("top_k", 0..=u32::MAX as usize),
        top_p: fields.optional_number("top_p", 0.0..=1.0),
        min_p: fields.optional_number("min_p", 0.0..=1.0),
        repetition_penalty: fields.optional_number("repetition_penalty", 1e-6..=1e6),
        max_new_tokens: fields.optional_count("max_new_tokens", 1..=u32::MAX as usize),
        max_length: fields.optional_count("max_length", 1..=u32::MAX as usize),
        stop_strings: stop_strings(fields),
        ignored: Vec::new(),
    }
}

fn inside(id: Option<usize>, vocab: usize) -> Option<u32> {
    id.filter(|id| *id < vocab).and_then(|id| u32::try_from(id).ok())
}

/// One id or a list of them. An id that no token has would let an answer run on for ever, so it is a fault.
fn eos_ids(fields: &Fields<'_>, vocab: usize) -> Vec<u32> {
    let Some(value) = fields.get("eos_token_id") else { return Vec::new() };
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let ids = items.iter().take(MAX_STOPS).map(|item| inside(item.as_u64().map(|id| id as usize), vocab));
    let ids: Option<Vec<u32>> = ids.collect();
    if ids.is_none() || items.len() > MAX_STOPS {
        let expected = format!("a token id below vocab_size {vocab}, or a list of up to {MAX_STOPS}");
        fields.wrong("eos_token_id", &expected, &brief(Some(value)));
    }
    ids.unwrap_or_default()
}

fn stop_strings(fields: &Fields<'_>) -> Vec<String> {
    let Some(value) = fields.get("stop_strings") else { return Vec::new() };
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let texts = items.iter().take(MAX_STOPS).map(|item| item.as_str().map(str::to_owned));
    let texts: Option<Vec<String>> = texts.collect();
    if texts.is_none() || items.len() > MAX_STOPS {
        fields.wrong("stop_strings", &format!("a text, or a list of up to {MAX_STOPS}"), &brief(Some(value)));
    }
    texts.unwrap_or_default()
}

/// Names of settings that would change the output and are not known here; private ones (`_from_model_config`) and those
/// that are unset say nothing.
fn ignored(json: &Value) -> Vec<String> {
    let Some(object) = json.as_object() else { return Vec::new() };
    let unknown = object.iter().filter(|(key, value)| {
        !value.is_null() && !key.starts_with('_') && !KNOWN.contains(&key.as_str()) && !is_neutral(key, value)
    });
    unknown.take(MAX_STOPS).map(|(key, _)| super::problems::quoted(key)).collect()
}

/// Settings that older releases wrote out although they change nothing.
fn is_neutral(key: &str, value: &Value) -> bool {
    let neutral = match key {
        "num_beams" | "num_return_sequences" | "num_beam_groups" => 1.0,
        "length_penalty" | "typical_p" | "encoder_repetition_penalty" => 1.0,
        _ => 0.0,
    };
    value.as_bool() == Some(false) || value.as_f64() == Some(neutral)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_published_file_stops_at_end_of_utterance_only() {
        let file = json!({"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 49279, "pad_token_id": 2,
                          "transformers_version": "4.47.1"});
        let defaults = GenerationDefaults::from_json(Some(&file), &json!({}), 49280).unwrap();
        let expected =
            GenerationDefaults { eos_ids: vec![49279], bos: Some(0), pad: Some(2), ..GenerationDefaults::default() };
        assert_eq!(defaults, expected);
    }

    #[test]
    fn without_a_file_the_model_configuration_decides_and_a_pad_outside_the_vocabulary_is_passed_over() {
        let config = json!({"pad_token_id": 128002, "text_config": {"eos_token_id": [7, 8], "pad_token_id": 2}});
        let defaults = GenerationDefaults::from_json(None, &config, 100).unwrap();
        assert_eq!((defaults.eos_ids, defaults.pad, defaults.bos), (vec![7, 8], Some(2), Some(1)));
        let defaults = GenerationDefaults::from_json(None, &json!({}), 100).unwrap();
        assert_eq!((defaults.eos_ids, defaults.pad), (vec![2], None));
    }

    #[test]
    fn settings_that_are_not_known_are_named_unless_they_change_nothing() {
        let file = json!({"eos_token_id": 1, "num_beams": 4, "length_penalty": 1.0, "output_scores": false,
                          "bad_words_ids": [[3]], "top_k": 20, "temperature": 0.5, "do_sample": true});
        let defaults = GenerationDefaults::from_json(Some(&file), &json!({}), 10).unwrap();
        assert_eq!(defaults.ignored, ["num_beams", "bad_words_ids"]);
        assert_eq!((defaults.top_k, defaults.temperature, defaults.do_sample), (Some(20), Some(0.5), Some(true)));
    }

    #[test]
    fn every_unusable_setting_is_named_in_one_error() {
        let file = json!({"eos_token_id": 10, "top_p": 1.5, "max_new_tokens": -1, "do_sample": "yes"});
        let error = GenerationDefaults::from_json(Some(&file), &json!({}), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        for field in ["eos_token_id", "top_p", "max_new_tokens", "do_sample"] {
            assert!(error.to_string().contains(&format!("generation_config.json: {field}")), "{error}");
        }
    }
}

//! What is written: exported samples, and the model's folder.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;
use smolvlm::checkpoint::Checkpoint;
use smolvlm::media::source::MediaLimits;
use smolvlm::{Compat, Content, Device, GenerateOptions, LoadOptions, Messages};
use smolvlm_scenes::{
    Class, Generator, Medium, Mixture, PARAMETERS, Skill, Split, TrainedTokenizer, export, train_tokenizer,
    write_model_folder,
};

/// One for all tests.
static TOKENIZER: LazyLock<TrainedTokenizer> = LazyLock::new(train);

fn train() -> TrainedTokenizer {
    train_tokenizer(1, 6000).expect("enough text")
}

#[test]
fn an_export_holds_the_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    let generator = Generator::new(4, Split::Held, Mixture::default());
    let exported = export(&generator, 10..40, folder.path()).expect("written");
    assert_eq!((exported.samples, exported.list.file_name()), (30, Some("held.jsonl".as_ref())));
    let lines = std::fs::read_to_string(&exported.list).expect("a list");
    for (index, line) in (10..40).zip(lines.lines()) {
        let (row, sample): (Value, _) = (serde_json::from_str(line).expect("JSON"), generator.sample(index));
        assert_eq!((row["id"].as_u64(), row["skill"].as_str()), (Some(index), Some(sample.skill.name())));
        let answers =
            row["messages"].as_array().expect("messages").iter().filter(|message| message["role"] == "assistant");
        let answers: Vec<&str> = answers.filter_map(|message| message["content"][0]["text"].as_str()).collect();
        assert!(answers.iter().copied().eq(sample.turns.iter().map(|turn| turn.answer.as_str())));
        assert_eq!(row["checks"].as_array().map(Vec::len), Some(sample.turns.len()));
        let paths = |name: &str| row[name].as_array().expect("paths").clone();
        let paths: Vec<Value> = [paths("images"), paths("videos")].concat();
        assert_eq!(paths.len(), sample.media.len());
        for (path, medium) in paths.iter().zip(&sample.media) {
            let path = folder.path().join(path.as_str().expect("a path"));
            match medium {
                Medium::Picture(picture) => assert_eq!(pixels(&path), picture.rgb),
                Medium::Clip(clip) => {
                    assert_eq!(std::fs::read_dir(&path).expect("frames").count(), clip.frames.len());
                    for (number, frame) in clip.frames.iter().enumerate() {
                        assert_eq!(pixels(&path.join(format!("{number:04}.png"))), frame.rgb);
                    }
                }
            }
        }
    }
}

fn pixels(path: &Path) -> Vec<u8> {
    let source = smolvlm::media::source::MediaSource::Path(path.to_owned());
    let file = smolvlm::media::image::ImageFile::open(&source, &MediaLimits::default(), Compat::default());
    file.expect("a picture").decode().expect("pixels").rgb
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").expect("written");
    let generator = Generator::new(4, Split::Train, Mixture::default());
    let error = export(&generator, 0..1, &file).expect_err("a file is in the way");
    assert!(error.to_string().contains("file: cannot be made"), "{error}");
}

#[test]
fn the_same_text_gives_the_same_tokenizer_and_too_little_is_refused() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    write_model_folder(&TOKENIZER, folders[0].path()).expect("written");
    write_model_folder(&train(), folders[1].path()).expect("written");
    let read = |at: usize| std::fs::read(folders[at].path().join("tokenizer.json")).expect("a tokenizer");
    assert_eq!(read(0), read(1));
    assert!(train_tokenizer(1, 5).expect_err("too little").to_string().contains("give more samples"));
    let again = TrainedTokenizer::from_file(&folders[0].path().join("tokenizer.json")).expect("read");
    let text = "What colour is the star?";
    assert_eq!(again.encode(text).expect("ids"), TOKENIZER.encode(text).expect("ids"));
    assert_eq!(again.special_ids().expect("ids").end_of_utterance, 959);
}

#[test]
fn a_word_that_was_read_is_spelled_in_one_token_a_letter_and_digits_are_single() {
    let tokenizer = &*TOKENIZER;
    for split in [Split::Train, Split::Held] {
        for skill in [Skill::Word, Skill::Number, Skill::SmallText] {
            let generator = Generator::new(31, split, Mixture::only(skill));
            for turn in (0..400).flat_map(|index| generator.sample(index).turns) {
                let text = turn.check.key.join(" ").to_uppercase();
                let tokens = tokenizer.tokens(&format!(" {text}")).expect("tokens");
                let single = |token: &String| token.trim_start_matches('Ġ').len() <= 1;
                assert!(tokens.iter().all(single), "{text}: {tokens:?}");
            }
        }
    }
}

#[test]
fn a_question_costs_few_tokens() {
    let tokenizer = &*TOKENIZER;
    let generator = Generator::new(32, Split::Held, Mixture::default());
    let (mut tokens, mut turns) = (0, 0);
    for turn in (0..1000).flat_map(|index| generator.sample(index).turns) {
        tokens += tokenizer.encode(&turn.question).expect("ids").len();
        turns += 1;
        if turn.check.class == Class::Colour {
            assert!(tokenizer.encode(&format!(" {}", turn.check.key[0])).expect("ids").len() == 1, "{}", turn.answer);
        }
    }
    assert!(tokens < 11 * turns, "{} a question", tokens as f32 / turns as f32);
}

#[test]
fn our_engine_loads_the_folder_once_there_are_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    write_model_folder(&TOKENIZER, folder.path()).expect("written");
    smolvlm_train::draw_weights(folder.path(), &smolvlm_train::InitialWeights::default()).expect("weights");
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    checkpoint.validate().expect("weights that fit");
    assert_eq!(checkpoint.config().parameter_count(), PARAMETERS as u64);
    assert_eq!(checkpoint.config().tokens_per_tile(), 16);

    let options = LoadOptions { device: Device::Cpu, ..LoadOptions::default() };
    let mut model = options.load(folder.path().to_str().expect("a path in UTF-8")).expect("a model");
    let media = tempfile::tempdir().expect("a folder");
    let generator = Generator::new(1, Split::Train, Mixture::default());
    export(&generator, 0..8, media.path()).expect("written");
    let picture =
        std::fs::read_dir(media.path().join("pictures")).expect("pictures").next().expect("one").expect("an entry");
    let messages = Messages::new().user([Content::image(picture.path()), Content::text("What is where?")]);
    let reply = model.generate(&messages, &GenerateOptions::default().max_new_tokens(3)).expect("a reply");
    assert!(reply.usage.prompt_tokens > 20, "{:?}", reply.usage);
}

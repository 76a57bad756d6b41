//! Makes a vocabulary from texts and writes it as a tokenizer.json.

use std::collections::BTreeSet;

use serde_json::{json, Map, Value};
use tokenizers::models::bpe::{BpeTrainer, BPE};
use tokenizers::models::TrainerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::ffi::{guard, Bytes, Slice};

/// What the caller asks for; see text/tokenizer_training.h.
struct Recipe {
    kind: String,
    vocabulary: usize,
    min_frequency: u64,
    special: Vec<String>,
}

impl Recipe {
    fn read(json: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let special = value["special"].as_array().cloned().unwrap_or_default();
        Ok(Recipe {
            kind: value["kind"].as_str().unwrap_or_default().to_string(),
            vocabulary: value["vocabulary"].as_u64().unwrap_or(0) as usize,
            min_frequency: value["min_frequency"].as_u64().unwrap_or(0),
            special: special.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        })
    }

    fn special_tokens(&self) -> Vec<AddedToken> {
        self.special.iter().map(|token| AddedToken::from(token.as_str(), true).normalized(false)).collect()
    }
}

/// GPT-2's: its regular expression, and a character for each byte.
fn byte_level() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

/// The 256 characters that stand for the bytes 0 to 255, in the order of the bytes (GPT-2's bytes_to_unicode).
pub fn byte_characters() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    let mut stand_in = |byte: u32| {
        let code = if printable(byte) { byte } else { next };
        next += u32::from(code != byte);
        char::from_u32(code).expect("below the surrogates")
    };
    (0..256).map(&mut stand_in).collect()
}

fn added(special: &[String], first_id: usize) -> Vec<Value> {
    let entry = |(index, token): (usize, &String)| {
        json!({"id": first_id + index, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    special.iter().enumerate().map(entry).collect()
}

fn file(added: Vec<Value>, pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
           "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model})
}

/// Every byte is a token, and its value the id; the special tokens follow.
fn bytes(recipe: &Recipe) -> Value {
    let mut vocab: Map<String, Value> =
        byte_characters().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    for (index, token) in recipe.special.iter().enumerate() {
        vocab.insert(token.clone(), json!(256 + index));
    }
    let part = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                       "ignore_merges": false, "vocab": vocab, "merges": []});
    file(added(&recipe.special, 256), part.clone(), part, model)
}

/// Every character of the texts is a token, ids in the order of the code points; the special tokens follow. A
/// character that is not among them cannot be encoded.
fn characters(recipe: &Recipe, texts: &[&str]) -> Value {
    let found: BTreeSet<char> = texts.iter().flat_map(|text| text.chars()).collect();
    let count = found.len();
    let mut vocab: Map<String, Value> = found.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    for (index, token) in recipe.special.iter().enumerate() {
        vocab.insert(token.clone(), json!(count + index));
    }
    let split = json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false});
    // Its absence from the vocabulary is what makes an unknown character an error instead of a silent token.
    let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unknown character>"});
    file(added(&recipe.special, count), split, json!({"type": "Fuse"}), model)
}

/// Byte-level BPE as GPT-2's: special tokens first, the 256 bytes, then merges in the order of their frequency.
fn bpe(recipe: &Recipe, texts: &[&str]) -> Result<Value, String> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level()));
    tokenizer.with_decoder(Some(byte_level()));
    let mut trainer = TrainerWrapper::from(
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(recipe.vocabulary)
            .min_frequency(recipe.min_frequency)
            .initial_alphabet(byte_characters().into_iter().collect())
            .special_tokens(recipe.special_tokens())
            .build(),
    );
    tokenizer.train(&mut trainer, texts.iter()).map_err(|error| error.to_string())?;
    let text = tokenizer.to_string(false).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_train(
    recipe: Slice,
    texts: *const Slice,
    n_texts: usize,
    json: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let recipe = Recipe::read(recipe.bytes())?;
        let texts = crate::tokenizer::texts(texts, n_texts, "text")?;
        let made = match recipe.kind.as_str() {
            "bytes" => bytes(&recipe),
            "characters" => characters(&recipe, &texts),
            "bpe" => bpe(&recipe, &texts)?,
            other => return Err(format!("{other:?} is not a kind of vocabulary")),
        };
        Bytes::give(json, serde_json::to_string_pretty(&made).map_err(|error| error.to_string())?.into_bytes());
        Ok(())
    })
}

//! A tokenizer as constraints see it: the bytes that each token stands for, in a trie.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::ParserFactory;
use serde_json::Value;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::ffi::{guard, Bytes};
use crate::tokenizer::TextTokenizer;
use crate::training::byte_characters;

/// The trie cannot hold longer ones; no text needs them.
const LONGEST_TOKEN: usize = 1000;

/// How a vocabulary writes bytes, read off its decoder.
enum Spelling {
    /// GPT-2's: a character for each byte.
    ByteLevel(HashMap<char, u8>),
    /// SentencePiece's: a character that stands for a space, and <0x0A> for bytes where `fallback`.
    Pieces { space: Option<String>, fallback: bool },
}

impl Spelling {
    fn of(decoder: &Value) -> Result<Self, String> {
        let parts = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().cloned().unwrap_or_default(),
            _ => vec![decoder.clone()],
        };
        let mut space = None;
        let mut fallback = false;
        for part in &parts {
            match part["type"].as_str() {
                Some("ByteLevel") => {
                    let bytes = byte_characters().into_iter().zip(0..=255u8).collect();
                    return Ok(Spelling::ByteLevel(bytes));
                }
                Some("ByteFallback") => fallback = true,
                Some("Metaspace") => space = part["replacement"].as_str().map(str::to_string),
                Some("Replace") if part["content"].as_str() == Some(" ") => {
                    space = part["pattern"]["String"].as_str().map(str::to_string)
                }
                // They join pieces and take a space away at the beginning of a text.
                Some("Fuse") | Some("Strip") | None => {}
                Some(other) => {
                    return Err(format!(
                        "the tokenizer's decoder is {other:?}: which bytes its tokens stand for is not known, so no \
                         constraint can be kept"
                    ))
                }
            }
        }
        Ok(Spelling::Pieces { space, fallback })
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            // A token with another character stands for itself, as the decoder has it.
            Spelling::ByteLevel(bytes) => match token.chars().map(|c| bytes.get(&c).copied()).collect() {
                Some(bytes) => bytes,
                None => token.as_bytes().to_vec(),
            },
            Spelling::Pieces { space, fallback } => {
                let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                if let (true, Some(hex)) = (*fallback, hex.filter(|hex| hex.len() == 2)) {
                    if let Ok(byte) = u8::from_str_radix(hex, 16) {
                        return vec![byte];
                    }
                }
                match space {
                    Some(space) => token.replace(space.as_str(), " ").into_bytes(),
                    None => token.as_bytes().to_vec(),
                }
            }
        }
    }
}

/// The tokenizer without what it puts before a text, since forced bytes are the middle of one.
fn without_prefix(inner: &Arc<Tokenizer>) -> Result<Arc<Tokenizer>, String> {
    fn drop_prefixes(part: &mut Value) -> bool {
        let mut changed = false;
        if part["type"] == "Metaspace" && part["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never") {
            part["prepend_scheme"] = Value::from("never");
            changed = true;
        }
        if part["type"] == "ByteLevel" && part["add_prefix_space"] == true {
            part["add_prefix_space"] = Value::from(false);
            changed = true;
        }
        for list in ["normalizers", "pretokenizers"] {
            if let Some(parts) = part.get_mut(list).and_then(Value::as_array_mut) {
                let before = parts.len();
                parts.retain(|part| part["type"] != "Prepend");
                changed |= parts.len() != before;
                for part in parts {
                    changed |= drop_prefixes(part);
                }
            }
        }
        changed
    }
    let value = |part: serde_json::Result<Value>| part.map_err(|error| error.to_string());
    let mut normalizer = value(serde_json::to_value(inner.get_normalizer()))?;
    let mut pre_tokenizer = value(serde_json::to_value(inner.get_pre_tokenizer()))?;
    let mut changed = drop_prefixes(&mut normalizer) | drop_prefixes(&mut pre_tokenizer);
    if normalizer["type"] == "Prepend" {
        normalizer = Value::Null;
        changed = true;
    }
    if !changed {
        return Ok(inner.clone());
    }
    let mut copy = Tokenizer::clone(inner);
    copy.with_normalizer(read::<NormalizerWrapper>(normalizer)?).map_err(|error| error.to_string())?;
    copy.with_pre_tokenizer(read::<PreTokenizerWrapper>(pre_tokenizer)?);
    Ok(Arc::new(copy))
}

fn read<T: serde::de::DeserializeOwned>(part: Value) -> Result<Option<T>, String> {
    match part {
        Value::Null => Ok(None),
        part => serde_json::from_value(part).map(Some).map_err(|error| error.to_string()),
    }
}

struct Environment {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl Environment {
    /// The tokenizer's own ids for a text; where they stand for other bytes (it normalises, or reads the text of a
    /// special token as that token), the longest tokens from left to right.
    fn ids(&self, text: &str) -> Vec<TokenId> {
        if let Ok(encoding) = self.tokenizer.encode_fast(text, false) {
            let ids = encoding.get_ids();
            let known = ids.iter().all(|id| (*id as usize) < self.trie.vocab_size());
            if known && self.trie.decode_raw(ids) == text.as_bytes() {
                return ids.to_vec();
            }
        }
        let ids = self.trie.greedy_tokenize(text.as_bytes());
        // Nothing where the vocabulary has no token for a part of it.
        if self.trie.decode_raw(&ids) == text.as_bytes() {
            ids
        } else {
            Vec::new()
        }
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.ids(text))
    }
}

pub struct Vocabulary {
    pub(crate) factory: ParserFactory,
    /// Ids of the tokenizer; where it has no end token, the trie has one more, which no model can choose.
    pub(crate) size: usize,
    pub(crate) ends: Vec<u32>,
}

impl Vocabulary {
    fn new(tokenizer: &TextTokenizer, ends: &[u32]) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.inner.get_decoder()).map_err(|error| error.to_string())?;
        let spelling = Spelling::of(&decoder)?;
        let mut words: Vec<Vec<u8>> = (0..tokenizer.size as u32)
            .map(|id| match tokenizer.inner.id_to_token(id) {
                Some(token) if tokenizer.special.contains(&id) || ends.contains(&id) => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], token.as_bytes()].concat()
                }
                Some(token) => spelling.bytes(&token),
                None => Vec::new(),
            })
            .collect();
        for word in words.iter_mut().filter(|word| word.len() > LONGEST_TOKEN) {
            word.clear();
        }
        let mut ends = ends.to_vec();
        if ends.is_empty() {
            ends.push(words.len() as u32);
            words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], "<end of the text>".as_bytes()].concat());
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, ends[0]), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer: without_prefix(&tokenizer.inner)? });
        let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
        let mut factory = ParserFactory::new(&environment, capabilities, &SlicedBiasComputer::general_slices())
            .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..Default::default() };
        Ok(Vocabulary { factory, size: tokenizer.size, ends })
    }
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_vocabulary_new(
    tokenizer: &TextTokenizer,
    ends: *const u32,
    n_ends: usize,
    out: *mut *mut Vocabulary,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let ends = if n_ends == 0 { &[] } else { std::slice::from_raw_parts(ends, n_ends) };
        if let Some(id) = ends.iter().find(|id| **id as usize >= tokenizer.size) {
            return Err(format!("the end token {id} is outside of the vocabulary of {}", tokenizer.size));
        }
        out.write(Box::into_raw(Box::new(Vocabulary::new(tokenizer, ends)?)));
        Ok(())
    })
}

/// # Safety
/// `vocabulary` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn coterie_vocabulary_free(vocabulary: *mut Vocabulary) {
    if !vocabulary.is_null() {
        drop(Box::from_raw(vocabulary));
    }
}

/// The bytes that a token stands for, preceded by 0xFF where it is special; for tests of what the trie holds.
///
/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_vocabulary_bytes(
    vocabulary: &Vocabulary,
    id: u32,
    bytes: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        if id as usize >= vocabulary.size {
            return Err(format!("the token {id} is outside of the vocabulary of {}", vocabulary.size));
        }
        Bytes::give(bytes, vocabulary.factory.tok_env().tok_trie().token(id).to_vec());
        Ok(())
    })
}

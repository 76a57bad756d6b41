//! Tokenizers: from a tokenizer.json, or built from the vocabulary of a GGUF file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab, BPE};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

use crate::ffi::{guard, Bytes, Ids, Slice};

pub struct TextTokenizer {
    pub(crate) inner: Arc<Tokenizer>,
    pub(crate) special: HashSet<u32>,
    pub(crate) size: usize,
}

impl TextTokenizer {
    fn new(mut inner: Tokenizer) -> Result<Self, String> {
        // A tokenizer.json may carry the truncation and padding of some training run. They are options of a call, not
        // of a vocabulary, and transformers resets them too.
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let size = one_past_last_id(&inner);
        Ok(TextTokenizer { inner: Arc::new(inner), special, size })
    }

    /// The tokens a tokenizer_config.json names beside tokenizer.json. Those already added stay as they are.
    fn add_extra(inner: &mut Tokenizer, extra: &[Value]) -> Result<(), String> {
        let known: HashSet<String> =
            inner.get_added_tokens_decoder().values().map(|token| token.content.clone()).collect();
        for entry in extra {
            let content = entry["content"].as_str().ok_or("an added token has no \"content\"")?;
            if known.contains(content) {
                continue;
            }
            let flag = |name: &str, otherwise: bool| entry[name].as_bool().unwrap_or(otherwise);
            let special = flag("special", false);
            let token = AddedToken::from(content, special)
                .lstrip(flag("lstrip", false))
                .rstrip(flag("rstrip", false))
                .single_word(flag("single_word", false))
                .normalized(flag("normalized", !special));
            match (entry["id"].as_u64(), inner.token_to_id(content)) {
                // A name without an id (bos_token, ...) marks a token; it does not enlarge the vocabulary.
                (None, None) => continue,
                _ => inner.add_tokens([token]).map_err(|error| error.to_string())?,
            };
            if let (Some(wanted), Some(found)) = (entry["id"].as_u64(), inner.token_to_id(content)) {
                if wanted != u64::from(found) {
                    return Err(format!(
                        "the added token {content:?} has id {wanted} in tokenizer_config.json, but {found} in tokenizer.json"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Ids are counted from 0 without a gap in almost every file, and asking for each is cheaper than copying all tokens.
fn one_past_last_id(inner: &Tokenizer) -> usize {
    let count = inner.get_vocab_size(true);
    if (0..count).all(|id| inner.id_to_token(id as u32).is_some()) {
        return count;
    }
    inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
}

// The C++ side promises that both serve several threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<TextTokenizer>();
    shared::<crate::template::ChatTemplate>();
    shared::<crate::vocabulary::Vocabulary>();
};

fn part<T: serde::de::DeserializeOwned>(parts: &Value, name: &str) -> Result<Option<T>, String> {
    match &parts[name] {
        Value::Null => Ok(None),
        value => serde_json::from_value(value.clone()).map(Some).map_err(|error| format!("{name}: {error}")),
    }
}

/// "left right" as GGUF writes merges; the space may not be the first character.
fn split_merge(merge: &str) -> Option<(String, String)> {
    let first = merge.chars().next()?.len_utf8();
    let space = merge[first..].find(' ')? + first;
    Some((merge[..space].to_string(), merge[space + 1..].to_string()))
}

/// The merges a SentencePiece BPE model implies: every way to put a token together from two others, best score first.
/// transformers' converter has ordered ties in two ways, and published files are of both kinds: by the ids (of the
/// whole, the left part, the right part), and `by_length`, where the longest left part, then the longest right part,
/// come before the ids.
fn merges_from_scores(
    tokens: &[&str],
    scores: &[f32],
    skip: &HashSet<u32>,
    by_length: bool,
    vocab: &HashMap<&str, u32>,
) -> Merges {
    struct Candidate<'a> {
        score: f32,
        left: &'a str,
        right: &'a str,
        left_length: usize,
        right_length: usize,
    }
    let mut all: Vec<Candidate> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if skip.contains(&(id as u32)) {
            continue;
        }
        let length = token.chars().count();
        let start = all.len();
        for (taken, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                let candidate =
                    Candidate { score: scores[id], left, right, left_length: taken, right_length: length - taken };
                all.push(candidate);
            }
        }
        all[start..].sort_by_key(|pair| (vocab[pair.left], vocab[pair.right]));
    }
    let lengths = |pair: &Candidate| if by_length { (pair.left_length, pair.right_length) } else { (0, 0) };
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| lengths(b).cmp(&lengths(a))));
    all.iter().map(|pair| (pair.left.to_string(), pair.right.to_string())).collect()
}

fn build(parts: &Value, tokens: &[&str], merges: &[&str], scores: Option<&[f32]>) -> Result<Tokenizer, String> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = ids.insert(token, id as u32) {
            return Err(format!("token {token:?} occurs twice, as id {other} and as id {id}"));
        }
    }
    let added = parts["added"].as_array().cloned().unwrap_or_default();
    let merges: Merges = match scores {
        Some(scores) => {
            let skip = parts["unmerged"].as_array().cloned().unwrap_or_default();
            let skip = skip.iter().filter_map(Value::as_u64).map(|id| id as u32).collect();
            merges_from_scores(tokens, scores, &skip, parts["merges_by_length"].as_bool().unwrap_or(false), &ids)
        }
        None => {
            let split = |(index, merge): (usize, &&str)| {
                split_merge(merge)
                    .ok_or_else(|| format!("merge {index} is {merge:?}, expected two tokens with a space between"))
            };
            merges.iter().enumerate().map(split).collect::<Result<_, _>>()?
        }
    };
    let vocab: Vocab = ids.iter().map(|(token, id)| (token.to_string(), *id)).collect();
    let flag = |name: &str| parts[name].as_bool().unwrap_or(false);
    let mut model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .byte_fallback(flag("byte_fallback"))
        .fuse_unk(flag("fuse_unk"))
        .ignore_merges(flag("ignore_merges"));
    if let Some(unknown) = parts["unk_token"].as_str() {
        model = model.unk_token(unknown.to_string());
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(|error| error.to_string())?);
    tokenizer.with_normalizer(part::<NormalizerWrapper>(parts, "normalizer")?).map_err(|error| error.to_string())?;
    tokenizer.with_pre_tokenizer(part::<PreTokenizerWrapper>(parts, "pre_tokenizer")?);
    tokenizer.with_post_processor(part::<PostProcessorWrapper>(parts, "post_processor")?);
    tokenizer.with_decoder(part::<DecoderWrapper>(parts, "decoder")?);
    let as_added = |entry: &Value| {
        let token = tokens.get(entry["id"].as_u64().unwrap_or(u64::MAX) as usize)?;
        Some(AddedToken::from(*token, entry["special"].as_bool().unwrap_or(false)).normalized(false))
    };
    let added: Vec<AddedToken> = added.iter().filter_map(as_added).collect();
    tokenizer.add_tokens(added).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

pub unsafe fn texts<'a>(items: *const Slice, n: usize, what: &str) -> Result<Vec<&'a str>, String> {
    let items: &[Slice] = if n == 0 { &[] } else { std::slice::from_raw_parts(items, n) };
    items.iter().enumerate().map(|(index, item)| item.text(&format!("{what} {index}"))).collect()
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_from_json(
    json: Slice,
    extra_tokens: Slice,
    out: *mut *mut TextTokenizer,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let mut inner = Tokenizer::from_bytes(json.bytes()).map_err(|error| error.to_string())?;
        let extra = extra_tokens.bytes();
        if !extra.is_empty() {
            let extra: Vec<Value> = serde_json::from_slice(extra).map_err(|error| error.to_string())?;
            TextTokenizer::add_extra(&mut inner, &extra)?;
        }
        out.write(Box::into_raw(Box::new(TextTokenizer::new(inner)?)));
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_build(
    parts: Slice,
    tokens: *const Slice,
    n_tokens: usize,
    merges: *const Slice,
    n_merges: usize,
    scores: *const f32,
    out: *mut *mut TextTokenizer,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let parts: Value = serde_json::from_slice(parts.bytes()).map_err(|error| error.to_string())?;
        let tokens = texts(tokens, n_tokens, "token")?;
        let merges = texts(merges, n_merges, "merge")?;
        let scores = (!scores.is_null()).then(|| std::slice::from_raw_parts(scores, n_tokens));
        let inner = build(&parts, &tokens, &merges, scores)?;
        out.write(Box::into_raw(Box::new(TextTokenizer::new(inner)?)));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_free(tokenizer: *mut TextTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// A vocabulary of whole words or characters without a token for the unknown says only that this is missing.
fn unknown_character(inner: &Tokenizer, text: &str) -> Option<String> {
    let ModelWrapper::WordLevel(_) = inner.get_model() else { return None };
    let (at, c) = text.char_indices().find(|(_, c)| inner.token_to_id(c.encode_utf8(&mut [0; 4])).is_none())?;
    Some(format!("the character {c:?} at byte {at} of the text is not in the vocabulary"))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_encode(
    tokenizer: &TextTokenizer,
    text: Slice,
    add_special: i32,
    ids: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let text = text.text("the text")?;
        let encoding = tokenizer
            .inner
            .encode_fast(text, add_special != 0)
            .map_err(|error| unknown_character(&tokenizer.inner, text).unwrap_or_else(|| error.to_string()))?;
        Ids::give(ids, encoding.get_ids().to_vec());
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_decode(
    tokenizer: &TextTokenizer,
    ids: *const u32,
    n: usize,
    skip_special: i32,
    text: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let ids = if n == 0 { &[] } else { std::slice::from_raw_parts(ids, n) };
        let decoded = tokenizer.inner.decode(ids, skip_special != 0).map_err(|error| error.to_string())?;
        Bytes::give(text, decoded.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn coterie_tokenizer_size(tokenizer: &TextTokenizer) -> usize {
    tokenizer.size
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_token(
    tokenizer: &TextTokenizer,
    id: u32,
    token: *mut Bytes,
    found: *mut i32,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let text = tokenizer.inner.id_to_token(id);
        found.write(i32::from(text.is_some()));
        Bytes::give(token, text.unwrap_or_default().into_bytes());
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_id(tokenizer: &TextTokenizer, token: Slice) -> i64 {
    let text = std::str::from_utf8(token.bytes()).ok();
    text.and_then(|text| tokenizer.inner.token_to_id(text)).map_or(-1, i64::from)
}

#[no_mangle]
pub extern "C" fn coterie_tokenizer_is_special(tokenizer: &TextTokenizer, id: u32) -> i32 {
    i32::from(tokenizer.special.contains(&id))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_tokenizer_json(tokenizer: &TextTokenizer, json: *mut Bytes, error: *mut Bytes) -> i32 {
    guard(error, || {
        let text = tokenizer.inner.to_string(true).map_err(|error| error.to_string())?;
        Bytes::give(json, text.into_bytes());
        Ok(())
    })
}

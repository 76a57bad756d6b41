//! What a grammar lets through, token by token.

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::TokenId;
use llguidance::Matcher;

use crate::ffi::{guard, Bytes, Ids, Slice};
use crate::schema;
use crate::vocabulary::Vocabulary;

pub struct Constraint {
    matcher: Matcher,
    size: usize,
    ends: Vec<u32>,
}

// It is made on one thread and used on another.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Constraint>();
};

/// llguidance adds its state to what it says, in lines that begin with a tag.
pub fn plain(error: impl std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let end = text.find("\n<").unwrap_or(text.len());
    text[..end].trim().to_string()
}

/// Compiles a grammar; says why it cannot be kept.
pub fn compile(vocabulary: &Vocabulary, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let parser = vocabulary.factory.create_parser(grammar).map_err(plain)?;
    let mut matcher = Matcher::new(Ok(parser));
    // A grammar that lets nothing through at all shows only here.
    matcher.clone().compute_mask_or_eos().map_err(|error| nothing_fits(&plain(error)))?;
    match matcher.get_error() {
        Some(error) => Err(plain(error)),
        None => {
            let _ = matcher.is_accepting().map_err(plain)?;
            Ok(matcher)
        }
    }
}

fn cannot_go_on(error: &str) -> String {
    match error {
        "NoExtensionBias" | "NoExtension" => {
            "no token of the vocabulary can go on: none spells what must come next".to_string()
        }
        other => other.to_string(),
    }
}

fn nothing_fits(error: &str) -> String {
    match error {
        "NoExtensionBias" | "NoExtension" => "no text that the vocabulary can spell fits it".to_string(),
        other => other.to_string(),
    }
}

/// What the regex parser says, without the one-line grammar that the expression was put into.
fn of_regex(error: &str) -> String {
    let begin = error.find("regex parse error:").unwrap_or(0);
    let end = error.find("\n   1 | start:").unwrap_or(error.len());
    error[begin..end.max(begin)].trim_end().to_string()
}

impl Constraint {
    fn new(vocabulary: &Vocabulary, kind: i32, text: &str) -> Result<Self, String> {
        let matcher = match kind {
            0 => schema::compile(vocabulary, text)?,
            1 => compile(vocabulary, TopLevelGrammar::from_regex(text)).map_err(|error| of_regex(&error))?,
            2 => compile(vocabulary, TopLevelGrammar::from_lark(text.to_string()))?,
            other => return Err(format!("{other} is not a kind of constraint")),
        };
        Ok(Constraint { matcher, size: vocabulary.size, ends: vocabulary.ends.clone() })
    }

    fn complete(&mut self) -> Result<bool, String> {
        Ok(self.matcher.is_stopped() || self.matcher.is_accepting().map_err(plain)?)
    }
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_new(
    vocabulary: &Vocabulary,
    kind: i32,
    text: Slice,
    out: *mut *mut Constraint,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Box::into_raw(Box::new(Constraint::new(vocabulary, kind, text.text("it")?)?)));
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_schema_prepare(
    vocabulary: &Vocabulary,
    schema: Slice,
    prepared: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        Bytes::give(prepared, schema::prepare(vocabulary, schema.text("it")?)?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_clone(
    constraint: &Constraint,
    out: *mut *mut Constraint,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        // Deep: sequences must not wait for each other's lexer.
        let matcher = constraint.matcher.deep_clone();
        let copy = Constraint { matcher, size: constraint.size, ends: constraint.ends.clone() };
        out.write(Box::into_raw(Box::new(copy)));
        Ok(())
    })
}

/// # Safety
/// `constraint` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_free(constraint: *mut Constraint) {
    if !constraint.is_null() {
        drop(Box::from_raw(constraint));
    }
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_mask(
    constraint: &mut Constraint,
    bits: *mut u32,
    n_words: usize,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let bits = std::slice::from_raw_parts_mut(bits, n_words);
        bits.fill(0);
        let mask = constraint.matcher.compute_mask_or_eos().map_err(|error| cannot_go_on(&plain(error)))?;
        for (to, from) in bits.iter_mut().zip(mask.as_slice()) {
            *to = *from;
        }
        // The end token of a vocabulary that has none, and the padding of the last word.
        for id in constraint.size..32 * n_words {
            bits[id / 32] &= !(1 << (id % 32));
        }
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_accept(
    constraint: &mut Constraint,
    ids: *const u32,
    n: usize,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let ids: &[TokenId] = if n == 0 { &[] } else { std::slice::from_raw_parts(ids, n) };
        for id in ids {
            // Once nothing can follow the library refuses end tokens too.
            if constraint.matcher.is_stopped() && !constraint.matcher.is_error() && constraint.ends.contains(id) {
                continue;
            }
            constraint
                .matcher
                .consume_token(*id)
                .map_err(|error| format!("token {id} is not allowed here: {}", plain(error)))?;
        }
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_forced(
    constraint: &mut Constraint,
    ids: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let forced = if constraint.matcher.is_stopped() { Vec::new() } else { constraint.matcher.compute_ff_tokens() };
        if let Some(error) = constraint.matcher.get_error() {
            return Err(plain(error));
        }
        Ids::give(ids, forced);
        Ok(())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_rollback(constraint: &mut Constraint, n: usize, error: *mut Bytes) -> i32 {
    guard(error, || constraint.matcher.rollback(n).map_err(plain))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_constraint_state(
    constraint: &mut Constraint,
    complete: *mut i32,
    finished: *mut i32,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        if let Some(error) = constraint.matcher.get_error() {
            return Err(plain(error));
        }
        complete.write(i32::from(constraint.complete()?));
        finished.write(i32::from(constraint.matcher.is_stopped()));
        Ok(())
    })
}

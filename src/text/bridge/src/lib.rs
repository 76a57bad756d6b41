//! Hugging Face's `tokenizers`, `minijinja` and `llguidance` behind the C ABI of `bridge.h`.

mod constraint;
mod ffi;
mod filters;
mod methods;
mod python;
mod schema;
mod source;
mod template;
mod tokenizer;
mod training;
mod vocabulary;

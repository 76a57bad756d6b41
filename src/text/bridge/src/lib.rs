//! Hugging Face's `tokenizers` and `minijinja` behind the C ABI of `bridge.h`.

mod ffi;
mod filters;
mod methods;
mod python;
mod source;
mod template;
mod tokenizer;
mod training;

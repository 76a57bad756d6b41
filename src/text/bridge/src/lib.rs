//! Hugging Face's `tokenizers` and `minijinja` behind the C ABI of `bridge.h`.

mod ffi;
mod python;
mod template;
mod tokenizer;

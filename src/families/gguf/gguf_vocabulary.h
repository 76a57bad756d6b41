#pragma once

#include <optional>

#include "checkpoint/tensor_source.h"
#include "text/gguf_export.h"
#include "text/tokenizer.h"

namespace coterie::families {

/// The tokenizer's vocabulary in GGUF metadata; nothing when there is none ("no_vocab").
std::optional<text::GgufVocabulary> gguf_vocabulary(const checkpoint::TensorSource& source);

/// tokenizer.ggml.*: what gguf_vocabulary reads.
void add_vocabulary(const text::GgufVocabulary& vocabulary, checkpoint::Metadata& metadata);
/// tokenizer.huggingface.json, for a tokenizer that the keys above cannot say, and what reads it.
void add_vocabulary(const text::WholeTokenizer& tokenizer, checkpoint::Metadata& metadata);
std::optional<text::WholeTokenizer> gguf_whole_tokenizer(const checkpoint::TensorSource& source);

}  // namespace coterie::families

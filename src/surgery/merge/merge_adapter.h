#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "families/open.h"

namespace coterie::surgery {

struct MergedAdapter {
  int64_t tensors = 0, changed = 0;  // of the file; into which the adapter went
};

/// Writes `model`, over which an adapter is laid, as a model without one: each adapted weight W becomes
/// W + scale · B·A (times magnitude / norm for DoRA), computed in f32 and rounded to W's own format; everything else
/// stays as it is, byte by byte. A folder becomes a folder (config, tokenizer and all), a .gguf a .gguf. Tensor by
/// tensor, so that a model larger than memory passes through; under a temporary name until it is whole. What `progress`
/// throws, before a tensor, ends the writing.
///
/// A .gguf that is there is replaced, a folder is not. Throws bad_input when `out` is such a folder, the source, or
/// named as what it will not be, or the model has no adapter;
/// unsupported, naming the weight, where W is in a block format, whose rounding would lose most of what was learned, or
/// lies in the file in a form that is copied when it is read; io when it cannot be written. Then nothing is left.
MergedAdapter merge_adapter(const families::Model& model, const std::filesystem::path& out,
                            const std::function<void(std::string_view tensor)>& progress = {});

}  // namespace coterie::surgery

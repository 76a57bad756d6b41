#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "families/open.h"

namespace coterie::runtime::test {

/// 0: as the fixture has it, or for block formats the least whole blocks.
struct TinySizes {
  int64_t width = 0, ffn = 0, experts = 0;
};

/// A Mixtral of two layers and 259 tokens with random weights: the 256 bytes, a pair
/// of zero bytes (a vocabulary without a merge is refused), "<|im_start|>" and "<|im_end|>" (which
/// ends a text). Without `text` it has no tokenizer, as a checkpoint without one.
families::Model tiny_model(bool text = true, int64_t context = 256, uint64_t seed = 1,
                           tensor::DType dtype = tensor::DType::f32, TinySizes sizes = {});
inline constexpr int32_t kStart = 257, kEnd = 258;

/// The same, text included, as a file.
void write_tiny_gguf(const std::filesystem::path& path, int64_t context = 256, tensor::DType dtype = tensor::DType::f32,
                     TinySizes sizes = {});

/// Turns between <|im_start|>ROLE\n … <|im_end|>\n.
text::ChatTemplate tiny_template();

/// A folder of tests/parity/data: "mixtral" (its case base) or "phi3/longrope-crossing".
std::string fixture(const std::string& name);

}  // namespace coterie::runtime::test

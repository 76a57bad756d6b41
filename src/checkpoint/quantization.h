#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"

namespace coterie::checkpoint {

/// What config.json says of quantised safetensors.
struct Quantization {
  enum class Method { fp8, gptq, awq, compressed_tensors };
  Method method = Method::fp8;
  int bits = 8;                            // of a code; 8 for floats
  bool floats = false;                     // codes are 8-bit floats (E4M3), else integers
  int64_t group = 0;                       // values along a row that share a scale; 0: a scale a row or a tensor
  int64_t block_rows = 0, block_cols = 0;  // of fp8: the block that shares a scale; 0: a scale a row or a tensor
  bool zeros_less_one = false;             // zeros in the file are one less than what is meant (GPTQ's first format)
};

/// quantization_config (or compression_config) of a config.json, when it is of a method that quantised_source() reads;
/// nothing when there is none, or one of another method (mxfp4, which a family reads itself). Every key that would
/// change a value and is not honoured is refused by name: unsupported.
std::optional<Quantization> read_quantization(const base::Json& config, const std::string& where);

}  // namespace coterie::checkpoint

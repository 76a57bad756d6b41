#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"

namespace coterie::checkpoint {

/// How a safetensors file of these tensors begins, and where the bytes of each lie in it: what several write together
/// in one file. TensorToWrite::produce is not called.
struct SafetensorsLayout {
  std::string head;             // its length and its header
  std::vector<int64_t> begins;  // [tensors], in the order given, from the beginning of the file
  int64_t bytes = 0;            // of the file
};
/// As write_safetensors would write them, and with its refusals; `where` is named in errors.
SafetensorsLayout lay_out_safetensors(const std::string& where, std::span<const TensorToWrite> tensors,
                                      const std::map<std::string, std::string>& metadata = {});

/// Indices of the tensors in the order in which they lie in the file: wide types first.
std::vector<size_t> safetensors_order(std::span<const TensorToWrite> tensors);

}  // namespace coterie::checkpoint

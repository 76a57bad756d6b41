#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/tensor_list.h"
#include "models/model.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

struct ConvertOptions {
  // The format of every matrix; nothing: as it is. Vectors, routers and the gate of a shared expert become f32, the
  // output matrix q6_k where the format has fewer than 8 bits, and rows that are no whole number of blocks what
  // models::fitting_format says.
  std::optional<tensor::DType> to = {};
  std::map<layers::Place, tensor::DType> places = {};  // of the matrices there, instead of all that
  bool tokenizer = true;
  int threads = 0;
  std::function<void(std::string_view tensor, int64_t done, int64_t all)> on_progress = {};  // in values
};

struct Converted {
  int64_t tensors = 0, file_bytes = 0;
  std::map<tensor::DType, int64_t> values;  // how many are stored in each format
  std::vector<std::string> notes;           // what the file does not hold, and why
};

/// Writes a model from a Hugging Face folder as a GGUF file, tensor by tensor, so that a model larger than memory
/// passes through; under a temporary name until it is whole. The tokenizer goes along (text::to_gguf), as
/// tokenizer.json where GGUF has no words for it.
///
/// Before anything is written the metadata is read back: refused (unsupported, naming the field) is a model that
/// GGUF's keys of its architecture cannot say, an architecture that GGUF has not, a router below 8 bits, a format no
/// weight can have; and (bad_input) a model that is a GGUF file already. Throws io when the file cannot be written;
/// then there is none.
Converted convert(const models::Model& model, const std::filesystem::path& out, const ConvertOptions& options);

}  // namespace coterie::surgery

#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"

namespace coterie::checkpoint {

/// A tensor to be written: its bytes are asked for when their turn comes, piece by piece, so that a file larger than
/// memory can be written.
struct TensorToWrite {
  std::string name;
  tensor::DType dtype;
  tensor::Shape shape;  // PyTorch's order
  /// Calls `write` with consecutive pieces that together are exactly the tensor's bytes.
  std::function<void(const std::function<void(std::span<const std::byte>)>& write)> produce;
};

/// Written under a temporary name and renamed. Throws io (disk full) with nothing left behind; unsupported for dtypes
/// the format has no name for; bad_input for names given twice and shapes that do not fit their dtype; internal when a
/// tensor produces more or fewer bytes than its shape takes. Wide types come first in the file, each aligned to its
/// element, as the reference library orders them.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// GGUF v3, alignment 32; refusals as above, and for names of more than 63 bytes or shapes of more than 4 dimensions,
/// which ggml does not read. Metadata is written in the width other readers expect: integers in 32 bits where they
/// fit, a double as f32 where that loses nothing, else as f64. Most keys of models are f32 by convention: round such a
/// value to float first.
void write_gguf(const std::filesystem::path& path, std::span<const TensorToWrite> tensors, const Metadata& metadata);

}  // namespace coterie::checkpoint

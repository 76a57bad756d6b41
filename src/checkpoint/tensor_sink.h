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

/// Written under a temporary name and renamed. Throws io (disk full) with nothing left behind.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// GGUF v3, alignment 32.
void write_gguf(const std::filesystem::path& path, std::span<const TensorToWrite> tensors, const Metadata& metadata);

}  // namespace coterie::checkpoint

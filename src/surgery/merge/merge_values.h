#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "threads/pool.h"

namespace coterie::surgery {

using WriteBytes = std::function<void(std::span<const std::byte>)>;

/// f32, f16 or bf16: what is merged.
bool is_plain_float(tensor::DType dtype);
/// All values of a tensor.
std::vector<float> decoded_values(const checkpoint::TensorInfo& info, threads::Pool& pool);
/// Writes them in `dtype`, piece by piece.
void write_values(const std::vector<float>& values, tensor::DType dtype, threads::Pool& pool, const WriteBytes& write);

/// The number behind "layers." (or "blocks.") in a tensor's name, and where its digits are; -1 where there is none.
struct LayerInName {
  int64_t layer = -1;
  size_t first = 0, size = 0;
};
LayerInName layer_in_name(std::string_view name);

}  // namespace coterie::surgery

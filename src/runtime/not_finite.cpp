#include "runtime/not_finite.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "quant/codec.h"

namespace coterie::runtime {

std::string first_not_finite(const checkpoint::TensorSource& source) {
  std::vector<float> values;
  for (const checkpoint::TensorInfo& tensor : source.tensors()) {
    const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (!tensor::info(tensor.dtype).weight || cols == 0) continue;
    const int64_t bytes = tensor::row_bytes(tensor.dtype, cols);
    values.resize(static_cast<size_t>(cols));
    for (int64_t row = 0; (row + 1) * bytes <= std::ssize(tensor.bytes); ++row) {
      quant::decode(tensor.dtype, tensor.bytes.data() + row * bytes, values.data(), cols);
      for (const float value : values)
        if (!std::isfinite(value)) return fmt::format("{} holds {} in row {}", tensor.name, value, row);
    }
  }
  return {};
}

}  // namespace coterie::runtime

#include "surgery/merge/merge_values.h"

#include <algorithm>
#include <charconv>

#include "quant/codec.h"

namespace coterie::surgery {

bool is_plain_float(tensor::DType dtype) {
  return dtype == tensor::DType::f32 || dtype == tensor::DType::f16 || dtype == tensor::DType::bf16;
}

std::vector<float> decoded_values(const checkpoint::TensorInfo& info, threads::Pool& pool) {
  const int64_t count = tensor::element_count(info.shape);
  std::vector<float> values(static_cast<size_t>(count));
  pool.split(count, 64, [&](int64_t begin, int64_t end, int) {
    quant::decode(info.dtype, info.bytes.data() + tensor::row_bytes(info.dtype, begin), values.data() + begin,
                  end - begin);
  });
  return values;
}

void write_values(const std::vector<float>& values, tensor::DType dtype, threads::Pool& pool, const WriteBytes& write) {
  constexpr int64_t kPieceValues = 1 << 20;
  std::vector<std::byte> out;
  for (int64_t first = 0; first < std::ssize(values); first += kPieceValues) {
    const int64_t count = std::min(kPieceValues, std::ssize(values) - first);
    out.resize(static_cast<size_t>(tensor::row_bytes(dtype, count)));
    pool.split(count, 64, [&](int64_t begin, int64_t end, int) {
      quant::encode(dtype, values.data() + first + begin, out.data() + tensor::row_bytes(dtype, begin), end - begin);
    });
    write(out);
  }
}

LayerInName layer_in_name(std::string_view name) {
  for (const std::string_view before : {"layers.", "blocks."}) {
    const size_t at = name.find(before);
    if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.')) continue;
    const std::string_view digits = name.substr(at + before.size());
    int64_t layer = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (error == std::errc() && layer >= 0)
      return {layer, at + before.size(), static_cast<size_t>(end - digits.data())};
  }
  return {};
}

}  // namespace coterie::surgery

#include "checkpoint/quantized_pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "quant/scaled_blocks.h"
#include "tensor/half.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using tensor::DType;

namespace {

template <typename T>
T at(const TensorInfo& info, int64_t i) {
  T value;
  std::memcpy(&value, info.bytes.data() + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

[[noreturn]] void refuse_value(const TensorInfo& info, std::string_view what) {
  base::fail(ErrorKind::bad_input, info.name, "holds {}: the file is damaged, or was not made for this", what);
}

float scale_of_fp8(const TensorInfo& info, int64_t i) {
  const float scale = info.dtype == DType::f32    ? at<float>(info, i)
                      : info.dtype == DType::bf16 ? tensor::bf16_to_f32(at<uint16_t>(info, i))
                                                  : std::ldexp(1.0f, at<uint8_t>(info, i) - 127);
  if (!std::isfinite(scale)) refuse_value(info, "a scale that is not finite");
  return scale;
}

void put_fp8(const QuantizedTensor& tensor, std::byte* target) {
  using Block = quant::BlockFp8<64>;
  const int64_t across = (tensor.cols + tensor.block_cols - 1) / tensor.block_cols;
  const int64_t down = (tensor.rows + tensor.block_rows - 1) / tensor.block_rows;
  const auto* codes = reinterpret_cast<const uint8_t*>(tensor.codes->bytes.data());
  for (int64_t m = 0; m < tensor.matrices; ++m)
    for (int64_t r = 0; r < tensor.rows; ++r) {
      const int64_t first = (m * down + r / tensor.block_rows) * across;
      for (int64_t c = 0; c < tensor.cols; c += Block::kValues, codes += Block::kValues, target += sizeof(Block)) {
        Block block;
        block.scale = scale_of_fp8(*tensor.scales, first + c / tensor.block_cols);
        std::memcpy(block.codes, codes, sizeof block.codes);
        for (const uint8_t code : block.codes)
          if ((code & 0x7f) == quant::kFp8Nan) refuse_value(*tensor.codes, "NaN");
        std::memcpy(target, &block, sizeof block);
      }
    }
}

/// The codes, scales and zeros of one matrix by row, column and group, whatever their order in the file.
class Integers {
 public:
  explicit Integers(const QuantizedTensor& tensor, int64_t matrix)
      : tensor_(tensor), per_word_(32 / tensor.bits), mask_((1u << tensor.bits) - 1), matrix_(matrix) {}

  uint32_t code(int64_t row, int64_t col) const {
    const TensorInfo& info = *tensor_.codes;
    switch (tensor_.order) {
      case Order::int8:
        return static_cast<uint8_t>(at<int8_t>(info, (matrix_ * tensor_.rows + row) * tensor_.cols + col)) ^ 0x80u;
      case Order::packed: {
        const int64_t words = (tensor_.cols + per_word_ - 1) / per_word_;
        return part(at<uint32_t>(info, (matrix_ * tensor_.rows + row) * words + col / per_word_), col % per_word_);
      }
      case Order::gptq: return part(at<uint32_t>(info, col / per_word_ * tensor_.rows + row), col % per_word_);
      case Order::awq: return part(at<uint32_t>(info, col * (tensor_.rows / 8) + row / 8), place_of_awq(row % 8));
      case Order::fp8: break;
    }
    return 0;
  }
  /// `count` codes of a row from `col` on, as a block has them: whole words in most orders.
  void codes(int64_t row, int64_t col, int64_t count, uint8_t* out) const {
    const int64_t each = count / per_word_;
    if (tensor_.order == Order::packed && tensor_.cols % per_word_ == 0) {
      const int64_t word = (matrix_ * tensor_.rows + row) * (tensor_.cols / per_word_) + col / per_word_;
      std::memcpy(out, tensor_.codes->bytes.data() + 4 * word, static_cast<size_t>(4 * each));
    } else if (tensor_.order == Order::gptq) {
      const std::byte* word = tensor_.codes->bytes.data() + 4 * (col / per_word_ * tensor_.rows + row);
      for (int64_t i = 0; i < each; ++i, word += 4 * tensor_.rows, out += 4) std::memcpy(out, word, 4);
    } else {
      for (int64_t i = 0; i < count; i += 8 / tensor_.bits) {
        uint32_t byte = code(row, col + i);
        if (tensor_.bits == 4) byte |= code(row, col + i + 1) << 4;
        *out++ = static_cast<uint8_t>(byte);
      }
    }
  }
  /// Those of any columns.
  void codes_of(int64_t row, const int32_t* columns, int64_t count, uint8_t* out) const {
    for (int64_t i = 0; i < count; i += 8 / tensor_.bits) {
      uint32_t byte = code(row, columns[i]);
      if (tensor_.bits == 4) byte |= code(row, columns[i + 1]) << 4;
      *out++ = static_cast<uint8_t>(byte);
    }
  }
  /// What is taken off the codes.
  int zero(int64_t row, int64_t group) const {
    if (!tensor_.zeros) return 1 << (tensor_.bits - 1);
    const TensorInfo& info = *tensor_.zeros;
    switch (tensor_.order) {
      case Order::int8: return at<int8_t>(info, (matrix_ * tensor_.rows + row) * tensor_.groups + group) + 128;
      case Order::packed: {
        const int64_t words = (tensor_.rows + per_word_ - 1) / per_word_;
        return static_cast<int>(
            part(at<uint32_t>(info, (matrix_ * words + row / per_word_) * tensor_.groups + group), row % per_word_));
      }
      case Order::gptq:
        return static_cast<int>(
                   part(at<uint32_t>(info, group * (tensor_.rows / per_word_) + row / per_word_), row % per_word_)) +
               (tensor_.zeros_less_one ? 1 : 0);
      case Order::awq:
        return static_cast<int>(part(at<uint32_t>(info, group * (tensor_.rows / 8) + row / 8), place_of_awq(row % 8)));
      case Order::fp8: break;
    }
    return 0;
  }
  uint16_t scale(int64_t row, int64_t group) const {
    const bool by_group = tensor_.order == Order::gptq || tensor_.order == Order::awq;
    const uint16_t bits =
        at<uint16_t>(*tensor_.scales,
                     by_group ? group * tensor_.rows + row : (matrix_ * tensor_.rows + row) * tensor_.groups + group);
    const bool half = tensor_.scales->dtype == DType::f16;
    if (!std::isfinite(half ? tensor::f16_to_f32(bits) : tensor::bf16_to_f32(bits)))
      refuse_value(*tensor_.scales, "a scale that is not finite");
    return bits;
  }

 private:
  using Order = QuantizedTensor::Order;
  uint32_t part(uint32_t word, int64_t i) const { return word >> (tensor_.bits * static_cast<int>(i)) & mask_; }
  /// Which nibble of a word has column i of eight: the even ones come first.
  static int64_t place_of_awq(int64_t i) { return i / 2 + (i % 2 == 0 ? 0 : 4); }

  const QuantizedTensor& tensor_;
  int per_word_;
  uint32_t mask_;
  int64_t matrix_;
};

/// Rows at once: their codes lie side by side in the files of GPTQ and AWQ, so that lines are read once.
constexpr int64_t kRowsAtOnce = 16;

template <int kBits, int kValues>
void put_blocks(const QuantizedTensor& tensor, std::byte* target) {
  using Block = quant::BlockInt<kBits, kValues>;
  const int64_t blocks = tensor.cols / kValues, row_bytes = blocks * static_cast<int64_t>(sizeof(Block));
  const int64_t group = tensor.cols / tensor.groups;
  for (int64_t m = 0; m < tensor.matrices; ++m) {
    const Integers integers(tensor, m);
    for (int64_t first = 0; first < tensor.rows; first += kRowsAtOnce)
      for (int64_t b = 0; b < blocks; ++b)
        for (int64_t r = first; r < std::min(first + kRowsAtOnce, tensor.rows); ++r) {
          Block block;
          block.scale = integers.scale(r, b * kValues / group);
          block.zero = static_cast<int16_t>(integers.zero(r, b * kValues / group));
          if (tensor.columns)
            integers.codes_of(r, tensor.columns + b * kValues, kValues, block.codes);
          else
            integers.codes(r, b * kValues, kValues, block.codes);
          std::memcpy(target + (m * tensor.rows + r) * row_bytes + b * static_cast<int64_t>(sizeof(Block)), &block,
                      sizeof block);
        }
  }
}

/// Groups of different lengths: as the floats that the reference makes of them.
void put_floats(const QuantizedTensor& tensor, std::byte* target) {
  const bool half = tensor.dtype == DType::f16;
  std::vector<int64_t> group_of(static_cast<size_t>(tensor.cols));
  for (int64_t c = 0; c < tensor.cols; ++c) {
    const int32_t group = at<int32_t>(*tensor.indices, c);
    if (group < 0 || group >= tensor.groups) refuse_value(*tensor.indices, fmt::format("group {}", group));
    group_of[static_cast<size_t>(c)] = group;
  }
  const Integers integers(tensor, 0);
  for (int64_t r = 0; r < tensor.rows; ++r) {
    std::vector<std::pair<float, int>> groups;
    for (int64_t g = 0; g < tensor.groups; ++g) {
      const uint16_t bits = integers.scale(r, g);
      groups.emplace_back(half ? tensor::f16_to_f32(bits) : tensor::bf16_to_f32(bits), integers.zero(r, g));
    }
    for (int64_t c = 0; c < tensor.cols; ++c, target += 2) {
      const auto [scale, zero] = groups[static_cast<size_t>(group_of[static_cast<size_t>(c)])];
      const float value = scale * static_cast<float>(static_cast<int>(integers.code(r, c)) - zero);
      const uint16_t bits = half ? tensor::f32_to_f16(value) : tensor::f32_to_bf16(value);
      std::memcpy(target, &bits, 2);
    }
  }
}

}  // namespace

void put_together(const QuantizedTensor& tensor, std::byte* target) {
  switch (tensor.dtype) {
    case DType::fp8_64:
    case DType::fp8_64_bf16: return put_fp8(tensor, target);
    case DType::int4_64_f16:
    case DType::int4_64_bf16: return put_blocks<4, 64>(tensor, target);
    case DType::int4_32_f16:
    case DType::int4_32_bf16: return put_blocks<4, 32>(tensor, target);
    case DType::int8_64_f16:
    case DType::int8_64_bf16: return put_blocks<8, 64>(tensor, target);
    case DType::int8_32_f16:
    case DType::int8_32_bf16: return put_blocks<8, 32>(tensor, target);
    case DType::f16:
    case DType::bf16: return put_floats(tensor, target);
    default: break;
  }
  base::fail(ErrorKind::internal, "quantised tensor", "{} has no case", tensor::name(tensor.dtype));
}

}  // namespace coterie::checkpoint

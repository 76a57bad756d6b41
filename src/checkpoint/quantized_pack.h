#pragma once

#include <cstddef>
#include <cstdint>

#include "checkpoint/tensor_source.h"

// From the tensors of a quantised matrix, each in the order of its method, to the blocks of quant/scaled_blocks.h.
namespace coterie::checkpoint {

/// A matrix [rows, cols], or a stack of them, in pieces. Shapes and types have been checked.
struct QuantizedTensor {
  enum class Order {
    fp8,     // codes f8 [rows, cols]; scales by blocks of block_rows x block_cols, f32, bf16 or u8 (2^(n - 127))
    int8,    // codes i8 [rows, cols]; scales [rows, groups], zeros i8 likewise or none
    packed,  // codes in words [rows, cols * bits / 32]; scales [rows, groups]; zeros [rows * bits / 32, groups] or none
    gptq,    // codes in words [cols * bits / 32, rows]; scales [groups, rows]; zeros [groups, rows * bits / 32]
    awq,     // codes in words [cols, rows / 8], the even columns of eight first; scales and zeros [groups, rows …]
  };
  Order order = Order::fp8;
  int bits = 8;
  int64_t rows = 0, cols = 0, matrices = 1;
  int64_t groups = 1;                      // of integers: scales along a row
  int64_t block_rows = 1, block_cols = 1;  // of fp8
  bool zeros_less_one = false;
  const TensorInfo* codes = nullptr;
  const TensorInfo* scales = nullptr;
  const TensorInfo* zeros = nullptr;    // null: the middle of the codes
  const TensorInfo* indices = nullptr;  // of each column its group, where they are not in order
  const int32_t* columns = nullptr;     // [cols], the columns in the order of their groups; null: in the files' order
  tensor::DType dtype{};  // of the blocks; or the float that products are rounded to, where groups differ in length
};

/// All of its values; `target` holds matrices * rows rows of `dtype`. Throws bad_input, naming the tensor, for a code
/// or a scale that is not finite and for an index past the groups.
void put_together(const QuantizedTensor& tensor, std::byte* target);

}  // namespace coterie::checkpoint

#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "layers/tensor_list.h"

namespace coterie::runtime {

/// The bytes that a weight's rows lie in, gaps between them included.
std::span<const std::byte> extent(const tensor::Weight& weight);

/// Points weights of a decoder elsewhere (Decoder::rebind), by where they lie: matrices one by one, stacks as a whole.
class WeightMoves final : public layers::TensorVisitor {
 public:
  /// `from`, `to`: a matrix, or all weights of a stack.
  void add(const std::vector<tensor::Weight>& from, std::vector<tensor::Weight> to, bool stack);

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) override;
  void vector(const Tensor&, int64_t, layers::Vector&) override {}
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             std::vector<tensor::Weight>& slots) override;

 private:
  struct Move {
    tensor::Weight from;
    std::vector<tensor::Weight> to;
    bool stack;
  };
  const Move* find(const tensor::Weight& slot, bool stack) const;

  std::multimap<const std::byte*, Move> moves_;
};

}  // namespace coterie::runtime

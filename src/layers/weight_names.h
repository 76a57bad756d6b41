#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/tensor_list.h"

namespace coterie::layers {

/// What a weight is, wherever its bytes lie at the moment: in the file, repacked, decoded.
struct WeightName {
  std::string path;    // "blocks.3.moe.experts.down": as visit() lists it
  int64_t layer = -1;  // 3; -1 for what is not of a block
  int64_t item = 0;    // which expert, or head, of a stack
  int64_t items = 1;   // of the stack
  Place place = Place::mixer;
};

/// The layer that a path of the list belongs to; -1 for what is not of a block.
int64_t layer_of(std::string_view path);

/// Numbers the weights of a network (tensor::Weight::name), and says what a number stands for. Numbers are given anew
/// whenever the network is bound or bound again, in the order of its list, so they stay the same.
class WeightNames {
 public:
  /// `visit` is the list of all tensors.
  void number(const std::function<void(TensorVisitor& visitor)>& visit);
  /// Null for a weight without a number: one that is not of the network's list (the factors of an adapter).
  const WeightName* find(const tensor::Weight& weight) const {
    return weight.name > 0 && weight.name <= std::ssize(names_) ? &names_[static_cast<size_t>(weight.name - 1)]
                                                                : nullptr;
  }

 private:
  std::vector<WeightName> names_;
};

}  // namespace coterie::layers

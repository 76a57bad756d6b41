#include "layers/weight_names.h"

#include <charconv>
#include <string_view>

namespace coterie::layers {

int64_t layer_of(std::string_view path) {
  constexpr std::string_view kBlocks = "blocks.";
  int64_t layer = -1;
  if (path.starts_with(kBlocks)) std::from_chars(path.data() + kBlocks.size(), path.data() + path.size(), layer);
  return layer;
}

namespace {

class Numbers final : public TensorVisitor {
 public:
  explicit Numbers(std::vector<WeightName>& names) : names_(names) {}
  void matrix(const Tensor& tensor, int64_t, int64_t, tensor::Weight& slot) override { add(tensor, 0, 1, slot); }
  void vector(const Tensor&, int64_t, Vector&) override {}
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, std::vector<tensor::Weight>& slots) override {
    for (size_t i = 0; i < slots.size(); ++i) add(tensor, static_cast<int64_t>(i), std::ssize(slots), slots[i]);
  }

 private:
  void add(const Tensor& tensor, int64_t item, int64_t items, tensor::Weight& slot) {
    names_.push_back({tensor.path, layer_of(tensor.path), item, items, tensor.place});
    slot.name = static_cast<int32_t>(names_.size());
  }
  std::vector<WeightName>& names_;
};

}  // namespace

void WeightNames::number(const std::function<void(TensorVisitor& visitor)>& visit) {
  names_.clear();
  Numbers numbers(names_);
  visit(numbers);
}

}  // namespace coterie::layers

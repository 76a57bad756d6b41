#include "models/owned_experts.h"

#include <charconv>

namespace coterie::models {

namespace {

class Owner final : public layers::TensorVisitor {
 public:
  explicit Owner(base::FunctionRef<bool(int64_t, int64_t)> owns) : owns_(owns) {}

  void matrix(const Tensor&, int64_t, int64_t, tensor::Weight&) override {}
  void vector(const Tensor&, int64_t, layers::Vector&) override {}
  void stack(const Tensor& tensor, int64_t experts, int64_t, int64_t, std::vector<tensor::Weight>& slots) override {
    if (tensor.place != layers::Place::experts) return;
    constexpr std::string_view kBlocks = "blocks.";  // "blocks.3.moe.experts.gate"
    int64_t layer = -1;
    const char* const number = tensor.path.data() + kBlocks.size();
    std::from_chars(number, tensor.path.data() + tensor.path.size(), layer);
    for (int64_t e = 0; e < experts; ++e)
      if (tensor::Weight& slot = slots[static_cast<size_t>(e)]; !owns_(layer, e)) slot = weight_elsewhere(slot.dtype);
  }

 private:
  base::FunctionRef<bool(int64_t, int64_t)> owns_;
};

}  // namespace

void own_experts(Decoder& decoder, base::FunctionRef<bool(int64_t layer, int64_t expert)> owns) {
  Owner owner(owns);
  decoder.rebind(owner);
}

}  // namespace coterie::models

#include "models/account.h"

#include <algorithm>
#include <numeric>

#include "models/network.h"

namespace coterie::models {

namespace {

class Counter : public layers::TensorReader {
 public:
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight&) override {
    add(tensor.place, rows * cols);
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override {
    if (!tensor.buffer) add(tensor.place, n);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             const std::vector<tensor::Weight>&) override {
    add(tensor.place, experts * rows * cols);
  }
  std::array<int64_t, kPlaces> held{};

 private:
  void add(Place place, int64_t count) { held[static_cast<size_t>(place)] += count; }
};

constexpr auto kExperts = static_cast<size_t>(Place::experts), kMixer = static_cast<size_t>(Place::mixer);

}  // namespace

Account account(const ModelSpec& spec, tensor::DType cache_dtype) {
  Network network(spec);
  Counter whole;
  network.read(whole);
  Account result;
  result.held = result.active = whole.held;
  result.active[kExperts] = 0;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    Counter counter;
    network.read_block(counter, i);
    Account::Layer layer{counter.held, counter.held};
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn))
      // As if a token went to none without weights.
      layer.active[kExperts] = layer.held[kExperts] / moe->experts_with_weights() *
                               std::min(moe->router.experts_per_token, moe->experts_with_weights());
    result.active[kExperts] += layer.active[kExperts];
    // A token passes K experts within attention as well, each with a query projection and an output one.
    if (const auto* attention = std::get_if<layers::AttentionSpec>(&spec.blocks[i].mixer);
        attention && attention->experts) {
      const layers::RouterSpec& router = *attention->experts;
      const int64_t idle = (router.experts - router.experts_per_token) * attention->kv_heads *
                           (attention->head_dim + attention->value_dim) * spec.width;
      layer.active[kMixer] -= idle, result.active[kMixer] -= idle;
    }
    result.layers.push_back(layer);
  }
  for (int64_t floats : state_floats(spec)) result.state_bytes += floats * static_cast<int64_t>(sizeof(float));
  for (int64_t bytes : cache_block_bytes(spec, cache_dtype)) result.cache_bytes_per_token += bytes / ops::kCacheBlock;
  return result;
}

int64_t Account::total() const { return std::accumulate(held.begin(), held.end(), int64_t{0}); }
int64_t Account::total_active() const { return std::accumulate(active.begin(), active.end(), int64_t{0}); }

}  // namespace coterie::models

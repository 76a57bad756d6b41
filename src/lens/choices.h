#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layers/observer.h"
#include "models/spec.h"

namespace coterie::lens {

/// The routers of a model, as their choices are counted.
struct RouterShape {
  std::vector<int32_t> layers;                    // [L] numbers of the blocks that have a router, ascending
  std::vector<int32_t> experts;                   // [L] E of each
  int64_t choices = 0;                            // K: places a token has in each layer, the most of any layer
  std::vector<layers::RouterSpec::Score> scores;  // [L]

  int64_t count() const { return std::ssize(layers); }
  bool operator==(const RouterShape&) const = default;
};
/// Throws unsupported, saying why, for a model without routers and for a Soft MoE, which sends no token anywhere.
RouterShape router_shape(const models::ModelSpec& spec);

/// What the routers decided for N tokens, in the order of the batch.
struct Choices {
  std::vector<int16_t> experts;  // [N, L, K] best first; -1 behind the last
  std::vector<float> weights;    // [N, L, K] what the experts' outputs are multiplied by; 0 behind the last
  std::vector<float> entropy;    // [N, L] of the router's scores as shares, in nats
};

/// Gathers, step by step, what the routers of one model decide. Of what a capacity dropped nothing is left.
class ChoiceRecorder : public layers::Observer {
 public:
  explicit ChoiceRecorder(RouterShape shape);
  const RouterShape& shape() const { return shape_; }

  void routed(const layers::Routed& router) override;
  /// Of the steps since the last clear(): all layers of each have been seen.
  const Choices& choices() const { return choices_; }
  int64_t tokens() const { return tokens_; }
  void clear();

 private:
  RouterShape shape_;
  std::vector<int64_t> index_;  // of a block's number in shape_.layers, or -1
  Choices choices_;
  int64_t tokens_ = 0, begun_ = 0;  // of steps that all layers have been seen of; and of the one that goes on
  std::vector<int16_t> expert_of_slot_;
};

/// The entropy of a router's scores as shares of their sum, in nats; of a softmax the scores are its probabilities. In
/// f32, to about 1e-6.
float score_entropy(layers::RouterSpec::Score score, std::span<const float> logits);

}  // namespace coterie::lens

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "families/ensemble/gate.h"
#include "families/open.h"

namespace coterie::families {

/// The models of a gate as one decoder, so that whatever runs a model runs them: their layers are one after another in
/// a sequence's state, and all of them read every token. The logits of a position are
///
///   log Σ_i g_i softmax(logits_i) + Σ_i g_i log Σ exp(logits_i)
///
/// whose softmax is the mixture Σ_i g_i p_i; the second term gives them the level that the models' own have. Where one
/// model has all the weight they are that model's, to the bit. The vocabulary is the smallest of the models', which may
/// be padded differently. A sum over models is taken in their order by one task, so that no bit depends on threads.
class EnsembleDecoder final : public models::Decoder {
 public:
  /// Throws bad_input for a gate whose rows are not as wide as the reader's states.
  EnsembleDecoder(std::vector<Model> models, Gate gate);

  const models::ModelSpec& spec() const override { return spec_; }
  tensor::Matrix forward(ops::Context& context, std::span<const models::SequenceStep> steps,
                         const models::PassOptions& options) const override;
  /// Refused: a gate is fitted by `coterie gate`, its models are trained one by one.
  double loss(ops::Context& context, std::span<const models::SequenceStep> steps,
              const models::PassOptions& options) const override;
  /// Walks the models one after another.
  void read(layers::TensorReader& reader) const override;
  void rebind(layers::TensorVisitor& visitor) override;
  void weights_changed() override;
  bool cache_holds(int64_t before, int64_t after) const override;

  const Gate& gate() const { return gate_; }
  std::span<const Model> models() const { return models_; }
  /// The number of model i's first layer among those of all.
  int64_t first_layer(int64_t i) const { return first_layer_[static_cast<size_t>(i)]; }
  /// While set, the reader alone goes through a step, for an observer: the other models' states stay as they are, and
  /// logits must not be asked for. So a prompt gate reads with the model that is open already.
  void read_alone(bool on) { reads_alone_ = on; }
  /// Weights [N] for every position, in place of the gate's: those of a prompt.
  void fix(std::vector<double> weights);
  /// Hears the weights [rows, N] of all logits that are made: from now on, or as long as what is returned lives.
  using OnWeights = std::function<void(tensor::ConstMatrix weights)>;
  void listen(OnWeights on_weights) { for_ever_.push_back(listen_while(std::move(on_weights))); }
  [[nodiscard]] std::shared_ptr<const OnWeights> listen_while(OnWeights on_weights);

 private:
  /// Writes the weights that are known before the reader has read; of each row of logits whether the gate is to say.
  std::vector<char> known_weights(std::span<const models::SequenceStep> steps, tensor::Matrix weights) const;
  /// Model i's logits of the step; `reader` may be null.
  tensor::Matrix forward_one(ops::Context& context, int64_t i, std::span<const models::SequenceStep> steps,
                             const models::PassOptions& options, layers::Observer* reader) const;

  std::vector<Model> models_;
  std::vector<int64_t> first_layer_;  // [N]
  Gate gate_;
  models::ModelSpec spec_;
  std::vector<double> fixed_;
  bool reads_alone_ = false;
  std::vector<std::weak_ptr<const OnWeights>> listeners_;
  std::vector<std::shared_ptr<const OnWeights>> for_ever_;
};

}  // namespace coterie::families

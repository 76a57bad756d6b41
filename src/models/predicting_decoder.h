#pragma once

#include <cstdint>
#include <memory>

#include "models/bound_decoder.h"

namespace coterie::models {

/// A model and its head for multi-token prediction as one decoder, so that both are trained in one pass (DeepSeek-V3,
/// arXiv:2412.19437, section 2.2). Its loss is the model's, to which the gradient of `weight` times the head's is
/// added: from the model's state after its final norm at a position and the embedding of the next token, the head
/// says the token after that one. The embedding and the output embeddings are the model's, and get both gradients.
///
/// The head's block counts as one more layer after the model's last, in states, for observers and in balance losses.
/// Its tensors are listed after the model's as prediction.…: prediction.projection, prediction.blocks.L.…,
/// prediction.final_norm.
class PredictingDecoder final : public Decoder {
 public:
  /// `head`: of a spec as families::prediction_spec makes it, of the same widths and vocabulary. `trains_model`: false
  /// where only the head is trained, so that no gradient is taken through the model.
  PredictingDecoder(std::unique_ptr<Decoder> model, std::unique_ptr<BoundDecoder> head, double weight,
                    bool trains_model);

  /// The model's, with the head's block after the last and what the head begins with (ModelSpec::prediction).
  const ModelSpec& spec() const override { return spec_; }
  /// The model's, without the head.
  tensor::Matrix forward(ops::Context& context, std::span<const SequenceStep> steps,
                         const PassOptions& options) const override {
    return model_->forward(context, steps, options);
  }
  /// The model's loss; what the head's was is added to head_loss(). The steps' ids are taken to be followed by each
  /// other, and a token is scored by the head where the model is scored for it.
  double loss(ops::Context& context, std::span<const SequenceStep> steps, const PassOptions& options) const override;
  void expert_outputs(ops::Context& context, int64_t layer, const ops::FormedRows& x, const ops::RoutingPlan& plan,
                      std::span<const int32_t> ids, tensor::Matrix out) const override {
    model_->expert_outputs(context, layer, x, plan, ids, out);
  }
  void read(layers::TensorReader& reader) const override;
  void rebind(layers::TensorVisitor& visitor) override;
  void weights_changed() override;
  bool cache_holds(int64_t before, int64_t after) const override { return model_->cache_holds(before, after); }

  const Decoder& model() const { return *model_; }
  const BoundDecoder& head() const { return *head_; }

  /// Σ -log p of the head over the tokens it was scored for, since the last take_head_loss().
  struct HeadLoss {
    double sum = 0;
    int64_t scored = 0;
    double mean() const { return scored > 0 ? sum / static_cast<double>(scored) : 0; }
  };
  HeadLoss take_head_loss() const;

 private:
  std::unique_ptr<Decoder> model_;
  std::unique_ptr<BoundDecoder> head_;
  double weight_;
  bool trains_model_;
  ModelSpec spec_;
  mutable HeadLoss head_loss_;  // a training run's, which calls loss() from one thread
};

/// Whether a listed tensor is the head's own, by its path.
bool is_of_prediction_head(std::string_view path);

}  // namespace coterie::models

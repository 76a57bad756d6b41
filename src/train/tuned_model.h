#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "families/adapter/adapter.h"
#include "families/open.h"
#include "models/account.h"
#include "models/parameters.h"
#include "train/trainee.h"
#include "train/tune_recipe.h"

namespace coterie::train {

/// The model that a run tunes, and what of it is trained: some of its weights, or an adapter over them. What is frozen
/// stays mapped from its files, in their format, and has neither gradient nor moments.
class TunedModel final : public Trainee {
 public:
  /// Opens the model, and with a `checkpoint` of the run what it holds: the adapter, or for full tuning the model.
  /// `prediction_loss` above 0 trains the head for multi-token prediction that the files hold, too. `owns`: the experts
  /// that are computed here, on a rank of several; null: all. Throws what open_model, Adapter and trainable() throw,
  /// and unsupported for full tuning of a .gguf.
  TunedModel(const TuneRecipe& recipe, uint64_t seed, const std::filesystem::path& checkpoint,
             double prediction_loss = 0,
             const std::function<bool(int64_t layer, int64_t expert, int64_t experts)>& owns = {});

  /// Throws unsupported where the model has none.
  const text::Tokenizer& tokenizer() const;
  const text::ChatTemplate* chat_template() const { return base_.chat_template ? &*base_.chat_template : nullptr; }
  /// The tokenizer's folder, for checkpoints that are models; empty when they are adapters.
  std::filesystem::path vocabulary() const;

  /// With the adapter attached.
  models::Decoder& decoder() override { return *base_.decoder; }
  const models::PredictingDecoder* predicting() const override { return predicting_; }
  std::unique_ptr<models::Parameters> parameters(models::Parameters::Own own) override;
  void weights_changed() override;
  base::Json config() const override;
  bool trains_routers() const override;
  base::Json trainable() const override;
  /// Forward and the gradients of activations for all weights, the gradients of those that are trained.
  double flops_per_token(const models::Account& account) const override;
  void write(const std::filesystem::path& folder, const std::filesystem::path& vocabulary, const std::string& name,
             const families::ReadExpert& elsewhere) const override;
  bool holds_all() const override { return adapter_.has_value(); }

 private:
  TuneRecipe recipe_;
  families::Model base_;
  std::optional<families::Model> head_;                    // for multi-token prediction, where it is trained
  const models::PredictingDecoder* predicting_ = nullptr;  // the decoder, where it is one
  std::optional<families::Adapter> adapter_;
  std::array<int64_t, layers::kPlaces> trainable_{};
};

/// What a run's recipe.json says of the model that is tuned, so that a run goes on over the same: where it is, how many
/// bytes it has, and a fingerprint of its weights: of names, formats and shapes, and of samples of the bytes of each
/// tensor, all of them where they are not many.
base::Json describe_base(const std::filesystem::path& model);

}  // namespace coterie::train

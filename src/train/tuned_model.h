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
#include "train/tune_recipe.h"

namespace coterie::train {

/// The model that a run tunes, and what of it is trained: some of its weights, or an adapter over them. What is frozen
/// stays mapped from its files, in their format, and has neither gradient nor moments.
class TunedModel {
 public:
  /// Opens the model, and with a `checkpoint` of the run what it holds: the adapter, or for full tuning the model.
  /// Throws what open_model, Adapter and trainable() throw, and unsupported for full tuning of a .gguf.
  TunedModel(const TuneRecipe& recipe, uint64_t seed, const std::filesystem::path& checkpoint);

  /// Throws unsupported where the model has none.
  const text::Tokenizer& tokenizer() const;
  const text::ChatTemplate* chat_template() const { return base_.chat_template ? &*base_.chat_template : nullptr; }
  /// Of a folder, for checkpoints that are models; empty when those are adapters.
  std::filesystem::path vocabulary() const;

  /// The decoder, with the adapter laid over it. It points into this.
  std::unique_ptr<models::Decoder> take_decoder() { return std::move(base_.decoder); }
  std::unique_ptr<models::Parameters> parameters(models::Decoder& decoder);
  const std::array<int64_t, layers::kPlaces>& trainable() const { return trainable_; }
  /// Its config.json; empty for a .gguf.
  base::Json config() const;
  /// Floating point operations that training takes for a token, about: forward and the gradients of activations for
  /// all weights, the gradients of those that are trained.
  double flops_per_token(const models::Account& account) const;

  /// After the trained values were changed.
  void weights_changed(models::Decoder& decoder);
  /// Puts the files of the result into a folder: an adapter's, or those of a Hugging Face model called `name` with the
  /// vocabulary's files from `vocabulary`.
  void write(const std::filesystem::path& folder, const models::Decoder& decoder,
             const std::filesystem::path& vocabulary, const std::string& name) const;

 private:
  TuneRecipe recipe_;
  families::Model base_;
  std::optional<families::Adapter> adapter_;
  std::array<int64_t, layers::kPlaces> trainable_{};
};

/// What a run's recipe.json says of the model that is tuned, so that a run goes on over the same: where it is, how many
/// bytes it has, and a fingerprint of its weights: of names, formats and shapes, and of samples of the bytes of each
/// tensor, all of them where they are not many.
base::Json describe_base(const std::filesystem::path& model);

}  // namespace coterie::train

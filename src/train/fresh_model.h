#pragma once

#include <cstdint>
#include <optional>

#include "families/open.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/trainee.h"

namespace coterie::train {

/// The slots of an expert where the mixtures of tokens are soft; all layers with experts have one router spec.
std::optional<int64_t> soft_slots(const models::ModelSpec& spec);

/// A model that a run makes of its recipe's config: drawn anew, or read from a checkpoint of the run.
class FreshModel final : public Trainee {
 public:
  /// Writes config.json into the run's folder where this process is the one that `writes`, or reads what that one has
  /// written; `vocabulary` is its vocab_size where the recipe does not say one, and `taken` the step of the checkpoint
  /// that is taken up. `share`: of the experts, that are trained here. Throws what families::read_spec and open_model
  /// throw; out_of_memory; bad_input for a config that asks for its family's own balance loss; what prediction_spec
  /// throws where the recipe trains a head for multi-token prediction.
  FreshModel(const Recipe& recipe, const RunFolder& folder, std::optional<int64_t> taken, int64_t vocabulary,
             bool writes = true, double share = 1);

  models::Decoder& decoder() override { return *decoder_; }
  const models::PredictingDecoder* predicting() const override { return predicting_; }
  std::unique_ptr<models::Parameters> parameters(models::Parameters::Own own) override;
  void weights_changed() override;
  base::Json config() const override { return config_; }
  bool trains_routers() const override { return true; }
  base::Json trainable() const override { return nullptr; }
  double flops_per_token(const models::Account& account) const override;
  void write(const std::filesystem::path& folder, const std::filesystem::path& vocabulary, const std::string& name,
             const families::ReadExpert& elsewhere) const override;
  bool holds_all() const override { return false; }

 private:
  const Recipe& recipe_;
  base::Json config_;
  std::optional<families::Model> opened_, opened_head_;  // until their weights are copied
  std::unique_ptr<models::Decoder> decoder_;
  const models::PredictingDecoder* predicting_ = nullptr;  // the decoder, where it is one
};

}  // namespace coterie::train

#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "families/weights/export.h"
#include "models/account.h"
#include "models/decoder.h"
#include "models/parameters.h"
#include "models/predicting_decoder.h"

namespace coterie::train {

/// What a run trains: a model that is made (FreshModel), or one that is tuned (TunedModel). The trainer does the same
/// with both.
class Trainee {
 public:
  virtual ~Trainee() = default;

  virtual models::Decoder& decoder() = 0;
  /// The same where a head for multi-token prediction is trained with it; null where none is.
  virtual const models::PredictingDecoder* predicting() const = 0;
  /// The values that are trained, with their gradients; asked for once. Of a layer's routed experts those that `own`
  /// names: a rank of several trains a part. Throws out_of_memory.
  virtual std::unique_ptr<models::Parameters> parameters(models::Parameters::Own own) = 0;
  /// After the trained values were changed.
  virtual void weights_changed() = 0;

  /// Its config.json; empty for a .gguf.
  virtual base::Json config() const = 0;
  /// Whether a step moves the routers' weights.
  virtual bool trains_routers() const = 0;
  /// The number of trained values by place (models::name), where that is not all; else null.
  virtual base::Json trainable() const = 0;
  /// Floating point operations that training takes for a token, about.
  virtual double flops_per_token(const models::Account& account) const = 0;

  /// Puts the files of a checkpoint into a folder: an adapter's, or those of a Hugging Face model called `name` with
  /// the vocabulary's files from `vocabulary`. Matrices of experts that are not here come from `elsewhere`, but for an
  /// adapter's, whose memory has all. Throws io.
  virtual void write(const std::filesystem::path& folder, const std::filesystem::path& vocabulary,
                     const std::string& name, const families::ReadExpert& elsewhere) const = 0;
  /// Whether all values are in memory, those of others' experts as well, if not up to date (an adapter).
  virtual bool holds_all() const = 0;
};

}  // namespace coterie::train

#include "train/fresh_model.h"

#include "base/atomic_file.h"
#include "base/error.h"
#include "families/prediction.h"
#include "models/blank_decoder.h"
#include "models/initialise.h"
#include "train/checkpoint_files.h"
#include "train/run_checks.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;

std::optional<int64_t> soft_slots(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      return moe->router.selection == layers::RouterSpec::Selection::soft ? std::optional(moe->router.slots)
                                                                          : std::nullopt;
  return {};
}

FreshModel::FreshModel(const Recipe& recipe, const RunFolder& folder, std::optional<int64_t> taken, int64_t vocabulary,
                       bool writes, double share)
    : recipe_(recipe), config_(recipe.config) {
  if (!config_.contains("vocab_size")) config_["vocab_size"] = vocabulary;
  const fs::path path = folder.path() / "config.json";
  if (writes) base::write_text(path, config_.dump(2) + "\n");
  if (taken) {
    opened_ = families::open_model(folder.checkpoint(*taken));
    require_room(recipe, opened_->decoder->spec(), share);
    if (recipe.prediction_loss > 0) opened_head_ = families::open_prediction_head(*opened_);
    decoder_ = std::move(opened_->decoder);
  } else {
    families::OpenOptions strict;
    strict.strict = true;
    const models::ModelSpec spec = families::read_spec(checkpoint::resolve_model(path), strict);
    require_room(recipe, spec, share);
    decoder_ = models::blank_decoder(spec);
  }
  if (recipe.prediction_loss > 0) {
    families::require_prediction_names(decoder_->spec());
    std::unique_ptr<models::BoundDecoder> head =
        opened_head_ ? families::take_head(*opened_head_)
                     : models::blank_decoder(families::prediction_spec(decoder_->spec()));
    auto both =
        std::make_unique<models::PredictingDecoder>(std::move(decoder_), std::move(head), recipe.prediction_loss, true);
    predicting_ = both.get();
    decoder_ = std::move(both);
    require_room(recipe, decoder_->spec());
  }
  if (decoder_->spec().router_aux_loss > 0)
    throw base::Error(ErrorKind::bad_input, recipe.name, "the config asks for its family's own balance loss",
                      "set balance: loss in the recipe instead, and remove output_router_logits from the config");
}

std::unique_ptr<models::Parameters> FreshModel::parameters(models::Parameters::Own own) {
  auto made = std::make_unique<models::Parameters>(
      *decoder_, [](const layers::ListedTensor&) { return true; }, own);
  if (!opened_) {
    models::initialise(*made, decoder_->spec(), recipe_.init, recipe_.seed);
    weights_changed();
  }
  opened_.reset(), opened_head_.reset();  // every weight is a copy now
  return made;
}

void FreshModel::weights_changed() { decoder_->weights_changed(); }

double FreshModel::flops_per_token(const models::Account& account) const {
  const models::ModelSpec& spec = decoder_->spec();
  const auto active = [&](models::Place place) {
    return static_cast<double>(account.active[static_cast<size_t>(place)]);
  };
  // Forward, and backward for activations and weights. Looking an embedding up is not arithmetic; as output embeddings
  // they multiply.
  double flops = 6 * static_cast<double>(account.total_active());
  if (!spec.tied_embeddings) flops -= 6 * active(models::Place::input_embeddings);
  // Experts of a Soft MoE work on their slots, not on every token.
  if (const auto slots = soft_slots(spec))
    flops -=
        6 * active(models::Place::experts) * (1 - static_cast<double>(*slots) / static_cast<double>(recipe_.sequence));
  return flops;
}

void FreshModel::write(const fs::path& folder, const fs::path& vocabulary, const std::string& name,
                       const families::ReadExpert& elsewhere) const {
  write_model_files(folder, config_, vocabulary, *decoder_, name, elsewhere);
}

}  // namespace coterie::train

#include "train/tuned_model.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/fnv.h"
#include "base/memory.h"
#include "base/plural.h"
#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/prediction.h"
#include "train/checkpoint_files.h"
#include "train/memory_forecast.h"

namespace coterie::train {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;

namespace {

/// Whether anything but the head for multi-token prediction is tuned.
bool tunes_the_model(const TuneRecipe& recipe) {
  return std::any_of(recipe.full.begin(), recipe.full.end(), [](const auto& word) { return word != "prediction"; });
}

// Full tuning writes the frozen experts of others, too: they stay mapped, and nobody reads them before.
families::OpenOptions options_of(const TuneRecipe& recipe, const std::function<bool(int64_t, int64_t, int64_t)>& owns) {
  families::OpenOptions options;
  if (recipe.lora) options.owns_expert = owns;
  return options;
}

fs::path opened_from(const TuneRecipe& recipe, const fs::path& checkpoint) {
  return recipe.lora || checkpoint.empty() ? recipe.model : checkpoint;
}

}  // namespace

TunedModel::TunedModel(const TuneRecipe& recipe, uint64_t seed, const fs::path& checkpoint, double prediction_loss,
                       const std::function<bool(int64_t, int64_t, int64_t)>& owns)
    : recipe_(recipe), base_(families::open_model(opened_from(recipe, checkpoint), options_of(recipe, owns))) {
  if (!recipe.lora && base_.source->format() == checkpoint::Format::gguf)
    throw base::Error(ErrorKind::unsupported, recipe.model.string(),
                      "full tuning writes a Hugging Face folder, and this is a .gguf",
                      "tune the folder it was made of; or lora, which goes over any format");
  if (prediction_loss > 0) {
    if (recipe.lora)
      throw base::Error(ErrorKind::unsupported, "training: prediction_loss",
                        "an adapter has no place for a head for multi-token prediction",
                        "tune: {full: [prediction]} trains the head alone and leaves the model as it is");
    families::require_prediction_names(base_.decoder->spec());
    head_ = families::open_prediction_head(base_);
    auto both = std::make_unique<models::PredictingDecoder>(std::move(base_.decoder), families::take_head(*head_),
                                                            prediction_loss, tunes_the_model(recipe));
    predicting_ = both.get();
    base_.decoder = std::move(both);
  }
  trainable_ = train::trainable(*base_.decoder, recipe);
  const int64_t trained = std::accumulate(trainable_.begin(), trainable_.end(), int64_t{0});
  base::require_memory(parameter_bytes(trained),
                       fmt::format("tune: training {} with gradients and moments", base::plural(trained, "parameter")),
                       recipe.lora
                           ? fmt::format("a smaller rank (it is {}) or fewer targets need less", recipe.lora->rank)
                           : "fewer places under full, or lora, need less");
  if (!recipe.lora) return;
  adapter_.emplace(checkpoint.empty() ? families::Adapter::fresh(*base_.decoder, *recipe.lora, seed)
                                      : families::Adapter::load(*base_.decoder, checkpoint));
  adapter_->attach_to(*base_.decoder);
}

const text::Tokenizer& TunedModel::tokenizer() const {
  if (!base_.tokenizer)
    throw base::Error(ErrorKind::unsupported, recipe_.model.string(), base_.no_tokenizer,
                      "the data becomes tokens by the model's own tokenizer");
  return *base_.tokenizer;
}

fs::path TunedModel::vocabulary() const { return recipe_.lora ? fs::path() : base_.path.config.parent_path(); }

std::unique_ptr<models::Parameters> TunedModel::parameters(models::Parameters::Own own) {
  if (adapter_) return std::make_unique<models::Parameters>(adapter_->parameters(), own);
  return std::make_unique<models::Parameters>(
      *base_.decoder, [&](const layers::ListedTensor& tensor) { return is_tuned(recipe_, tensor); }, own);
}

double TunedModel::flops_per_token(const models::Account& account) const {
  const auto trained = static_cast<double>(std::accumulate(trainable_.begin(), trainable_.end(), int64_t{0}));
  const double active = static_cast<double>(account.total_active()), all = static_cast<double>(account.total());
  return recipe_.lora ? 4 * active + 6 * trained * active / all : 4 * active + 2 * trained * active / all;
}

void TunedModel::weights_changed() {
  if (adapter_)
    adapter_->renew();
  else
    base_.decoder->weights_changed();
}

bool TunedModel::trains_routers() const {
  return !recipe_.lora && trainable_[static_cast<size_t>(models::Place::router)] > 0;
}

Json TunedModel::trainable() const {
  Json counts = Json::object();
  for (int p = 0; p < models::kPlaces; ++p)
    if (const int64_t count = trainable_[static_cast<size_t>(p)])
      counts[std::string(models::name(static_cast<models::Place>(p)))] = count;
  return counts;
}

void TunedModel::write(const fs::path& folder, const fs::path& vocabulary, const std::string& name,
                       const families::ReadExpert& elsewhere) const {
  if (adapter_) return adapter_->save(folder, recipe_.model.string());
  // Weights that are frozen stay in their own dtype.
  write_model_files(folder, families::read_text_config(base_.path.config), vocabulary, *base_.decoder, name, elsewhere);
}

Json TunedModel::config() const {
  return base_.path.config.empty() ? Json::object() : families::read_text_config(base_.path.config);
}

namespace {

/// Over what is added.
class Fingerprint {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) value_ = base::fnv_step(value_, std::to_integer<uint64_t>(byte));
  }
  void add(std::string_view text) {
    add(std::as_bytes(std::span(text)));
    add(std::as_bytes(std::span("")));  // its end
  }
  std::string text() const { return fmt::format("{:016x}", value_); }

 private:
  uint64_t value_ = base::kFnvBegin;
};

// A tensor is looked at in spots of so many bytes, all tensors in about so many: reading them all from a disk takes
// seconds, however large the model is. A model that others wrote anew differs in every tensor it changed.
constexpr size_t kSpot = 4096, kSpots = 8192;

void add_samples(Fingerprint& fingerprint, std::span<const std::byte> bytes, size_t spots) {
  if (bytes.size() <= spots * kSpot) return fingerprint.add(bytes);
  // The first and the last spot are the beginning and the end.
  const size_t last = bytes.size() - kSpot;
  for (size_t i = 0; i < spots; ++i)
    fingerprint.add(bytes.subspan(spots == 1 ? last / 2 : last / (spots - 1) * i, kSpot));
}

std::string fingerprint_of(const checkpoint::TensorSource& source) {
  std::map<std::string, const checkpoint::TensorInfo*> by_name;  // in one order, however they are cut into files
  for (const checkpoint::TensorInfo& tensor : source.tensors()) by_name[tensor.name] = &tensor;
  const size_t spots = std::max<size_t>(kSpots / std::max<size_t>(by_name.size(), 1), 1);
  Fingerprint fingerprint;
  for (const auto& [name, tensor] : by_name) {
    fingerprint.add(name), fingerprint.add(tensor::name(tensor->dtype));
    fingerprint.add(tensor::to_string(tensor->shape));
    add_samples(fingerprint, tensor->bytes, spots);
  }
  return fingerprint.text();
}

}  // namespace

Json describe_base(const fs::path& model) {
  const auto source = checkpoint::open_source(checkpoint::resolve_model(model));
  if (!source) families::open_model(model);  // says what to name instead
  if (!source) base::fail(ErrorKind::not_found, model.string(), "there are no weights beside this config");
  return {{"path", fs::canonical(model).string()},
          {"bytes", source->file_bytes()},
          {"fingerprint", fingerprint_of(source->stored())}};
}

}  // namespace coterie::train

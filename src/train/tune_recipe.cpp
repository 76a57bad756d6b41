#include "train/tune_recipe.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "models/predicting_decoder.h"
#include "train/recipe_section.h"

namespace coterie::train {

using base::ErrorKind;
using layers::Place;
using Tensor = layers::ListedTensor;

TuneRecipe read_tune(base::JsonReader& recipe, const std::filesystem::path& model) {
  Section section(recipe, "tune", {"lora", "full", "frozen"});
  TuneRecipe tune;
  tune.model = model;
  tune.full = section.list("full");
  tune.frozen = section.list("frozen");
  if (section.keys.object("lora")) {
    Section keys(section.keys, "lora", {"targets", "rank", "alpha", "rslora", "dora", "dropout"});
    families::LoraSpec spec;
    spec.targets = keys.list("targets");
    if (spec.targets.empty())
      throw base::Error(ErrorKind::bad_input, keys.where(), "targets is missing or empty",
                        "attention, experts, shared_experts, dense_ffn, router, or parts of them: attention.q");
    spec.rank = keys.count("rank", 1, 16);
    spec.alpha = keys.number("alpha", 0, 1e6, 2.0 * static_cast<double>(spec.rank));
    spec.rslora = keys.keys.boolean("rslora", false);
    spec.dora = keys.keys.boolean("dora", false);
    spec.dropout = keys.number("dropout", 0, 0.95, 0.0);
    keys.keys.refuse_unread();
    tune.lora = std::move(spec);
  }
  section.keys.refuse_unread();
  if (tune.lora && !tune.full.empty())
    fail(ErrorKind::bad_input, section.where(), "both lora and full are given: give one of them");
  if (!tune.lora && tune.full.empty())
    throw base::Error(ErrorKind::bad_input, section.where(), "neither lora nor full is given",
                      "lora: {targets: [attention, experts]}, or full: all");
  if (tune.lora && !tune.frozen.empty())
    fail(ErrorKind::bad_input, section.where(), "frozen has no effect with lora, which changes its targets alone");
  return tune;
}

namespace {

/// The words for where a tensor is; the first is its place.
std::vector<std::string> words_of(const Tensor& tensor) {
  std::vector<std::string> words = {std::string(layers::name(tensor.place))};
  if (tensor.place == Place::mixer &&
      (tensor.path.find(".attention.") != std::string::npos || tensor.path.find(".latent.") != std::string::npos))
    words.emplace_back("attention");
  if (tensor.place == Place::input_embeddings) words.emplace_back("embeddings");
  if (tensor.place == Place::output_embeddings) words.emplace_back("head");
  if (models::is_of_prediction_head(tensor.path)) words.emplace_back("prediction");
  return words;
}

bool names(const std::vector<std::string>& words, const Tensor& tensor) {
  const std::vector<std::string> of = words_of(tensor);
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return word == "all" || std::find(of.begin(), of.end(), word) != of.end();
  });
}

class Counter : public layers::TensorReader {
 public:
  explicit Counter(const TuneRecipe& tune) : tune_(tune) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight&) override {
    add(tensor, rows * cols);
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override { add(tensor, n); }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             const std::vector<tensor::Weight>&) override {
    add(tensor, experts * rows * cols);
  }
  std::array<int64_t, layers::kPlaces> counts{};
  std::vector<std::string> known;  // words of this model

 private:
  void add(const Tensor& tensor, int64_t count) {
    for (const std::string& word : words_of(tensor))
      if (std::find(known.begin(), known.end(), word) == known.end()) known.push_back(word);
    if (!tensor.buffer && is_tuned(tune_, tensor)) counts[static_cast<size_t>(tensor.place)] += count;
  }
  const TuneRecipe& tune_;
};

}  // namespace

bool is_tuned(const TuneRecipe& tune, const Tensor& tensor) {
  return names(tune.full, tensor) && !names(tune.frozen, tensor);
}

std::array<int64_t, layers::kPlaces> trainable(const models::Decoder& decoder, const TuneRecipe& tune) {
  if (tune.lora) return families::Adapter::counts(decoder, *tune.lora);
  Counter counter(tune);
  decoder.read(counter);
  families::expect_known(tune.full, counter.known, "tune: full");
  families::expect_known(tune.frozen, counter.known, "tune: frozen");
  if (std::accumulate(counter.counts.begin(), counter.counts.end(), int64_t{0}) == 0)
    base::fail(ErrorKind::bad_input, "tune", "nothing is left to be trained");
  return counter.counts;
}

}  // namespace coterie::train

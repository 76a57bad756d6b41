#include "models/predicting_decoder.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "ops/tape.h"

namespace coterie::models {

namespace {

constexpr std::string_view kPrediction = "prediction.", kBlock = "blocks.0.";

bool is_the_models(std::string_view path) {
  return path == "embedding" || path.starts_with("embedding.") || path == "head" || path.starts_with("head.");
}

/// A tensor of the head under the path it is listed as.
layers::ListedTensor renamed(const layers::ListedTensor& tensor, int64_t layer) {
  layers::ListedTensor result = tensor;
  if (tensor.path.starts_with(kBlock))
    result.path = fmt::format("prediction.blocks.{}.{}", layer, tensor.path.substr(kBlock.size()));
  else if (!tensor.path.starts_with(kPrediction))
    result.path = std::string(kPrediction) + tensor.path;
  return result;
}

class HeadReader final : public layers::TensorReader {
 public:
  HeadReader(layers::TensorReader& to, int64_t layer) : to_(to), layer_(layer) {}
  void matrix(const Tensor& t, int64_t rows, int64_t cols, const tensor::Weight& slot) override {
    if (!is_the_models(t.path)) to_.matrix(renamed(t, layer_), rows, cols, slot);
  }
  void vector(const Tensor& t, int64_t n, const layers::Vector& slot) override {
    if (!is_the_models(t.path)) to_.vector(renamed(t, layer_), n, slot);
  }
  void stack(const Tensor& t, int64_t experts, int64_t rows, int64_t cols,
             const std::vector<tensor::Weight>& slots) override {
    to_.stack(renamed(t, layer_), experts, rows, cols, slots);
  }
  void table(const Tensor& t, int64_t rows, int64_t cols, const layers::Vector& slot) override {
    if (!is_the_models(t.path)) to_.table(renamed(t, layer_), rows, cols, slot);
  }
  void vectors(const Tensor& t, int64_t experts, int64_t n, const layers::Vector& slot) override {
    to_.vectors(renamed(t, layer_), experts, n, slot);
  }

 private:
  layers::TensorReader& to_;
  int64_t layer_;
};

/// The weights that the head has of the model.
class SharedWeights final : public layers::TensorReader {
 public:
  void matrix(const Tensor& t, int64_t, int64_t, const tensor::Weight& slot) override {
    if (t.path == "embedding") embedding = slot;
    if (t.path == "head") head = slot;
  }
  tensor::Weight embedding, head;
};

class HeadVisitor final : public layers::TensorVisitor {
 public:
  HeadVisitor(layers::TensorVisitor& to, int64_t layer, const SharedWeights& shared)
      : to_(to), layer_(layer), shared_(shared) {}
  void matrix(const Tensor& t, int64_t rows, int64_t cols, tensor::Weight& slot) override {
    if (t.path == "embedding")
      slot = shared_.embedding;
    else if (t.path == "head")
      slot = shared_.head;
    else
      to_.matrix(renamed(t, layer_), rows, cols, slot);
  }
  void vector(const Tensor& t, int64_t n, layers::Vector& slot) override { to_.vector(renamed(t, layer_), n, slot); }
  void stack(const Tensor& t, int64_t experts, int64_t rows, int64_t cols,
             std::vector<tensor::Weight>& slots) override {
    to_.stack(renamed(t, layer_), experts, rows, cols, slots);
  }
  void table(const Tensor& t, int64_t rows, int64_t cols, layers::Vector& slot) override {
    to_.table(renamed(t, layer_), rows, cols, slot);
  }
  void vectors(const Tensor& t, int64_t experts, int64_t n, layers::Vector& slot) override {
    to_.vectors(renamed(t, layer_), experts, n, slot);
  }

 private:
  layers::TensorVisitor& to_;
  int64_t layer_;
  const SharedWeights& shared_;
};

ModelSpec joined(const ModelSpec& model, const ModelSpec& head) {
  base::require(
      head.prediction && head.blocks.size() == 1 && head.width == model.width && head.vocabulary == model.vocabulary,
      "predicting decoder", "a head of width {} and {} tokens for a model of {} and {}", head.width, head.vocabulary,
      model.width, model.vocabulary);
  // Vectors lie in their layers, so that one cannot be shared by the two.
  base::require(!model.head_bias && model.learned_positions == 0 && model.shared.empty(), "predicting decoder",
                "a model with a bias of its output embeddings, learned positions or shared blocks");
  ModelSpec spec = model;
  spec.blocks.push_back(head.blocks.front());
  spec.prediction = head.prediction;
  return spec;
}

}  // namespace

bool is_of_prediction_head(std::string_view path) { return path.starts_with(kPrediction); }

PredictingDecoder::PredictingDecoder(std::unique_ptr<Decoder> model, std::unique_ptr<BoundDecoder> head, double weight,
                                     bool trains_model)
    : model_(std::move(model)),
      head_(std::move(head)),
      weight_(weight),
      trains_model_(trains_model),
      spec_(joined(model_->spec(), head_->spec())) {
  head_->number_layers_from(std::ssize(model_->spec().blocks));
}

double PredictingDecoder::loss(ops::Context& context, std::span<const SequenceStep> steps,
                               const PassOptions& options) const {
  int64_t rows = 0;
  for (const SequenceStep& step : steps) rows += std::ssize(step.ids);
  const tensor::ArenaScope scope(context.arena);
  const tensor::Matrix normed = context.arena.matrix(rows, spec_.width);
  std::vector<SequenceStep> of_model(steps.begin(), steps.end()), of_head;
  int64_t at = 0, scored = 0;
  for (SequenceStep& step : of_model) {
    const int64_t count = std::ssize(step.ids);
    step.normed = normed.row_range(at, at + count);
    if (count > 1) {
      SequenceStep& next = of_head.emplace_back(step);
      next.ids = step.ids.subspan(1), next.targets = step.targets.subspan(1);
      next.before = normed.row_range(at, at + count - 1);
      next.normed = {};
      scored += std::count_if(next.targets.begin(), next.targets.end(), [](int32_t target) { return target >= 0; });
    }
    at += count;
  }
  ops::Context through_model = context;
  PassOptions model_options = options;
  if (!trains_model_) through_model.tape = nullptr, model_options.router_loss = nullptr;
  const double loss = model_->loss(through_model, of_model, model_options);
  // The gradient of what no op of the tape has written would stay there.
  if (context.tape && !trains_model_)
    context.tape->record({normed}, [normed](ops::Reverse& back) {
      const tensor::Matrix gradient = back.gradient(normed);
      for (int64_t r = 0; r < gradient.rows; ++r) std::fill_n(gradient.row(r), gradient.cols, 0.0f);
    });
  PassOptions head_options = options;
  head_options.gradient_weight *= weight_;
  head_loss_.sum += head_->loss(context, of_head, head_options);
  head_loss_.scored += scored;
  return loss;
}

void PredictingDecoder::read(layers::TensorReader& reader) const {
  model_->read(reader);
  HeadReader of_head(reader, std::ssize(model_->spec().blocks));
  head_->read(of_head);
}

void PredictingDecoder::rebind(layers::TensorVisitor& visitor) {
  model_->rebind(visitor);
  SharedWeights shared;
  model_->read(shared);
  HeadVisitor of_head(visitor, std::ssize(model_->spec().blocks), shared);
  head_->rebind(of_head);
}

void PredictingDecoder::weights_changed() {
  model_->weights_changed();
  head_->weights_changed();
}

PredictingDecoder::HeadLoss PredictingDecoder::take_head_loss() const { return std::exchange(head_loss_, {}); }

}  // namespace coterie::models

#include "models/parameters.h"

#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"
#include "layers/resident_state.h"
#include "models/adapter.h"
#include "models/names/merged_rows.h"
#include "models/score.h"
#include "quant/codec.h"

namespace coterie::models {

namespace {

using layers::TensorVisitor;
using tensor::Weight;

class Counter : public TensorVisitor {
 public:
  explicit Counter(Parameters::Chosen chosen) : chosen_(chosen) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, Weight&) override {
    if (chosen_(tensor)) matrices += rows * cols;
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector&) override {
    if (chosen_(tensor)) vectors += n;
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<Weight>&) override {
    if (chosen_(tensor)) matrices += experts * rows * cols;
  }
  int64_t matrices = 0, vectors = 0;

 private:
  Parameters::Chosen chosen_;
};

class Mover : public TensorVisitor {
 public:
  Mover(Parameters::Chosen chosen, float* values, float* gradient, std::vector<Parameter>& list)
      : chosen_(chosen), values_(values), gradient_(gradient), list_(list) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, Weight& slot) override {
    if (!chosen_(tensor)) return;
    add(tensor, {rows, cols}, values_, true);
    slot = move(slot);
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector& slot) override { add_vector(tensor, {n}, slot); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, layers::Vector& slot) override {
    add_vector(tensor, {rows, cols}, slot);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<Weight>& slots) override {
    if (!chosen_(tensor)) return;
    add(tensor, {experts, rows, cols}, values_, true);
    for (Weight& slot : slots) slot = move(slot);
  }

 private:
  void add(const Tensor& tensor, const tensor::Shape& shape, float* values, bool matrix) {
    const int64_t count = tensor::element_count(shape);
    list_.push_back({tensor.path, tensor.place, shape, values, gradient_, count, !tensor.buffer, matrix});
    gradient_ += count;
  }
  void add_vector(const Tensor& tensor, const tensor::Shape& shape, layers::Vector& slot) {
    if (!chosen_(tensor)) return;
    if (slot.minus_exp)
      throw base::Error(base::ErrorKind::unsupported, tensor.path, "the file holds -exp of this parameter",
                        "train from the Hugging Face form of the model");
    add(tensor, shape, slot.values.data(), false);
  }
  Weight move(const Weight& from) {
    const Weight to(reinterpret_cast<const std::byte*>(values_), tensor::DType::f32, from.rows, from.cols);
    for (int64_t r = 0; r < from.rows; ++r, values_ += from.cols)
      quant::decode(from.dtype, from.row(r), values_, from.cols);
    return to;
  }

  Parameters::Chosen chosen_;
  float *values_, *gradient_;
  std::vector<Parameter>& list_;
};

}  // namespace

Parameters::Parameters(Decoder& decoder) : Parameters(decoder, [](const TensorVisitor::Tensor&) { return true; }) {}

Parameters::Parameters(Adapter& adapter) : list_(adapter.parameters()) {
  int64_t count = 0;
  for (const Parameter& p : list_) count += p.count;
  gradient_ = tensor::Buffer<float>(count);
  float* at = gradient_.data();
  for (Parameter& p : list_) {
    p.gradient = at;
    at += p.count;
    gradients_.add(p.values, p.count, p.gradient);
  }
  clear_gradients();
}

Parameters::Parameters(Decoder& decoder, Chosen chosen) {
  Counter counter(chosen);
  decoder.visit(counter);
  values_ = tensor::Buffer<float>(counter.matrices);
  gradient_ = tensor::Buffer<float>(counter.matrices + counter.vectors);
  Mover mover(chosen, values_.data(), gradient_.data(), list_);
  decoder.rebind(mover);
  for (const Parameter& p : list_)
    if (p.trained) gradients_.add(p.values, p.count, p.gradient);
  clear_gradients();
}

namespace {

class Nothing : public layers::TensorVisitor {
 public:
  void matrix(const Tensor&, int64_t, int64_t, Weight&) override {}
  void vector(const Tensor&, int64_t, layers::Vector&) override {}
  void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<Weight>&) override {}
};

}  // namespace

void weights_changed(Decoder& decoder) {
  Nothing nothing;
  decoder.rebind(nothing);
}

void Parameters::clear_gradients() { std::fill_n(gradient_.data(), gradient_.size(), 0.0f); }

namespace {

/// The rows that make up one tensor of a file: those of a parameter, or of several that the file merges.
struct FileTensor {
  tensor::Shape shape;
  std::vector<const float*> rows;
  int64_t cols = 0;
};

class Gatherer {
 public:
  Gatherer(const NameTable& names, const checkpoint::TensorSource& source) : names_(names), source_(source) {}

  void add(const Parameter& p) {
    const auto [pattern, layer, item] = path_pattern(p.path);
    const NameInFile& name = choose(pattern, layer, item);
    if (name.form == Form::transposed || name.form == Form::mxfp4_pair)
      base::fail(base::ErrorKind::unsupported, source_.where(),
                 "gradients of {} cannot be written as the file has it: {}", p.path,
                 name.form == Form::transposed ? "its matrices are transposed" : "it is quantised");
    if (is_of_heads(name.piece))
      base::fail(base::ErrorKind::unsupported, source_.where(),
                 "gradients of {} cannot be written as the file has it: keys and values of heads in one tensor",
                 p.path);
    const bool each = name.pattern.find("{expert}") != std::string::npos;
    const int64_t experts = p.shape.size() == 3 ? p.shape.front() : 1, size = p.count / experts;
    for (int64_t e = 0; e < (each ? experts : 1); ++e) {
      const std::string in_file = expand(name.pattern, layer, e, item);
      const int64_t stacked = each ? 1 : experts;
      const int64_t rows = p.shape.size() == 1 ? p.count : p.shape[p.shape.size() - 2];
      for (int64_t s = 0; s < stacked; ++s)
        put(in_file, name.piece, p.gradient + (e + s) * size, rows, size / rows, s, stacked);
    }
  }

  std::map<std::string, FileTensor> tensors;

 private:
  const NameInFile& choose(const std::string& pattern, int64_t layer, int64_t item) const {
    const std::vector<NameInFile>* names = names_.find(pattern);
    base::require(names != nullptr, "gradients", "no name for {}", pattern);
    for (const NameInFile& name : *names)
      if (source_.find(expand(name.pattern, layer, 0, item))) return name;
    base::fail(base::ErrorKind::internal, "gradients", "{} has no tensor for {}", source_.where(), pattern);
  }

  // Row r of a piece is row place(r) of the `stack`-th of `stacked` matrices in the file.
  void put(const std::string& name, Piece piece, const float* values, int64_t rows, int64_t cols, int64_t stack,
           int64_t stacked) {
    FileTensor& file = tensors[name];
    file.shape = source_.find(name)->shape, file.cols = cols;
    const int64_t in_file = tensor::element_count(file.shape) / stacked / cols;
    file.rows.resize(static_cast<size_t>(in_file * stacked));
    for (int64_t r = 0; r < rows; ++r) {
      int64_t place = r;
      if (piece == Piece::second_half) place = rows + r;
      if (piece == Piece::before_back) place = in_file - 2 * rows + r;
      if (piece == Piece::back) place = in_file - rows + r;
      if (piece == Piece::even_rows || piece == Piece::odd_rows) place = 2 * r + (piece == Piece::odd_rows);
      file.rows[static_cast<size_t>(stack * in_file + place)] = values + r * cols;
    }
  }

  const NameTable& names_;
  const checkpoint::TensorSource& source_;
};

}  // namespace

std::vector<checkpoint::TensorToWrite> gradients_to_write(const Parameters& parameters, const NameTable& names,
                                                          const checkpoint::TensorSource& source,
                                                          const std::string& prefix) {
  Gatherer gatherer(names, source);
  for (const Parameter& p : parameters.list())
    if (p.trained) gatherer.add(p);
  std::vector<checkpoint::TensorToWrite> result;
  for (auto& [name, tensor] : gatherer.tensors)
    result.push_back({prefix + name, tensor::DType::f32, tensor.shape,
                      [rows = std::move(tensor.rows), cols = static_cast<size_t>(tensor.cols)](const auto& write) {
                        for (const float* row : rows) write(std::as_bytes(std::span(row, cols)));
                      }});
  return result;
}

namespace {

/// The sequences as the steps of one batch, each from its beginning in a state of its own.
struct Batch {
  std::vector<std::unique_ptr<layers::ResidentState>> states;
  std::vector<std::vector<int32_t>> targets;
  std::vector<SequenceStep> steps;
  int64_t scored = 0;

  Batch(const ModelSpec& spec, std::span<const std::span<const int32_t>> sequences) {
    targets.reserve(sequences.size());
    for (const std::span<const int32_t> ids : sequences) {
      if (ids.empty()) continue;
      states.push_back(std::make_unique<layers::ResidentState>(cache_block_bytes(spec, tensor::DType::f32),
                                                               tensor::DType::f32, state_floats(spec)));
      states.back()->reserve(std::ssize(ids));
      std::vector<int32_t>& next = targets.emplace_back(ids.begin() + 1, ids.end());
      next.push_back(-1);
      scored += std::ssize(ids) - 1;
      steps.push_back({.ids = ids, .state = states.back().get(), .targets = next});
    }
  }
};

/// The balance loss, and whoever else wants to hear.
class Listeners : public LoadBalance {
 public:
  Listeners(double weight, layers::Tap* other) : LoadBalance(weight), other_(other) {}
  void routed(const layers::Routed& router) override {
    LoadBalance::routed(router);
    if (other_) other_->routed(router);
  }
  void mixed(const layers::Mixture& mixture) override {
    if (other_) other_->mixed(mixture);
  }

 private:
  layers::Tap* other_;
};

BatchLoss evaluate(ops::Context& context, const Decoder& decoder, const Batch& batch, bool recompute,
                   layers::Tap* tap) {
  const double weight = static_cast<double>(decoder.spec().router_aux_loss);
  Listeners balance(weight, tap);
  PassOptions options;
  options.tap = &balance, options.recompute = recompute;
  options.gradient_weight = batch.scored ? 1 / static_cast<double>(batch.scored) : 0;
  if (weight > 0) options.router_loss = &balance;
  BatchLoss loss;
  loss.cross_entropy = decoder.loss(context, batch.steps, options) * options.gradient_weight;
  if (weight > 0) loss.balance = weight * balance.loss();
  if (context.tape) context.tape->backward(context);
  return loss;
}

}  // namespace

BatchLoss batch_loss(ops::Context& context, const Decoder& decoder, std::span<const std::span<const int32_t>> sequences,
                     layers::Tap* tap) {
  return evaluate(context, decoder, Batch(decoder.spec(), sequences), false, tap);
}

BatchLoss add_gradients(ops::Context& context, ops::Tape& tape, const Decoder& decoder,
                        std::span<const std::span<const int32_t>> sequences, bool recompute) {
  const Batch batch(decoder.spec(), sequences);
  ops::Context recording = context;
  recording.tape = &tape;
  return evaluate(recording, decoder, batch, recompute, nullptr);
}

}  // namespace coterie::models

#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ops/optimiser.h"

namespace coterie::train {

using base::ErrorKind;

namespace {

constexpr const char* kFirst = "first_moment.";
constexpr const char* kSecond = "second_moment.";

void read(const checkpoint::TensorSource& source, const std::string& name, const ParameterPart& part,
          tensor::Buffer<float>& into) {
  const checkpoint::TensorInfo* tensor = source.find(name);
  if (!tensor) base::fail(ErrorKind::not_found, source.where(), "tensor {} is missing", name);
  if (tensor->dtype != tensor::DType::f32 || tensor->shape != tensor::Shape{part.whole})
    base::fail(ErrorKind::bad_input, source.where() + ": " + name, "is {} {}, expected f32 [{}]",
               tensor::name(tensor->dtype), tensor::to_string(tensor->shape), part.whole);
  const auto size = static_cast<size_t>(into.size()) * sizeof(float);
  if (size > 0) std::memcpy(into.data(), tensor->bytes.data() + static_cast<size_t>(part.begin) * sizeof(float), size);
}

}  // namespace

void AdamW::add(std::string name, std::span<float> values, std::span<float> gradient, double weight_decay,
                double rate_factor, const ParameterPart& part) {
  base::require(values.size() == gradient.size(), "train::AdamW", "{}: {} values and {} gradients", name, values.size(),
                gradient.size());
  const auto n = static_cast<int64_t>(values.size());
  const int64_t block = part.block > 0 ? part.block : std::max<int64_t>(n, 1);
  for (int64_t first = 0; first < n; first += block)
    for (int64_t begin = first; begin < std::min(first + block, n); begin += kPiece)
      pieces_.push_back({parameters_.size(), begin, std::min({begin + kPiece, first + block, n})});
  Parameter parameter{
      std::move(name),         values, gradient, weight_decay, rate_factor, part, tensor::Buffer<float>(n),
      tensor::Buffer<float>(n)};
  if (part.whole == 0) parameter.part.whole = n;
  std::fill_n(parameter.first.data(), n, 0.0f);
  std::fill_n(parameter.second.data(), n, 0.0f);
  parameters_.push_back(std::move(parameter));
}

std::vector<double> AdamW::squares(threads::Pool& pool) const {
  std::vector<double> sums(pieces_.size());
  pool.each(static_cast<int64_t>(pieces_.size()), [&](int64_t p, int) {
    const Piece& piece = pieces_[static_cast<size_t>(p)];
    sums[static_cast<size_t>(p)] =
        ops::sum_of_squares(parameters_[piece.parameter].gradient.data() + piece.begin, piece.end - piece.begin);
  });
  return sums;
}

double AdamW::gradient_norm(threads::Pool& pool) const {
  double total = 0;
  for (const double sum : squares(pool)) total += sum;
  return std::sqrt(total);
}

void AdamW::step(threads::Pool& pool, double rate, double gradient_scale, bool clear) {
  ++steps_;
  pool.each(static_cast<int64_t>(pieces_.size()),
            [&](int64_t p, int) { update(pieces_[static_cast<size_t>(p)], rate, gradient_scale, clear); });
}

void AdamW::update(const Piece& piece, double rate, double gradient_scale, bool clear) {
  Parameter& parameter = parameters_[piece.parameter];
  const double group_rate = rate * parameter.rate_factor;
  const auto t = static_cast<double>(steps_);
  ops::AdamWTask task;
  task.beta1 = static_cast<float>(spec_.beta1), task.beta2 = static_cast<float>(spec_.beta2);
  task.step_size = static_cast<float>(group_rate / (1 - std::pow(spec_.beta1, t)));
  task.root_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(spec_.beta2, t)));
  task.eps = static_cast<float>(spec_.eps);
  task.keep = static_cast<float>(1 - group_rate * parameter.weight_decay);
  task.gradient_scale = static_cast<float>(gradient_scale), task.clear = clear;
  task.weight = parameter.values.data() + piece.begin, task.gradient = parameter.gradient.data() + piece.begin;
  task.first = parameter.first.data() + piece.begin, task.second = parameter.second.data() + piece.begin;
  task.n = piece.end - piece.begin;
  ops::adamw(task);
}

int64_t AdamW::parameters() const {
  int64_t sum = 0;
  for (const Parameter& parameter : parameters_) sum += static_cast<int64_t>(parameter.values.size());
  return sum;
}

std::vector<checkpoint::TensorToWrite> AdamW::tensors_to_write() const {
  std::vector<checkpoint::TensorToWrite> result;
  const auto add = [&](const std::string& name, const tensor::Buffer<float>& values) {
    const auto bytes = std::as_bytes(std::span(values.data(), static_cast<size_t>(values.size())));
    result.push_back({name, tensor::DType::f32, {values.size()}, [bytes](const auto& write) { write(bytes); }});
  };
  for (const Parameter& parameter : parameters_) {
    add(kFirst + parameter.name, parameter.first);
    add(kSecond + parameter.name, parameter.second);
  }
  return result;
}

AdamW::Moments AdamW::moments(size_t index) const {
  const Parameter& p = parameters_[index];
  const size_t n = p.values.size();
  return {{p.first.data(), n}, {p.second.data(), n}};
}

void AdamW::restore(const checkpoint::TensorSource& source, int64_t steps, size_t parameters) {
  if (parameters == 0) parameters = parameters_.size();
  if (source.tensors().size() != 2 * parameters)
    base::fail(ErrorKind::bad_input, source.where(), "has {} tensors, expected two for each of {} parameters",
               source.tensors().size(), parameters);
  for (Parameter& parameter : parameters_) {
    read(source, kFirst + parameter.name, parameter.part, parameter.first);
    read(source, kSecond + parameter.name, parameter.part, parameter.second);
  }
  steps_ = steps;
}

}  // namespace coterie::train

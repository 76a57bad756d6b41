#include "families/ensemble/gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/nearest.h"
#include "base/plural.h"
#include "checkpoint/ensemble_file.h"
#include "checkpoint/tensor_source.h"
#include "quant/codec.h"

namespace coterie::families {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::fail;

namespace {

constexpr std::string_view kFormat = "coterie gate 1";

std::vector<float> values(const checkpoint::TensorSource& source, std::string_view name, tensor::Shape& shape) {
  const checkpoint::TensorInfo* info = source.find(name);
  if (!info) fail(ErrorKind::bad_input, source.where(), "there is no tensor {}", name);
  if (info->dtype != tensor::DType::f32)
    fail(ErrorKind::bad_input, source.where(), "{} is in {}, expected f32", name, tensor::name(info->dtype));
  shape = info->shape;
  std::vector<float> result(static_cast<size_t>(tensor::element_count(shape)));
  quant::decode(info->dtype, info->bytes.data(), result.data(), std::ssize(result));
  for (const float v : result)
    if (!std::isfinite(v)) fail(ErrorKind::bad_input, source.where(), "{} holds {}", name, v);
  return result;
}

void read_map(const fs::path& file, Gate& gate) {
  const auto source = checkpoint::open_safetensors(file);
  tensor::Shape rows, bias;
  const std::vector<float> map = values(*source, "gate.weight", rows);
  gate.bias = values(*source, "gate.bias", bias);
  if (rows.size() != 2 || rows[0] != gate.count() || bias.size() != 1 || bias[0] != gate.count())
    fail(ErrorKind::bad_input, file.string(),
         "gate.weight is {} and gate.bias {}, expected a row of each for {} models", tensor::to_string(rows),
         tensor::to_string(bias), gate.count());
  for (int64_t i = 0; i < gate.count(); ++i)
    gate.rows.emplace_back(map.begin() + i * rows[1], map.begin() + (i + 1) * rows[1]);
}

}  // namespace

std::string_view name(Gate::Kind kind) { return kGateKinds[static_cast<size_t>(kind)]; }

Gate::Kind gate_kind(const std::string& word, std::string_view where) {
  const auto* const found = std::find(std::begin(kGateKinds), std::end(kGateKinds), word);
  if (found != std::end(kGateKinds)) return static_cast<Gate::Kind>(found - std::begin(kGateKinds));
  const std::vector<std::string> known(std::begin(kGateKinds), std::end(kGateKinds));
  throw base::Error(ErrorKind::bad_input, std::string(where),
                    fmt::format("gate is \"{}\", expected prompt, token or uniform", word),
                    base::did_you_mean(word, known));
}

void check(const Gate& gate, std::string_view where) {
  if (gate.count() < 2)
    fail(ErrorKind::bad_input, where, "names {}, and a gate needs two or more", base::plural(gate.count(), "model"));
  if (gate.top_k < 1 || gate.top_k > gate.count())
    fail(ErrorKind::bad_input, where, "top_k is {}, expected 1 to {}, the number of models", gate.top_k, gate.count());
  if (!gate.reads() && gate.top_k != gate.count())
    fail(ErrorKind::bad_input, where, "top_k is {}: a uniform gate weighs all {} models", gate.top_k, gate.count());
  if (!(gate.temperature > 0 && gate.temperature < 1e9))
    fail(ErrorKind::bad_input, where, "temperature is {}, expected more than 0", gate.temperature);
  if (gate.reader < 0 || gate.reader >= gate.count())
    fail(ErrorKind::bad_input, where, "the reader is model {}, expected 0 to {}", gate.reader, gate.count() - 1);
}

bool is_ensemble(const fs::path& path) {
  std::error_code absent;
  return fs::exists(path / checkpoint::kEnsembleFile, absent);
}

std::string gate_name(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

Gate read_gate(const fs::path& folder) {
  const fs::path file = folder / checkpoint::kEnsembleFile;
  const base::Json json = base::read_json(file, base::DuplicateKeys::refuse);
  base::JsonReader keys(json, file.string());
  if (const std::string format = keys.string("format"); format != kFormat)
    fail(ErrorKind::bad_input, file.string(), "is of format \"{}\", expected \"{}\"", format, kFormat);
  Gate gate;
  gate.kind = gate_kind(keys.string("gate"), file.string());
  gate.top_k = keys.integer("top_k");
  gate.temperature = keys.number("temperature");
  gate.reader = keys.integer("reader");
  for (const std::string& model : keys.strings("models")) gate.models.emplace_back(model);
  keys.refuse_unread();
  check(gate, file.string());
  if (gate.reads()) read_map(folder / "gate.safetensors", gate);
  return gate;
}

base::Json to_json(const Gate& gate) {
  base::Json models = base::Json::array();
  for (const fs::path& path : gate.models) models.push_back(path.generic_string());
  return {{"format", kFormat},     {"gate", name(gate.kind)}, {"top_k", gate.top_k}, {"temperature", gate.temperature},
          {"reader", gate.reader}, {"models", models}};
}

std::vector<double> gate_weights(const Gate& gate, std::span<const double> x, bool all) {
  const auto count = static_cast<size_t>(gate.count());
  if (!gate.reads()) return std::vector<double>(count, 1 / static_cast<double>(count));
  std::vector<double> weights(count);
  for (size_t i = 0; i < count; ++i) {
    base::require(gate.rows[i].size() == x.size(), "gate", "a state of {} numbers for rows of {}", x.size(),
                  gate.rows[i].size());
    double sum = static_cast<double>(gate.bias[i]);
    for (size_t d = 0; d < x.size(); ++d) sum += static_cast<double>(gate.rows[i][d]) * x[d];
    weights[i] = sum / gate.temperature;
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  const double top = weights[order[0]];
  const size_t kept = all ? count : static_cast<size_t>(gate.top_k);
  double sum = 0;
  for (size_t k = 0; k < count; ++k) {
    double& weight = weights[order[k]];
    weight = k < kept ? std::exp(weight - top) : 0;
    sum += weight;
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

void GateReader::block(int64_t layer, tensor::ConstMatrix x) {
  if (layer != last_) return;
  scaled_.resize(static_cast<size_t>(x.cols));
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (int64_t d = 0; d < x.cols; ++d) squares += static_cast<double>(x.row(r)[d]) * static_cast<double>(x.row(r)[d]);
    const double scale = squares > 0 ? 1 / std::sqrt(squares / static_cast<double>(x.cols)) : 0;
    for (int64_t d = 0; d < x.cols; ++d) scaled_[static_cast<size_t>(d)] = scale * static_cast<double>(x.row(r)[d]);
    row_(r, scaled_);
  }
}

}  // namespace coterie::families

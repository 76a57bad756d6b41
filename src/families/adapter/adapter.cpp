#include "families/adapter/adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "quant/rows.h"

namespace coterie::families {

using base::ErrorKind;
using layers::TensorReader;
using layers::TensorVisitor;

namespace {

void check(const LoraSpec& spec, const std::vector<AdapterModule>& modules) {
  constexpr std::string_view where = "lora";
  if (spec.rank < 1) base::fail(ErrorKind::bad_input, where, "rank is {}, expected 1 or more", spec.rank);
  if (!(spec.dropout >= 0 && spec.dropout < 1))
    base::fail(ErrorKind::bad_input, where, "dropout is {}, expected 0 to below 1", spec.dropout);
  // What is a parameter of its module, routers and stacks of experts, peft wraps as a whole (ParamWrapper), which
  // refuses both: nobody else could open what was written.
  if (spec.dropout == 0 && !spec.dora) return;
  std::vector<std::string> whole;
  bool stacks = false;
  for (const AdapterModule& module : modules) {
    if (module.stack == 0 && module.kind != AdapterModule::Kind::parameter) continue;
    stacks = stacks || module.stack > 0;
    if (std::find(whole.begin(), whole.end(), module.group()) == whole.end()) whole.push_back(module.group());
  }
  if (whole.empty()) return;
  const std::string list = fmt::format("{}", fmt::join(whole, ", ")), what = spec.dora ? "dora" : "dropout";
  throw base::Error(ErrorKind::unsupported, std::string(where),
                    fmt::format("{} cannot be used on {}: transformers holds that as parameters, and the peft library "
                                "refuses {} there",
                                what, list, what),
                    fmt::format("remove {} from the targets, or {} from the recipe{}", list, what,
                                stacks && !spec.dora ? "; training: expert_dropout drops inside experts" : ""));
}

int64_t count(const AdapterModule& module, int64_t rank, bool magnitudes) {
  return module.matrices() * rank * (module.inputs + module.outputs) + (magnitudes ? module.outputs : 0);
}

// Places of a LoRA's dropout, apart from those of blocks and experts (ops/dropout.h).
constexpr uint64_t kLoraPlaces = uint64_t{1} << 30;

ops::LowRank low_rank(const float* a, const float* b, int64_t rank, int64_t inputs, int64_t rows, float scale) {
  const auto weight = [](const float* data, int64_t r, int64_t c) {
    return tensor::Weight(reinterpret_cast<const std::byte*>(data), tensor::DType::f32, r, c);
  };
  return {weight(a, rank, inputs), weight(b, rows, rank), scale};
}

/// Where a path's lora comes from: a module and one of its pieces.
struct Place {
  size_t module, piece;
};

}  // namespace

void Adapter::make(const AdapterModule& of, int64_t rank, double alpha) {
  Module& module = modules_.emplace_back();
  module.module = of, module.rank = rank;
  module.a = tensor::Buffer<float>(of.matrices() * rank * of.inputs);
  module.b = tensor::Buffer<float>(of.matrices() * rank * of.outputs);
  std::fill_n(module.b.data(), module.b.size(), 0.0f);
  const auto r = static_cast<double>(rank);
  module.alpha = alpha;
  module.scale = static_cast<float>(alpha / (spec_.rslora ? std::sqrt(r) : r));
  module.weights.resize(of.pieces.size());
}

namespace {

/// Finds the weights that pieces lie over.
class Weights : public TensorReader {
 public:
  void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override {
    found[tensor.path] = slot;
  }
  std::map<std::string, tensor::Weight> found;
};

}  // namespace

Adapter Adapter::fresh(const models::Decoder& decoder, const LoraSpec& spec, uint64_t seed) {
  const std::vector<AdapterModule> chosen = chosen_modules(adapter_modules(decoder), spec.targets);
  check(spec, chosen);
  Adapter adapter;
  adapter.spec_ = spec;
  Weights weights;
  if (spec.dora) decoder.read(weights);
  for (size_t i = 0; i < chosen.size(); ++i) {
    adapter.make(chosen[i], spec.rank, spec.alpha);
    Module& module = adapter.modules_.back();
    constexpr uint64_t kStream = uint64_t{0x4c6f5241} << 32;  // apart from the streams of weights
    base::Rng rng(seed, kStream + i);
    const double bound = 1 / std::sqrt(static_cast<double>(chosen[i].inputs));
    for (int64_t v = 0; v < module.a.size(); ++v)
      module.a[v] = static_cast<float>(bound * (2 * rng.uniform_double() - 1));
    if (!spec.dora) continue;
    module.magnitude = tensor::Buffer<float>(chosen[i].outputs), module.norm = tensor::Buffer<float>(chosen[i].outputs);
    for (size_t p = 0; p < chosen[i].pieces.size(); ++p) module.weights[p] = weights.found.at(chosen[i].pieces[p].path);
    adapter.find_norms(module);
    std::copy_n(module.norm.data(), module.norm.size(), module.magnitude.data());
  }
  return adapter;
}

std::array<int64_t, layers::kPlaces> Adapter::counts(const models::Decoder& decoder, const LoraSpec& spec) {
  const std::vector<AdapterModule> chosen = chosen_modules(adapter_modules(decoder), spec.targets);
  check(spec, chosen);
  std::array<int64_t, layers::kPlaces> result{};
  for (const AdapterModule& module : chosen)
    result[static_cast<size_t>(module.place)] += count(module, spec.rank, spec.dora);
  return result;
}

std::array<int64_t, layers::kPlaces> Adapter::counts() const {
  std::array<int64_t, layers::kPlaces> result{};
  for (const Module& m : modules_)
    result[static_cast<size_t>(m.module.place)] += count(m.module, m.rank, m.magnitude.size() > 0);
  return result;
}

std::vector<models::Parameter> Adapter::parameters() {
  std::vector<models::Parameter> result;
  for (Module& m : modules_) {
    const auto add = [&](const char* name, tensor::Shape shape, tensor::Buffer<float>& values) {
      if (values.size() == 0) return;
      if (m.module.stack > 0) shape.insert(shape.begin(), m.module.stack);
      result.push_back(
          {m.module.path + name, m.module.place, shape, values.data(), nullptr, values.size(), true, shape.size() > 1});
    };
    add(".lora_a", {m.rank, m.module.inputs}, m.a), add(".lora_b", {m.module.outputs, m.rank}, m.b);
    add(".magnitude", {m.module.outputs}, m.magnitude);
  }
  return result;
}

// ‖W_i + scale · B_i·A‖ of each output i.
void Adapter::find_norms(Module& m) const {
  const int64_t inputs = m.module.inputs, rank = m.rank;
  std::vector<float> row(static_cast<size_t>(inputs));
  for (size_t p = 0; p < m.module.pieces.size(); ++p) {
    const AdapterModule::Piece& piece = m.module.pieces[p];
    for (int64_t i = 0; i < piece.rows; ++i) {
      quant::decode_row(m.weights[p], i, row.data());
      const float* const b = m.b.data() + (piece.first + i) * rank;
      for (int64_t r = 0; r < rank; ++r) {
        const float factor = m.scale * b[r];
        const float* const a = m.a.data() + r * inputs;
        for (int64_t c = 0; factor != 0 && c < inputs; ++c) row[static_cast<size_t>(c)] += factor * a[c];
      }
      double sum = 0;
      for (const float value : row) sum += static_cast<double>(value) * static_cast<double>(value);
      m.norm[piece.first + i] = static_cast<float>(std::sqrt(sum));
    }
  }
}

void Adapter::renew() {
  for (Module& module : modules_)
    if (module.magnitude.size() > 0) find_norms(module);
}

void Adapter::attach_to(models::Decoder& decoder, double factor) {
  std::map<std::string, Place> places;
  for (size_t m = 0; m < modules_.size(); ++m)
    for (size_t p = 0; p < modules_[m].module.pieces.size(); ++p) places[modules_[m].module.pieces[p].path] = {m, p};

  class Layer : public TensorVisitor {
   public:
    Layer(std::vector<Module>& all, const std::map<std::string, Place>& of, float factor_, float dropout_)
        : modules(all), places(of), factor(factor_), dropout(dropout_) {}
    void matrix(const Tensor& tensor, int64_t, int64_t, tensor::Weight& slot) override { weights[tensor.path] = slot; }
    void vector(const Tensor&, int64_t, layers::Vector&) override {}
    void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<tensor::Weight>&) override {}

    void lora(const Tensor& tensor, int64_t rows, int64_t cols, layers::Lora& slot) override {
      const auto found = places.find(tensor.path);
      if (found == places.end()) return;
      refuse_second(slot.low_rank, tensor.path);
      Module& m = modules[found->second.module];
      const AdapterModule::Piece& piece = m.module.pieces[found->second.piece];
      slot.low_rank = low_rank(m.a.data(), m.b.data() + piece.first * m.rank, m.rank, cols, rows, factor * m.scale);
      slot.dropout = dropout, slot.place = kLoraPlaces + found->second.module;
      if (m.magnitude.size() == 0) return;
      if (factor != 1)
        base::fail(ErrorKind::unsupported, tensor.path,
                   "an adapter with magnitudes (DoRA) cannot be scaled; a factor of {} was given", factor);
      m.weights[found->second.piece] = weights.at(tensor.path);
      slot.magnitude = m.magnitude.data() + piece.first, slot.norm = m.norm.data() + piece.first;
    }
    void loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
               std::vector<ops::LowRank>& slots) override {
      const auto found = places.find(tensor.path);
      if (found == places.end()) return;
      const Module& m = modules[found->second.module];
      const AdapterModule::Piece& piece = m.module.pieces[found->second.piece];
      slots.resize(static_cast<size_t>(experts));
      for (int64_t e = 0; e < experts; ++e) {
        ops::LowRank& slot = slots[static_cast<size_t>(e)];
        refuse_second(slot, tensor.path);
        slot = low_rank(m.a.data() + e * m.rank * cols, m.b.data() + (e * m.module.outputs + piece.first) * m.rank,
                        m.rank, cols, rows, factor * m.scale);
      }
    }

   private:
    static void refuse_second(const ops::LowRank& there, const std::string& path) {
      if (there) base::fail(ErrorKind::bad_input, path, "an adapter is attached to it already");
    }
    std::vector<Module>& modules;
    const std::map<std::string, Place>& places;
    float factor, dropout;
    std::map<std::string, tensor::Weight> weights;
  };
  Layer layer(modules_, places, static_cast<float>(factor), static_cast<float>(spec_.dropout));
  decoder.rebind(layer);
  renew();
}

}  // namespace coterie::families

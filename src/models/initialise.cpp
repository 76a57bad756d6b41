#include "models/initialise.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>

#include "base/rng.h"

namespace coterie::models {

namespace {

using layers::Place;

// FNV-1a: a stream of random numbers for each path.
uint64_t stream_of(std::string_view path) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : path) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// softplus(bias) = step, steps spread evenly over the logarithm of 0.001 … 0.1.
float step_bias(base::Rng& rng) {
  const double step = std::exp(std::log(1e-3) + rng.uniform_double() * (std::log(1e-1) - std::log(1e-3)));
  return static_cast<float>(step + std::log(-std::expm1(-step)));
}

class Initialiser {
 public:
  Initialiser(const Parameters& parameters, const ModelSpec& spec, const InitialWeights& init)
      : spec_(spec), init_(init) {
    for (const Parameter& p : parameters.list())
      if (p.shape.size() > 1) inputs_[p.path] = p.shape.back();
  }

  void draw(const Parameter& p, base::Rng rng) const {
    const auto ends = [&](std::string_view with) { return std::string_view(p.path).ends_with(with); };
    // What is not here is drawn all the same, so that what is has the values it has where all are.
    const auto fill = [&](auto&& value) {
      const int64_t begin = p.begin();
      for (int64_t i = 0; i < begin; ++i) value(i);
      for (int64_t i = 0; i < p.count; ++i) p.values[i] = static_cast<float>(value(begin + i));
    };
    const auto within = [&](double bound) { fill([&](int64_t) { return bound * (2 * rng.uniform_double() - 1); }); };
    const int64_t inputs = p.shape.back();

    if (ends("dt.bias")) return fill([&](int64_t) { return step_bias(rng); });
    if (ends(".bias") && p.place != Place::norms) return within(bias_bound(p));
    if (ends(".bias") || ends(".sinks") || ends(".selection_bias")) return fill([](int64_t) { return 0; });
    if (ends(".router.scale") || ends(".router.expert_scale")) return fill([](int64_t) { return 1; });
    if (p.place == Place::norms) return fill([&](int64_t) { return 1 - spec_.final_norm.weight_offset; });
    if (ends("mamba.a_log"))  // A = -1, -2, …, -S
      return fill([&](int64_t i) { return std::log(static_cast<double>(i % inputs + 1)); });
    if (ends("mamba2.a_log"))  // A in -1 … -16
      return fill([&](int64_t) { return std::log(1 + 15 * rng.uniform_double()); });
    if (ends("mamba.d") || ends("mamba2.d")) return fill([](int64_t) { return 1; });
    if (ends(".conv") || ends("mamba.dt")) return within(1 / std::sqrt(static_cast<double>(inputs)));
    const auto std = static_cast<float>(deviation(p));
    fill([&](int64_t) { return std * rng.normal(); });
  }

 private:
  double deviation(const Parameter& p) const {
    if (init_.kind == InitialWeights::Kind::kaiming)
      return p.place == Place::input_embeddings ? 1 : std::sqrt(2 / static_cast<double>(p.shape.back()));
    return init_.scale_residual && into_residual(p.path)
               ? init_.std / std::sqrt(2 * static_cast<double>(spec_.blocks.size()))
               : init_.std;
  }

  double bias_bound(const Parameter& p) const {
    if (init_.kind != InitialWeights::Kind::kaiming || p.path.ends_with(".conv.bias")) return 0;
    std::string weight = p.path.substr(0, p.path.size() - std::string_view(".bias").size());
    if (weight == "head" && !inputs_.contains(weight)) weight = "embedding";  // tied
    return 1 / std::sqrt(static_cast<double>(inputs_.at(weight)));
  }

  // Projections whose output is added to the residual stream.
  static bool into_residual(std::string_view path) {
    constexpr std::string_view kLast[] = {"attention.o", "latent.o",   ".down",
                                          "mamba.out",   "mamba2.out", "lightning.out"};
    if (path.find(".adapters.") != std::string_view::npos) return false;
    return std::any_of(std::begin(kLast), std::end(kLast), [&](std::string_view last) { return path.ends_with(last); });
  }

  const ModelSpec& spec_;
  const InitialWeights& init_;
  std::map<std::string, int64_t, std::less<>> inputs_;  // of each matrix
};

}  // namespace

void initialise(const Parameters& parameters, const ModelSpec& spec, const InitialWeights& init, uint64_t seed) {
  const Initialiser initialiser(parameters, spec, init);
  for (const Parameter& p : parameters.list()) initialiser.draw(p, base::Rng(seed, stream_of(p.path)));
}

}  // namespace coterie::models

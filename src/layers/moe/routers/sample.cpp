#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/rng.h"
#include "layers/moe/routers/kind.h"
#include "layers/moe/routers/top_k.h"

// k draws without replacement in proportion to exp(value / temperature), as the k best after Gumbel noise was added
// (Kool et al. 2019, "Stochastic beams and where to find them").
namespace coterie::layers {

namespace {

void choose_sample(const TokenChoice& token, int32_t* ids) {
  const RouterSpec& spec = token.spec;
  double* const values = token.scratch.data();  // [E]
  double* const keys = values + spec.experts;   // [E]
  what_decides(token, values);
  constexpr uint64_t kPurpose = uint64_t{0x526f7574} << 32;  // apart from the sampler's draws under the same key
  const uint64_t high = kPurpose | static_cast<uint64_t>(token.draw.layer);
  for (int64_t e = 0; e < spec.experts; e += 4) {
    const auto bits = base::Philox::block(
        token.draw.key, high, static_cast<uint64_t>(token.draw.position) << 24 | static_cast<uint64_t>(e / 4));
    for (int64_t i = e; i < std::min(e + 4, spec.experts); ++i) {
      const double uniform = (static_cast<double>(bits[static_cast<size_t>(i - e)]) + 0.5) * 0x1p-32;  // in (0, 1)
      keys[i] = values[i] / static_cast<double>(spec.temperature) - std::log(-std::log(uniform));
    }
  }
  best_experts(spec, values, keys, keys + spec.experts, ids);
}

std::string describe_sample(const RouterSpec& spec, const std::string& value) {
  return fmt::format("{} drawn without replacement in proportion to softmax({}{})", spec.experts_per_token,
                     spec.selection_bias ? "(" + value + ")" : "h",
                     spec.temperature == 1 ? "" : fmt::format(" / {:g}", spec.temperature));
}

}  // namespace

extern const RouterKind kSample;
const RouterKind kSample = {.name = "sample", .draws = true, .choose = choose_sample, .choice = describe_sample};

}  // namespace coterie::layers

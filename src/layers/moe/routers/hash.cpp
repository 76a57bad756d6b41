#include <fmt/format.h>

#include <string>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "layers/moe/routers/kind.h"

// Hash layers (Roller et al. 2021, arXiv:2106.04426): a fixed table says which experts a token id goes to, another in
// each layer; nothing learns whom to choose. The table is random: K different experts, drawn by Philox keyed by the
// spec's hash_seed, the layer and the id, so it needs no memory and no file. Weights are scores of the logits all the
// same (DeepSeek-V4's hash layers), or with Combine::sum, as in the paper, outputs count once and there are no logits.
namespace coterie::layers {

namespace {

// The first K of a random permutation of all experts (Fisher and Yates): more of them begin alike, so that what
// overflows one goes on to the next of the same permutation.
void choose_hash(const TokenChoice& token, int32_t* ids) {
  const RouterSpec& spec = token.spec;
  double* const all = token.scratch.data();  // [E]
  for (int64_t e = 0; e < spec.experts; ++e) all[e] = static_cast<double>(e);
  constexpr uint64_t kPurpose = uint64_t{0x48617368} << 32;
  for (int64_t i = 0; i < spec.experts_per_token; ++i) {
    const auto bits =
        base::Philox::block(static_cast<uint64_t>(spec.hash_seed), kPurpose | static_cast<uint64_t>(token.draw.layer),
                            static_cast<uint64_t>(token.draw.id) << 32 | static_cast<uint64_t>(i));
    const auto left = static_cast<uint64_t>(spec.experts - i);
    const int64_t at = i + static_cast<int64_t>((uint64_t{bits[0]} * left) >> 32);
    std::swap(all[i], all[at]);
    ids[i] = static_cast<int32_t>(all[i]);
  }
}

void check_hash(const RouterSpec& spec, std::string_view where) {
  if (spec.groups != 1 || spec.selection_bias || spec.noise)
    base::fail(base::ErrorKind::bad_input, where,
               "a hash layer chooses by its table: no groups, no bias of selection, no noise");
}

std::string describe_hash(const RouterSpec& spec, const std::string&) {
  return fmt::format("{} by a table of token ids", spec.experts_per_token);
}

}  // namespace

extern const RouterKind kHash;
const RouterKind kHash = {
    .name = "hash", .even = true, .check = check_hash, .choose = choose_hash, .choice = describe_hash};

}  // namespace coterie::layers

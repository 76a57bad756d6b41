#include <array>

#include "layers/moe/routers/kind.h"

namespace coterie::layers {

// Each in the file of its name.
extern const RouterKind kTopK, kSample, kSparseMixer, kHash, kExpertChoice, kSinkhorn, kBase, kSoft;

std::span<const RouterKind* const> router_kinds() {
  static constexpr std::array kKinds = {&kTopK,         &kSample,   &kSparseMixer, &kHash,
                                        &kExpertChoice, &kSinkhorn, &kBase,        &kSoft};
  return kKinds;
}

const RouterKind& kind_of(RouterSpec::Selection selection) { return *router_kinds()[static_cast<size_t>(selection)]; }

int64_t choices_per_token(const RouterSpec& spec) {
  return kind_of(spec.selection).any_number ? spec.experts : spec.experts_per_token;
}

}  // namespace coterie::layers

#include "lens/silence.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace coterie::lens {

using base::ErrorKind;

namespace {

std::string layers_with_experts(const models::ModelSpec& spec) {
  std::vector<size_t> with;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (std::holds_alternative<layers::MoeSpec>(spec.blocks[i].ffn)) with.push_back(i);
  if (with.empty()) return fmt::format("none of the {} has: the model is dense", spec.blocks.size());
  if (with.back() - with.front() + 1 == with.size()) return fmt::format("{} to {} have", with.front(), with.back());
  return fmt::format("{} have", fmt::join(with, ", "));
}

}  // namespace

Silence::Silence(const models::ModelSpec& spec, ExpertSet experts) : experts_(std::move(experts)) {
  for (const auto& [layer, silent] : experts_) {
    const auto* moe = layer >= 0 && layer < std::ssize(spec.blocks)
                          ? std::get_if<layers::MoeSpec>(&spec.blocks[static_cast<size_t>(layer)].ffn)
                          : nullptr;
    if (!moe)
      base::fail(ErrorKind::bad_input, "silence", "layer {} has no experts; {}", layer, layers_with_experts(spec));
    const layers::RouterSpec& router = moe->router;
    if (router.selection == layers::RouterSpec::Selection::soft)
      base::fail(ErrorKind::unsupported, "silence",
                 "a Soft MoE gives every expert a share of every token: none can be left out");
    for (const int64_t e : silent)
      if (e < 0 || e >= router.experts)
        base::fail(ErrorKind::bad_input, "silence", "layer {} has no expert {}: they are 0 to {}", layer, e,
                   router.experts - 1);
    // A token sees groups_kept of the groups: whichever these are must have enough.
    const int64_t size = router.experts / router.groups;
    std::vector<int64_t> left(static_cast<size_t>(router.groups), size);
    for (const int64_t e : silent) --left[static_cast<size_t>(e / size)];
    std::sort(left.begin(), left.end());
    int64_t least = 0;
    for (int64_t g = 0; g < router.groups_kept; ++g) least += left[static_cast<size_t>(g)];
    if (least < router.experts_per_token)
      base::fail(ErrorKind::bad_input, "silence", "layer {} would have {} experts left where a token takes {}", layer,
                 least, router.experts_per_token);
  }
}

void Silence::logits(int64_t layer, int64_t, tensor::Matrix logits) const {
  const auto found = experts_.find(layer);
  if (found == experts_.end()) return;
  for (int64_t r = 0; r < logits.rows; ++r)
    for (const int64_t e : found->second) logits.row(r)[e] = -std::numeric_limits<float>::infinity();
}

void read_experts(const std::string& text, const std::string& where, ExpertSet& experts) {
  const auto refuse = [&] {
    throw base::Error(ErrorKind::bad_input, where, fmt::format("\"{}\" is not LAYER:EXPERT", text),
                      "as 3:7 for expert 7 of layer 3, or 3:0,7 for two of it");
  };
  const auto number = [&](std::string_view digits) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 0) refuse();
    return value;
  };
  const size_t colon = text.find(':');
  if (colon == std::string::npos) refuse();
  const int64_t layer = number(std::string_view(text).substr(0, colon));
  for (size_t at = colon + 1;;) {
    const size_t comma = std::min(text.find(',', at), text.size());
    experts[layer].insert(number(std::string_view(text).substr(at, comma - at)));
    if (comma == text.size()) break;
    at = comma + 1;
  }
}

}  // namespace coterie::lens

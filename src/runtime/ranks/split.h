#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace coterie::runtime {

/// How a model is divided over ranks (docs/design/ranks.md).
enum class Split {
  experts,  // each rank has all dense weights and a part of every layer's experts
  rows,     // each rank computes a part of every weight's outputs, and of the attention heads
  layers,   // each rank has some of the layers
};
inline constexpr std::array<std::string_view, 3> kSplits = {"experts", "rows", "layers"};

constexpr std::string_view name(Split split) { return kSplits[static_cast<size_t>(split)]; }
constexpr std::optional<Split> split_by_name(std::string_view name) {
  for (size_t i = 0; i < kSplits.size(); ++i)
    if (kSplits[i] == name) return static_cast<Split>(i);
  return {};
}

}  // namespace coterie::runtime

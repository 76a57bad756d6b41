#pragma once

#include <span>
#include <string>
#include <string_view>

namespace coterie::base {

/// The one of `known` that a user who typed `word` most probably meant: at most a third of its letters changed, left
/// out, added or swapped with a neighbour. Empty when none is that near.
std::string nearest(std::string_view word, std::span<const std::string> known);

/// `did you mean "…"?` of the nearest; empty when none is near. For an error's hint.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace coterie::base

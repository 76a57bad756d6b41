#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace coterie::lens {

/// What each of N tokens is, as a class: its id, its part of speech, where it stands, where its text comes from.
struct Labels {
  std::string name;
  std::vector<int32_t> of;  // [N] the class, or -1: the token is left out
  int64_t classes = 0;      // C
  // What a permutation moves, so that it takes away what labels have to do with experts and leaves what tokens of one
  // text have to do with each other: the labels of all documents, joined in a random order and rotated; or, where a
  // document has one label, those of whole documents; or those of stretches of kStretch tokens, where the label is the
  // document itself.
  enum class Permuted { series, documents, stretches } permuted = Permuted::series;
};
inline constexpr int64_t kStretch = 64;

/// How much the expert that a router chooses tells of a token's class, in nats:
///   I(X; C) = Σ p(x, c) log (p(x, c) / (p(x) p(c)))
/// of the shares that were counted, for each of a token's K places by itself, then averaged. Such a figure is too high:
/// classes and experts that have nothing to do with each other share (E-1)(C-1)/2N nats, and more where the tokens of a
/// text are alike. So it is compared with `permuted`, its mean over permutations of the labels.
struct Information {
  double nats = 0;        // as counted
  double permuted = 0;    // mean over permutations
  double entropy = 0;     // H(C) of the tokens counted
  double normalised = 0;  // (nats - permuted) / entropy: 0 nothing, 1 all; may be a little below 0
  // Of normalised, by leaving out a twentieth of the documents in turn (jackknife); NaN where there is one alone.
  double standard_error = std::numeric_limits<double>::quiet_NaN();
  double p_value = 1;  // (1 + permutations that have as much) / (1 + permutations)
  int64_t tokens = 0;
};

/// Where documents begin, [documents + 1], the last N.
using Documents = std::span<const int64_t>;

/// `experts` [N, stride] of one layer, of which the first K of each row are read; -1 is none. E experts.
Information mutual_information(std::span<const int16_t> experts, int64_t stride, int64_t places, int64_t width,
                               const Labels& labels, Documents documents, int64_t permutations, uint64_t seed);

}  // namespace coterie::lens

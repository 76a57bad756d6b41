#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "lens/choices.h"
#include "threads/pool.h"

namespace coterie::lens {

/// Texts that a model has read, and what its routers decided.
struct Corpus {
  std::vector<int32_t> ids;                // [N], of all documents one after the other
  std::vector<int32_t> position;           // [N] in the window it was read in
  std::vector<int32_t> tag;                // [N] part of speech, -1 where there is none; empty where nobody tagged
  std::vector<std::string> tags;           // what they are called
  std::vector<int64_t> documents;          // [D + 1] where each begins, the last N
  std::vector<std::string> names, genres;  // [D]
  RouterShape shape;
  Choices choices;                                 // [N, L, K]
  std::function<std::string(int32_t id)> text_of;  // what a token says

  int64_t tokens() const { return std::ssize(ids); }
};

struct StudyOptions {
  int64_t permutations = 20;
  uint64_t seed = 1;
  int64_t least = 5;  // of a token id or tag: those seen less often are not class of their own
};

/// Everything the report shows, as JSON (docs/guides/lens.md names the fields): loads, entropies, mutual information,
/// what each expert takes, co-activation, vocabulary specialisation, paths.
base::Json study(const Corpus& corpus, threads::Pool& pool, const StudyOptions& options);

/// Of each layer, the share of a token's experts that are the same in both: router saturation where `b` is of the final
/// checkpoint of `a`'s training (OLMoE, Muennighoff et al. 2024, arXiv:2409.02060, section 5.1). Of the same tokens.
std::vector<double> agreement(const RouterShape& shape, const Choices& a, const Choices& b);

}  // namespace coterie::lens

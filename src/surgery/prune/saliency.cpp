#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "layers/moe/routers/kind.h"
#include "surgery/prune/prune.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;

/// The `count` candidates of highest worth, ascending.
std::vector<int64_t> best(std::vector<int64_t> candidates, const std::vector<double>& worth, int64_t count) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](int64_t a, int64_t b) { return worth[static_cast<size_t>(a)] > worth[static_cast<size_t>(b)]; });
  candidates.resize(static_cast<size_t>(count));
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

std::vector<int64_t> numbers(int64_t begin, int64_t end) {
  std::vector<int64_t> all(static_cast<size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

void check(const layers::MoeSpec& moe, int64_t keep, bool uneven) {
  const layers::RouterSpec& router = moe.router;
  using Selection = layers::RouterSpec::Selection;
  if (router.selection != Selection::top_k && router.selection != Selection::sample &&
      router.selection != Selection::sparsemixer)
    base::fail(
        ErrorKind::unsupported, "prune",
        "the routers choose by {}: only for routers that choose the best k is it known which experts matter least",
        layers::kind_of(router.selection).name);
  if (keep < router.experts_per_token)
    base::fail(ErrorKind::bad_input, "prune.keep", "is {}, but a token takes {} experts", keep,
               router.experts_per_token);
  if (keep > moe.experts_with_weights())
    base::fail(ErrorKind::bad_input, "prune.keep", "is {}, but a layer has {} experts", keep,
               moe.experts_with_weights());
  if (router.groups > 1 && uneven)
    base::fail(ErrorKind::unsupported, "prune.uneven", "the router's {} groups must stay equal", router.groups);
  if (router.groups > 1 &&
      (keep % router.groups != 0 || keep / router.groups * router.groups_kept < router.experts_per_token))
    base::fail(ErrorKind::unsupported, "prune.keep",
               "{} experts in the router's {} groups, of which a token sees {}: expected a multiple of {} with enough "
               "for {} experts",
               keep, router.groups, router.groups_kept, router.groups, router.experts_per_token);
}

}  // namespace

KeptExperts choose_experts(const models::ModelSpec& spec, const std::map<int64_t, ExpertSaliency::Layer>& layers,
                           int64_t keep, bool uneven) {
  if (layers.empty())
    base::fail(ErrorKind::bad_input, "prune", "a {} model has no experts to prune", spec.family.shown());
  KeptExperts kept;
  struct Candidate {
    double worth;
    int64_t layer, expert;
  };
  std::vector<Candidate> rest;
  for (const auto& [number, layer] : layers) {
    const auto& moe = std::get<layers::MoeSpec>(spec.blocks[static_cast<size_t>(number)].ffn);
    const layers::RouterSpec& router = moe.router;
    const int64_t experts = moe.experts_with_weights();  // those without any always stay
    check(moe, keep, uneven);
    const std::vector<double> saliency = layer.saliency();
    if (!uneven) {
      const int64_t group = experts / router.groups;
      for (int64_t g = 0; g < router.groups; ++g)
        for (const int64_t e : best(numbers(g * group, (g + 1) * group), saliency, keep / router.groups))
          kept[number].push_back(e);
      continue;
    }
    const double sum = std::accumulate(saliency.begin(), saliency.end(), 0.0);
    kept[number] = best(numbers(0, experts), saliency, router.experts_per_token);
    for (int64_t e = 0; e < experts; ++e)
      if (!std::binary_search(kept[number].begin(), kept[number].end(), e))
        rest.push_back({sum > 0 ? saliency[static_cast<size_t>(e)] / sum : 0, number, e});
  }
  if (!uneven) return kept;
  int64_t room = keep * std::ssize(layers);
  for (const auto& [number, experts] : kept) room -= std::ssize(experts);
  std::stable_sort(rest.begin(), rest.end(), [](const Candidate& a, const Candidate& b) { return a.worth > b.worth; });
  rest.resize(static_cast<size_t>(std::min<int64_t>(room, std::ssize(rest))));
  for (const Candidate& candidate : rest) kept[candidate.layer].push_back(candidate.expert);
  for (auto& [number, experts] : kept) std::sort(experts.begin(), experts.end());
  return kept;
}

}  // namespace coterie::surgery

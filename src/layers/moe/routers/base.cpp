#include <algorithm>

#include "base/error.h"
#include "layers/moe/routers/balanced_assignment.h"
#include "layers/moe/routers/kind.h"
#include "layers/moe/routers/top_k.h"

// BASE layers (Lewis et al. 2021, arXiv:2103.16716): in training the tokens of a step are assigned so that every expert
// gets as many as the others and the sum of their logits is the largest; outside of it each goes to its largest logit.
// One expert a token, its output times sigmoid(h): the layer gives x + sigmoid(h) · expert(x), as the block adds x.
namespace coterie::layers {

namespace {

void assign_base(const BatchChoice& batch, int32_t* ids) {
  const std::vector<int32_t> assigned = balanced_assignment(batch.logits);
  std::copy(assigned.begin(), assigned.end(), ids);
}

void check_base(const RouterSpec& spec, std::string_view where) {
  if (spec.experts_per_token != 1 || spec.score != RouterSpec::Score::sigmoid || spec.renormalise || spec.groups != 1 ||
      spec.selection_bias || spec.capacity || spec.combine != RouterSpec::Combine::weighted)
    base::fail(base::ErrorKind::bad_input, where,
               "a BASE layer assigns one expert to a token, evenly, and weighs it by score: sigmoid; no "
               "renormalisation, no sum, no groups, no bias of selection, no capacity");
}

}  // namespace

extern const RouterKind kBase;
const RouterKind kBase = {.name = "base",
                          .even = true,
                          .check = check_base,
                          .choose = choose_top_k,
                          .assign = assign_base,
                          .choice = describe_evened};

}  // namespace coterie::layers

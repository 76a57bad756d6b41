#include "layers/moe/choose.h"

#include "layers/moe/routers/kind.h"

namespace coterie::layers {

int64_t choose_scratch(const RouterSpec& spec) { return 2 * spec.experts + spec.groups; }

void choose(const TokenChoice& token, int32_t* ids, float* weights) {
  const RouterKind& kind = kind_of(token.spec.selection);
  kind.choose(token, ids);
  kind.weigh(token, {ids, static_cast<size_t>(token.spec.experts_per_token)}, weights);
}

int64_t rank_experts(const TokenChoice& token, int32_t* ids) {
  RouterSpec all = token.spec;
  all.experts_per_token = all.groups_kept * all.group_size();
  kind_of(all.selection)
      .choose({all, token.logits, token.selection_bias, token.draw, token.scratch, token.training}, ids);
  return all.experts_per_token;
}

}  // namespace coterie::layers

#pragma once

#include <string>

#include "layers/moe/choose.h"

namespace coterie::layers {

/// What decides, into values [E]: the logits; or the scores, with the bias of selection or where groups are scored by
/// sums. All scores grow with the logit, so the best k scores are the best k logits unless something is added to them;
/// choosing by logits also tells apart what rounds to the same score.
void what_decides(const TokenChoice& token, double* values);

/// The K experts with the best keys [E], in the groups that are best by `values` [E]. group_keys [groups] is scratch.
void best_experts(const RouterSpec& spec, const double* values, const double* keys, double* group_keys, int32_t* ids);

/// RouterKind::choose of Selection::top_k, and of rules that are it outside of training.
void choose_top_k(const TokenChoice& token, int32_t* ids);

/// RouterKind::choice of rules that in training even the loads of a step, and are top_k outside of it.
std::string describe_evened(const RouterSpec& spec, const std::string& value);

}  // namespace coterie::layers

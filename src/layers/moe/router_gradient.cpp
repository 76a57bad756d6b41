#include "layers/moe/router_gradient.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "layers/moe/router_loss.h"
#include "layers/moe/scores.h"
#include "ops/tape.h"

namespace coterie::layers {

namespace {

// softmax of x[0, n) in f64.
std::vector<double> softmax(const float* x, int64_t n) {
  std::vector<double> p(x, x + n);
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v - top);
  for (double& v : p) v /= sum;
  return p;
}

// The i-th weight is a softmax over the experts that were left and near the best of them, which count as given.
void sparsemixer_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids,
                          const double* dweights, float* dlogits) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const float top = logits[ids[i]];
    const auto share = [&](int32_t e) {
      if (std::find(ids.begin(), ids.begin() + static_cast<int64_t>(i), e) != ids.begin() + static_cast<int64_t>(i))
        return 0.0;
      const float distance = (top - logits[e]) / std::max(std::abs(logits[e]), top);
      return distance > 2 * spec.near_best ? 0.0 : std::exp(static_cast<double>(logits[e]) - static_cast<double>(top));
    };
    double sum = 0;
    for (int32_t e = 0; e < spec.experts; ++e) sum += share(e);
    const double d = dweights[i] * static_cast<double>(spec.scale) / sum;
    for (int32_t e = 0; e < spec.experts; ++e) dlogits[e] -= static_cast<float>(d * share(e) / sum);
    dlogits[ids[i]] += static_cast<float>(d);
  }
}

}  // namespace

void choose_backward(const RouterSpec& spec, const float* logits, std::span<const int32_t> ids, const double* dweights,
                     float* dlogits) {
  if (spec.selection == RouterSpec::Selection::sparsemixer)
    return sparsemixer_backward(spec, logits, ids, dweights, dlogits);
  const size_t k = ids.size();
  const bool all = spec.order == RouterSpec::Order::score_then_select;
  // The scores of the chosen; a softmax may have been taken over all experts, or over them alone.
  std::vector<double> scores(k), all_scores;
  std::vector<float> chosen(k);
  for (size_t i = 0; i < k; ++i) chosen[i] = logits[ids[i]];
  switch (spec.score) {
    case RouterSpec::Score::softmax:
      if (all) {
        all_scores = softmax(logits, spec.experts);
        for (size_t i = 0; i < k; ++i) scores[i] = all_scores[static_cast<size_t>(ids[i])];
      } else {
        scores = softmax(chosen.data(), static_cast<int64_t>(k));
      }
      break;
    case RouterSpec::Score::sigmoid:
      for (size_t i = 0; i < k; ++i) scores[i] = sigmoid(static_cast<double>(chosen[i]));
      break;
    case RouterSpec::Score::sqrt_softplus:
      for (size_t i = 0; i < k; ++i) scores[i] = std::sqrt(softplus(static_cast<double>(chosen[i])));
      break;
  }

  std::vector<double> d(dweights, dweights + k);
  for (double& v : d) v *= static_cast<double>(spec.scale);
  if (spec.renormalise) {  // w_i = s_i / S: ds_i = (dw_i - Σ_j dw_j w_j) / S
    double sum = spec.renormalise_epsilon, along = 0;
    for (const double s : scores) sum += s;
    for (size_t i = 0; i < k; ++i) along += d[i] * scores[i] / sum;
    for (double& v : d) v = (v - along) / sum;
  }
  const auto add = [&](size_t i, double value) { dlogits[ids[i]] += static_cast<float>(value); };
  switch (spec.score) {
    case RouterSpec::Score::softmax: {  // dx_i = p_i (dp_i - Σ_j dp_j p_j)
      double along = 0;
      for (size_t i = 0; i < k; ++i) along += d[i] * scores[i];
      for (size_t e = 0; e < all_scores.size(); ++e) dlogits[e] -= static_cast<float>(all_scores[e] * along);
      for (size_t i = 0; i < k; ++i) add(i, scores[i] * (all ? d[i] : d[i] - along));
      return;
    }
    case RouterSpec::Score::sigmoid:
      for (size_t i = 0; i < k; ++i) add(i, d[i] * scores[i] * (1 - scores[i]));
      return;
    case RouterSpec::Score::sqrt_softplus:  // √ vanishes only where exp does
      for (size_t i = 0; i < k; ++i)
        if (scores[i] > 0) add(i, d[i] * sigmoid(static_cast<double>(chosen[i])) / (2 * scores[i]));
      return;
  }
}

void record_router(const Batch& batch, const RouterSpec& spec, const Routed& routed, ops::RoutingPlan& plan) {
  // choose_backward has its test, but finite differences of a whole Phi-3.5-MoE do not agree yet: it is not known
  // whether steps leave the set of near experts or the rule is wrong.
  if (spec.selection == RouterSpec::Selection::sparsemixer) ops::refuse_tape(batch.context, "sparsemixer router");
  ops::Tape& tape = *batch.context.tape;
  plan.weight_gradient = tape.keep(1, plan.slots()).data;
  std::fill_n(plan.weight_gradient, plan.slots(), 0.0f);
  const tensor::ConstMatrix logits = routed.logits, saved = tape.save(logits);
  const std::span<const int32_t> chosen(tape.save(routed.chosen), routed.chosen.size());
  const std::span<const SequenceRows> sequences(tape.save(batch.sequences), batch.sequences.size());
  tape.record({}, [spec, layer = routed.layer, logits, saved, plan, chosen, sequences,
                   losses = batch.router_loss](ops::Reverse& back) {
    const tensor::Matrix dlogits = back.gradient(logits);
    const int64_t experts = plan.experts();
    std::vector<int32_t> expert_of(static_cast<size_t>(plan.slots()));
    for (int64_t e = 0; e < experts; ++e)
      std::fill(expert_of.begin() + plan.expert_offset[static_cast<size_t>(e)],
                expert_of.begin() + plan.expert_offset[static_cast<size_t>(e) + 1], static_cast<int32_t>(e));
    back.context().pool.split(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<int32_t> ids;
      std::vector<double> dweights;
      for (int64_t t = begin; t < end; ++t) {
        ids.clear(), dweights.clear();
        for (int64_t c = plan.token_offset[static_cast<size_t>(t)]; c < plan.token_offset[static_cast<size_t>(t) + 1];
             ++c) {
          const auto slot = static_cast<size_t>(plan.token_slot[static_cast<size_t>(c)]);
          ids.push_back(expert_of[slot]);
          dweights.push_back(static_cast<double>(plan.weight_gradient[slot]));
        }
        choose_backward(spec, saved.row(t), ids, dweights.data(), dlogits.row(t));
      }
    });
    if (!losses) return;
    const Routed seen = {.layer = layer, .plan = plan, .logits = saved, .chosen = chosen, .sequences = sequences};
    losses->add_gradient(seen, {.logits = dlogits, .weights = plan.weight_gradient});
  });
}

}  // namespace coterie::layers

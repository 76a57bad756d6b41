#include "layers/moe/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"
#include "layers/lora.h"
#include "layers/moe/capacity.h"
#include "layers/moe/noise.h"
#include "layers/moe/router_gradient.h"
#include "layers/moe/router_hook.h"
#include "layers/moe/routers/kind.h"
#include "ops/elementwise.h"
#include "ops/jitter.h"
#include "ops/matmul.h"
#include "ops/moe/experts.h"
#include "ops/row_share.h"

namespace coterie::layers {

using tensor::ConstMatrix;
using tensor::Matrix;

void Router::visit(TensorVisitor& visitor, const std::string& path) {
  const auto vector = [&](const char* name, bool there, int64_t n, Vector& slot) {
    if (there) visitor.vector({path + name, Place::router}, n, slot);
  };
  if (spec_.expert_scale) vector(".expert_scale", true, spec_.experts, expert_scale_);
  if (!spec_.has_map()) return;
  if (spec_.input_norm) visitor.vector({path + ".norm", Place::norms}, width_, norm_);
  const int64_t e = spec_.experts, h = spec_.hidden;
  if (h > 0) visitor.matrix({path + ".hidden", Place::router, true}, h, width_, hidden_);
  vector(".hidden.bias", h > 0 && spec_.bias, h, hidden_bias_);
  visitor.matrix({path, Place::router, true}, e, h > 0 ? h : width_, weight_);
  if (h == 0) visitor.lora({path, Place::router, true}, e, width_, lora_);
  vector(".bias", spec_.bias, e, bias_);
  if (spec_.noise) visitor.matrix({path + ".noise", Place::router, true}, e, width_, noise_);
  vector(".noise.bias", spec_.noise_bias, e, noise_bias_);
  if (spec_.selection_bias)
    visitor.vector({.path = path + ".selection_bias", .place = Place::router, .buffer = true}, e, selection_bias_);
}

void Router::map(const Batch& batch, ops::Context& context, ConstMatrix x, Matrix logits) const {
  if (spec_.hidden == 0) {
    ops::matmul(context, x, weight_, lora_.magnitude ? nullptr : bias_.data(), logits);
    return add_lora(batch, x, lora_, bias_.data(), logits);
  }
  ops::RoutingPlan storage;
  const ops::ExpertInput in{{}, hidden_, nullptr, hidden_bias_.data()};
  const ops::ExpertOutput out{weight_, bias_.data()};
  ops::experts(context, x, ops::dense_plan(x.rows, storage), {&in, 1}, {&out, 1}, ops::Activation::relu, spec_.hidden,
               logits);
}

namespace {

/// The rule over a batch: whom each token goes to and by which weights.
class Choosing {
 public:
  Choosing(const Batch& batch, const RouterSpec& spec, int64_t layer, bool of_mixer, ConstMatrix logits,
           const float* selection_bias)
      : batch_(batch),
        spec_(spec),
        kind_(kind_of(spec.selection)),
        layer_(layer),
        of_mixer_(of_mixer),
        logits_(logits),
        selection_bias_(selection_bias),
        choices_(choices_per_token(spec)),
        scratch_size_(choose_scratch(spec)),
        scratch_(batch.context.arena.take<double>(batch.context.pool.threads() * scratch_size_)) {}

  int64_t choices() const { return choices_; }

  void choose(int32_t* ids, float* weights) const {
    if (kind_.assign && (batch_.pass.training || !kind_.choose)) {
      kind_.assign({spec_, logits_, batch_.sequences}, ids);
      return weigh(spec_, ids, weights);
    }
    for_tokens([&](const TokenChoice& token, int64_t row) {
      // A hook's rule may give a token fewer experts than there are places for.
      const RouterKind& kind = &token.spec == &spec_ ? kind_ : kind_of(token.spec.selection);
      const int64_t count = &token.spec == &spec_ ? choices_ : token.spec.experts_per_token;
      int32_t* const first = ids + row * choices_;
      kind.choose(token, first);
      kind.weigh(token, {first, static_cast<size_t>(count)}, weights + row * choices_);
      std::fill(first + count, first + choices_, -1);
      std::fill(weights + row * choices_ + count, weights + (row + 1) * choices_, 0.0f);
    });
  }

  /// By `spec`, which may be this router's with another way to combine.
  void weigh(const RouterSpec& spec, const int32_t* ids, float* weights) const {
    for_tokens([&](TokenChoice token, int64_t row) {
      const int32_t* const first = ids + row * choices_;
      const auto count = static_cast<size_t>(std::find(first, first + choices_, -1) - first);
      const TokenChoice by{spec, token.logits, token.selection_bias, token.draw, token.scratch, token.training};
      kind_.weigh(by, {first, count}, weights + row * choices_);
    });
  }

  /// ids as keep_to_capacity leaves them.
  Overflow limit(int32_t* ids, const float* weights) const {
    const int64_t n = logits_.rows;
    if (spec_.combine == RouterSpec::Combine::sum &&
        spec_.capacity->order == RouterSpec::Capacity::Order::probability) {
      RouterSpec weighted = spec_;
      weighted.combine = RouterSpec::Combine::weighted;
      auto* const scores = batch_.context.arena.take<float>(n * choices_);
      weigh(weighted, ids, scores);
      weights = scores;
    }
    std::vector<const SequenceRows*> of(static_cast<size_t>(n));
    for (const SequenceRows& s : batch_.sequences)
      for (int64_t r = s.first_row; r < s.first_row + s.rows; ++r) of[static_cast<size_t>(r)] = &s;
    return keep_to_capacity(spec_, n, choices_, weights, ids, [&](int64_t t, int32_t* ranked) {
      return rank_experts(token(*of[static_cast<size_t>(t)], t, 0), ranked);
    });
  }

 private:
  const RouterSpec& rule(const SequenceRows& s) const {
    const RouterSpec* const rule = s.step.routers && !of_mixer_ ? s.step.routers->rule(layer_) : nullptr;
    return rule ? *rule : spec_;
  }
  TokenChoice token(const SequenceRows& s, int64_t row, int worker) const {
    return {rule(s),
            logits_.row(row),
            selection_bias_,
            {s.step.random_key, layer_, batch_.positions[static_cast<size_t>(row)],
             batch_.ids.empty() ? -1 : batch_.ids[static_cast<size_t>(row)]},
            {scratch_ + worker * scratch_size_, static_cast<size_t>(scratch_size_)},
            batch_.pass.training};
  }
  template <typename F>
  void for_tokens(const F& f) const {
    constexpr int64_t kWorthWaking = 16;  // rows; fewer cost less than starting the other threads
    for (const SequenceRows& s : batch_.sequences) {
      const auto rows = [&](int64_t begin, int64_t end, int worker) {
        for (int64_t row = s.first_row + begin; row < s.first_row + end; ++row) f(token(s, row, worker), row);
      };
      s.rows < kWorthWaking ? rows(0, s.rows, 0) : batch_.context.pool.split(s.rows, 1, rows);
    }
  }

  const Batch& batch_;
  const RouterSpec& spec_;
  const RouterKind& kind_;
  int64_t layer_;
  bool of_mixer_;
  ConstMatrix logits_;
  const float* selection_bias_;
  int64_t choices_, scratch_size_;
  double* scratch_;
};

/// What a batch chose: [N * choices] each, in the context's arena.
struct Choices {
  const int32_t* chosen = nullptr;    // before a capacity took any away
  int32_t* kept = nullptr;            // -1 where it did
  int32_t* named = nullptr;           // kept, and those dropped by the experts they were dropped from
  float* weights = nullptr;           // of those named
  std::vector<int32_t> dropped = {};  // tokens, once for each assignment
  int64_t overflowed = 0;
};

Choices choose(ops::Context& context, const Choosing& choosing, const RouterSpec& spec, int64_t tokens, bool limits) {
  const int64_t places = tokens * choosing.choices();
  auto* const ids = context.arena.take<int32_t>(places);
  Choices choices = {ids, ids, ids, context.arena.take<float>(places)};
  choosing.choose(ids, choices.weights);
  if (!limits) return choices;
  auto* const before = context.arena.take<int32_t>(places);
  std::copy_n(ids, places, before);
  choices.overflowed = choosing.limit(ids, choices.weights).overflowed;
  auto* const left = context.arena.take<int32_t>(places);
  for (int64_t i = 0; i < places; ++i) {
    left[i] = std::max(ids[i], -1);
    if (ids[i] > -2) continue;
    ids[i] = -2 - ids[i];
    choices.dropped.push_back(static_cast<int32_t>(i / choosing.choices()));
  }
  if (choices.overflowed > 0) choosing.weigh(spec, ids, choices.weights);
  choices.chosen = before, choices.kept = left;
  return choices;
}

/// Calls `f` for the sequences that have a hook. Routers within attention have none: a layer's router is its FFN's.
template <typename F>
void for_hooks(const Batch& batch, bool of_mixer, const F& f) {
  for (const SequenceRows& s : batch.sequences)
    if (s.step.routers && !of_mixer) f(s, *s.step.routers);
}

/// Nobody gets a token by a logit of -infinity, whatever the rule; then the hooks have the last word.
void let_hooks_choose(const Batch& batch, bool of_mixer, int64_t layer, ConstMatrix logits, int64_t choices,
                      int32_t* ids, float* weights) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for_hooks(batch, of_mixer, [&](const SequenceRows& s, const RouterHook& hook) {
    for (int64_t r = s.first_row; r < s.first_row + s.rows; ++r)
      for (int64_t c = r * choices; c < (r + 1) * choices; ++c)
        if (ids[c] >= 0 && logits.row(r)[ids[c]] == kNever) ids[c] = -1;
    const auto count = static_cast<size_t>(s.rows * choices);
    hook.choices(layer, s.first_position, s.rows, {ids + s.first_row * choices, count},
                 {weights + s.first_row * choices, count});
  });
}

}  // namespace

ops::RoutingPlan Router::forward(const Batch& batch, int64_t layer, ConstMatrix x) const {
  ops::Context context = batch.context;
  context.precision = ops::Precision::f32;
  const tensor::ArenaScope scratch(context.arena);
  const int64_t n = x.rows, e = spec_.experts;
  base::require(spec_.selection != RouterSpec::Selection::hash || std::ssize(batch.ids) == n, "hash router",
                "{} token ids for {} rows", batch.ids.size(), n);
  const bool jitters = spec_.jitter > 0 && (batch.pass.training || spec_.always.jitter);
  const bool noises = spec_.noise && (batch.pass.training || spec_.always.noise);
  const bool limits = spec_.capacity && (batch.pass.training || spec_.always.capacity);

  if (spec_.input_norm) {
    const Matrix normed = context.arena.matrix(n, x.cols);
    ops::rms_norm(context, x, norm_.data(), *spec_.input_norm, normed);
    ops::scale(context, normed, 1 / std::sqrt(static_cast<float>(x.cols)));
    x = normed;
  }
  RouterRecord record{.rows = jitters || noises ? name_rows(batch) : std::span<const ops::DropoutRow>()};
  if (jitters) {
    const Matrix shaken = context.arena.matrix(n, x.cols);
    ops::jitter(context, x, spec_.jitter, record.rows, static_cast<uint64_t>(2 * layer), shaken);
    x = shaken;
  }
  const Matrix logits = context.arena.matrix(n, e);
  if (spec_.has_map())
    map(batch, context, x, logits);
  else
    std::fill_n(logits.data, n * e, 0.0f);
  if (spec_.softcap > 0) ops::softcap(context, logits, spec_.softcap);
  for_hooks(batch, of_mixer_, [&](const SequenceRows& s, const RouterHook& hook) {
    base::require(!context.tape, "router", "a sequence with a hook under a tape");
    if (const RouterSpec* rule = hook.rule(layer))
      base::require(rule->experts == e && choices_per_token(*rule) <= choices_per_token(spec_) &&
                        kind_of(rule->selection).choose && kind_of(spec_.selection).choose && !limits,
                    "router", "a hook's rule does not fit layer {}", layer);
    hook.logits(layer, s.first_position, logits.row_range(s.first_row, s.first_row + s.rows));
  });
  Matrix noise, noisy;
  if (noises) {
    noise = context.arena.matrix(n, e), noisy = context.arena.matrix(n, e);
    ops::matmul(context, x, noise_, noise_bias_.data(), noise);
    add_noise(logits, noise, record.rows, layer, noisy);
  }

  const Choosing choosing(batch, spec_, layer, of_mixer_, noises ? noisy : logits, selection_bias_.data());
  Choices choices = choose(context, choosing, spec_, n, limits);
  const auto count = static_cast<size_t>(n * choosing.choices());
  if (spec_.expert_scale) {
    auto* const before = context.arena.take<float>(n * choosing.choices());
    std::copy_n(choices.weights, count, before);
    for (size_t i = 0; i < count; ++i)
      if (choices.named[i] >= 0) choices.weights[i] *= expert_scale_.data()[choices.named[i]];
    record.unscaled = {before, count}, record.expert_scale = expert_scale_.data();
  }
  let_hooks_choose(batch, of_mixer_, layer, logits, choosing.choices(), choices.kept, choices.weights);
  const auto has_hook = [](const SequenceRows& s) { return s.step.routers != nullptr; };
  if (context.rows && std::any_of(batch.sequences.begin(), batch.sequences.end(), has_hook))
    context.rows->first_decides({choices.kept, count}, {choices.weights, count});
  ops::RoutingPlan plan = ops::make_plan({choices.kept, count}, {choices.weights, count}, n, choosing.choices(), e);
  plan.dropped = std::move(choices.dropped), plan.overflowed = choices.overflowed;
  const Routed routed = {.layer = layer,
                         .plan = plan,
                         .logits = logits,
                         .chosen = {choices.chosen, count},
                         .sequences = batch.sequences,
                         .noise = noise,
                         .noisy = noisy,
                         .input = x};
  if (Observer* const observer = batch.pass.observer)
    of_mixer_ ? observer->mixer_routed(routed) : observer->routed(routed);
  if (context.tape && spec_.has_map()) {
    record.named = {choices.named, count}, record.kept = {choices.kept, count};
    record_router(batch, spec_, of_mixer_, routed, record, plan);
  }
  return plan;
}

}  // namespace coterie::layers

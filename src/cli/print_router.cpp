#include "cli/print_router.h"

#include <fmt/format.h>

#include "layers/moe/routers/kind.h"

namespace coterie::cli {

namespace {

std::string scored(layers::RouterSpec::Score score, const std::string& of) {
  switch (score) {
    case layers::RouterSpec::Score::softmax: return fmt::format("softmax({})", of);
    case layers::RouterSpec::Score::sigmoid: return fmt::format("sigmoid({})", of);
    case layers::RouterSpec::Score::sqrt_softplus: return fmt::format("sqrt(softplus({}))", of);
  }
  return "?";
}

// "the 6 largest p + b in the 3 of 8 groups with the largest p + b"
std::string choice_words(const layers::RouterSpec& router, const std::string& value) {
  using Router = layers::RouterSpec;
  std::string chosen = layers::kind_of(router.selection).choice(router, value);
  if (router.groups_kept < router.groups)
    chosen += fmt::format(" in the {} of {} groups with the largest {}", router.groups_kept, router.groups,
                          router.group_score == Router::GroupScore::best ? value : "sum of their two best " + value);
  return chosen;
}

}  // namespace

std::string router_map(const layers::RouterSpec& router) {
  if (!router.has_map()) return "no logits";
  if (router.selection == layers::RouterSpec::Selection::soft)
    return fmt::format("h = scale · cos(x, slot), {} slots for each expert", router.slots);
  const std::string bias = router.bias ? " + bias" : "";
  const std::string cap =
      router.softcap > 0 ? fmt::format(", and h becomes {0:g} · tanh(h / {0:g})", router.softcap) : "";
  if (router.input_norm) return "h = W norm(x) / sqrt(width)" + bias + cap;
  return router.hidden == 0 ? "h = W x" + bias + cap
                            : fmt::format("h = W₂ relu(W₁ x{}){}, {} wide between", bias, bias, router.hidden);
}

std::string router_in_training(const layers::RouterSpec& router) {
  std::string text;
  const auto say = [&](bool always, const std::string& what) {
    text += (text.empty() ? "" : "; ") + std::string(always ? "" : "in training ") + what;
  };
  if (router.jitter > 0) say(router.always.jitter, fmt::format("x is jittered by ±{:g} %", 100 * router.jitter));
  if (router.noise)
    say(router.always.noise,
        fmt::format("h + normal · softplus(W_noise x{}) decides", router.noise_bias ? " + bias" : ""));
  if (router.capacity)
    say(router.always.capacity,
        fmt::format("an expert takes {:g} times its even share, {} first; what overflows {}", router.capacity->factor,
                    router.capacity->order == layers::RouterSpec::Capacity::Order::position ? "earlier tokens"
                                                                                            : "larger weights",
                    router.capacity->next_best ? "goes to the next best expert with room" : "is dropped"));
  return text;
}

std::string router_formula(const layers::RouterSpec& router) {
  using Router = layers::RouterSpec;
  const std::string scale = router.scale == 1 ? "" : fmt::format("{:g} × ", router.scale);
  if (const auto formula = layers::kind_of(router.selection).formula) return formula(router, scale);
  const std::string bias = router.selection_bias ? " + b" : "";
  if (router.combine == Router::Combine::sum)
    return fmt::format(
        "experts = {}; their outputs are summed{}",
        router.selection_bias ? "p = softmax(h); " + choice_words(router, "p + b") : choice_words(router, "h"),
        router.scale == 1 ? "" : fmt::format(", times {:g}", router.scale));
  if (router.order == Router::Order::select_then_score)
    return fmt::format("experts = {}; weight = {}{}{}", choice_words(router, "h" + bias), scale,
                       router.score == Router::Score::softmax ? "softmax over the chosen h" : scored(router.score, "h"),
                       router.renormalise ? " / sum over the chosen" : "");
  return fmt::format("p = {}; experts = {}; weight = {}p{}{}", scored(router.score, "h"),
                     choice_words(router, "p" + bias), scale,
                     router.renormalise ? " / sum of the chosen p" : " (not renormalised)",
                     router.expert_scale ? ", times a weight of the expert's own" : "");
}

}  // namespace coterie::cli

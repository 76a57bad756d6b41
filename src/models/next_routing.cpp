#include "models/next_routing.h"

#include <algorithm>
#include <vector>

#include "layers/moe/router_hook.h"

namespace coterie::models {

layers::RoutingGuess::Choices NextRouting::choices() const {
  // Nobody is shown a guess, and hooks, which change what is decided, do not decide here.
  ops::Context context = batch_.context;
  context.observer = nullptr, context.rows = nullptr;
  std::vector<layers::SequenceRows> sequences(batch_.sequences.begin(), batch_.sequences.end());
  for (layers::SequenceRows& s : sequences) s.step.routers = nullptr;
  const layers::Batch blind{
      .context = context, .positions = batch_.positions, .sequences = sequences, .ids = batch_.ids};
  const ops::RoutingPlan plan = next_.route(blind, layer_, x_);

  std::vector<int32_t> expert(static_cast<size_t>(plan.slots()));
  for (int64_t e = 0; e < plan.experts(); ++e)
    std::fill(expert.begin() + plan.expert_offset[static_cast<size_t>(e)],
              expert.begin() + plan.expert_offset[static_cast<size_t>(e) + 1], static_cast<int32_t>(e));
  Choices choices;
  for (size_t t = 0; t < static_cast<size_t>(plan.tokens); ++t)
    choices.per_row = std::max<int64_t>(choices.per_row, plan.token_offset[t + 1] - plan.token_offset[t]);
  choices.ids.assign(static_cast<size_t>(plan.tokens * choices.per_row), -1);
  for (size_t t = 0; t < static_cast<size_t>(plan.tokens); ++t)
    for (int32_t i = plan.token_offset[t]; i < plan.token_offset[t + 1]; ++i)
      choices.ids[t * static_cast<size_t>(choices.per_row) + static_cast<size_t>(i - plan.token_offset[t])] =
          expert[static_cast<size_t>(plan.token_slot[static_cast<size_t>(i)])];
  for (const layers::SequenceRows& s : batch_.sequences)
    if (s.step.routers)
      s.step.routers->guessed(layer_, s.first_position, s.rows,
                              std::span(choices.ids)
                                  .subspan(static_cast<size_t>(s.first_row * choices.per_row),
                                           static_cast<size_t>(s.rows * choices.per_row)));
  return choices;
}

}  // namespace coterie::models

#include "runtime/ranks/observed_routes.h"

#include <algorithm>
#include <vector>

namespace coterie::runtime {

namespace {

enum What : int64_t { ffn, mixer, mixture };

struct Head {
  int64_t what, layer, tokens, experts;
  int64_t rows, cols;  // of the logits
  int64_t slots, chosen, dropped, overflowed;
};

template <typename T>
std::vector<T> read(comm::Message& message, int64_t count) {
  const std::span<const T> values = message.array<T>(static_cast<size_t>(count));
  return {values.begin(), values.end()};
}

}  // namespace

void RoutesWriter::write(tensor::ConstMatrix matrix) {
  auto* values = message_.room<float>(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) values = std::copy_n(matrix.row(r), matrix.cols, values);
}

void RoutesWriter::write(const layers::Routed& router, bool of_mixer) {
  const ops::RoutingPlan& plan = router.plan;
  message_.value(Head{.what = of_mixer ? mixer : ffn,
                      .layer = router.layer,
                      .tokens = plan.tokens,
                      .experts = plan.experts(),
                      .rows = router.logits.rows,
                      .cols = router.logits.cols,
                      .slots = plan.slots(),
                      .chosen = std::ssize(router.chosen),
                      .dropped = std::ssize(plan.dropped),
                      .overflowed = plan.overflowed});
  write(router.logits);
  message_.array(std::span<const int32_t>(plan.expert_offset));
  message_.array(std::span<const int32_t>(plan.slot_token));
  message_.array(std::span<const float>(plan.slot_weight));
  message_.array(std::span<const int32_t>(plan.token_offset));
  message_.array(std::span<const int32_t>(plan.token_slot));
  message_.array(std::span<const int32_t>(plan.dropped));
  message_.array(router.chosen);
}

void RoutesWriter::mixed(const layers::Mixture& mixed) {
  message_.value(Head{.what = mixture,
                      .layer = mixed.layer,
                      .tokens = mixed.logits.rows,
                      .experts = mixed.experts,
                      .rows = mixed.logits.rows,
                      .cols = mixed.logits.cols,
                      .slots = 0,
                      .chosen = 0,
                      .dropped = 0,
                      .overflowed = 0});
  write(mixed.logits);
}

void replay_routes(comm::Message& message, std::span<const layers::SequenceStep> steps, layers::Observer& observer) {
  std::vector<layers::SequenceRows> sequences;
  for (int64_t row = 0; const layers::SequenceStep& step : steps) {
    sequences.push_back(
        {.step = step, .first_row = row, .rows = std::ssize(step.ids), .first_position = step.state->length()});
    row += std::ssize(step.ids);
  }
  while (!message.ended()) {
    const auto head = message.value<Head>();
    const std::span<const float> values = message.array<float>(static_cast<size_t>(head.rows * head.cols));
    const tensor::ConstMatrix logits(values.data(), head.rows, head.cols);
    if (head.what == mixture) {
      observer.mixed({.layer = head.layer, .experts = head.experts, .logits = logits, .sequences = sequences});
      continue;
    }
    ops::RoutingPlan plan;
    plan.tokens = head.tokens;
    plan.expert_offset = read<int32_t>(message, head.experts + 1);
    plan.slot_token = read<int32_t>(message, head.slots);
    plan.slot_weight = read<float>(message, head.slots);
    plan.token_offset = read<int32_t>(message, head.tokens + 1);
    plan.token_slot = read<int32_t>(message, head.slots);
    plan.dropped = read<int32_t>(message, head.dropped);
    plan.overflowed = head.overflowed;
    const std::span<const int32_t> chosen = message.array<int32_t>(static_cast<size_t>(head.chosen));
    const layers::Routed routed = {
        .layer = head.layer, .plan = plan, .logits = logits, .chosen = chosen, .sequences = sequences};
    head.what == mixer ? observer.mixer_routed(routed) : observer.routed(routed);
  }
}

}  // namespace coterie::runtime

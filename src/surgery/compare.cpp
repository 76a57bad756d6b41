#include "surgery/compare.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "layers/resident_state.h"
#include "models/score.h"
#include "ops/log_sum_exp.h"

namespace coterie::surgery {

namespace {

constexpr int64_t kPiece = 32;  // tokens whose logits are held at once

constexpr std::string_view kText =
    "The harbour was quiet when the first boats came home. Nobody had expected them before noon, and the market, "
    "which opens at seven on every day but Sunday, was still half asleep. \"Count the crates twice,\" she said, \"and "
    "write it down.\" There were 1,248 of them: herring, mackerel, and two that nobody could name.\n\n"
    "def area(width, height):\n    return width * height  # in square metres\n\n"
    "If x + 3 = 10, then x = 7. Water boils at 100 degrees Celsius at sea level; on a mountain it boils earlier, "
    "because the air presses less.";

layers::ResidentState state_of(const models::Decoder& decoder) {
  return {models::cache_block_bytes(decoder.spec(), tensor::DType::f32), tensor::DType::f32,
          models::state_floats(decoder.spec())};
}

std::vector<float> logits_of(ops::Context& context, const models::Decoder& decoder, layers::ResidentState& state,
                             std::span<const int32_t> ids, int64_t length) {
  state.reserve(std::ssize(ids));
  const models::SequenceStep step{
      .ids = ids, .state = &state, .logits = models::SequenceStep::Logits::all, .random_key = 1, .length = length};
  const tensor::Matrix logits = decoder.forward(context, {&step, 1});
  state.advance(std::ssize(ids));
  std::vector<float> result(logits.data, logits.data + logits.rows * logits.cols);
  context.arena.reset();
  return result;
}

}  // namespace

Comparison compare(ops::Context& context, const models::Decoder& first, const models::Decoder& second,
                   std::span<const int32_t> ids, const OnProgress& on_progress) {
  const int64_t vocabulary = first.spec().vocabulary, length = std::ssize(ids);
  if (second.spec().vocabulary != vocabulary)
    base::fail(base::ErrorKind::bad_input, "comparison", "vocabularies of {} and {} tokens", vocabulary,
               second.spec().vocabulary);
  if (ids.empty()) base::fail(base::ErrorKind::bad_input, "comparison", "there are no tokens to compare on");
  layers::ResidentState a_state = state_of(first), b_state = state_of(second);
  Comparison result;
  double low = 0, high = 0;
  int64_t scored = 0, same = 0;
  for (int64_t t = 0; t < length; t += kPiece) {
    const auto piece = ids.subspan(static_cast<size_t>(t), static_cast<size_t>(std::min(kPiece, length - t)));
    if (on_progress) on_progress("comparing", t, length);
    const std::vector<float> a = logits_of(context, first, a_state, piece, length);
    const std::vector<float> b = logits_of(context, second, b_state, piece, length);
    for (int64_t r = 0; r < std::ssize(piece); ++r) {
      const float *x = a.data() + r * vocabulary, *y = b.data() + r * vocabulary;
      const double x_total = ops::log_sum_exp(x, vocabulary), y_total = ops::log_sum_exp(y, vocabulary);
      for (int64_t v = 0; v < vocabulary; ++v) {
        const auto p = static_cast<double>(x[v]), q = static_cast<double>(y[v]);
        const double difference = std::abs(p - q);
        if (!(difference <= result.largest)) result.largest = difference;  // a NaN stays
        result.divergence += std::exp(p - x_total) * ((p - x_total) - (q - y_total));
      }
      const auto [least, most] = std::minmax_element(x, x + vocabulary);
      low = t + r == 0 ? static_cast<double>(*least) : std::min(low, static_cast<double>(*least));
      high = t + r == 0 ? static_cast<double>(*most) : std::max(high, static_cast<double>(*most));
      same += std::max_element(x, x + vocabulary) - x == std::max_element(y, y + vocabulary) - y;
      if (t + r + 1 == length) continue;
      const auto next = static_cast<size_t>(ids[static_cast<size_t>(t + r + 1)]);
      result.first_loss += x_total - static_cast<double>(x[next]);
      result.second_loss += y_total - static_cast<double>(y[next]);
      ++scored;
    }
  }
  result.tokens = length;
  result.spread = high - low;
  result.divergence /= static_cast<double>(length);
  result.same_best = static_cast<double>(same) / static_cast<double>(length);
  if (scored > 0) result.first_loss /= static_cast<double>(scored), result.second_loss /= static_cast<double>(scored);
  return result;
}

base::Json to_json(const Comparison& c) {
  return {{"tokens", c.tokens},
          {"largest_difference", c.largest},
          {"logit_spread", c.spread},
          {"relative_difference", c.relative()},
          {"kl_divergence", c.divergence},
          {"same_best_token", c.same_best},
          {"parent_cross_entropy", c.first_loss},
          {"cross_entropy", c.second_loss}};
}

std::vector<int32_t> tokens_to_compare(const families::Model& model, const std::string& text, int64_t count) {
  const models::ModelSpec& spec = model.decoder->spec();
  count = std::min(count, spec.context);
  std::vector<int32_t> ids;
  if (model.tokenizer) {
    ids = model.tokenizer->encode(text.empty() ? std::string(kText) : text, true);
    if (std::ssize(ids) > count) ids.resize(static_cast<size_t>(count));
    return ids;
  }
  if (!text.empty())
    base::fail(base::ErrorKind::bad_input, "compare.text", "the model has no tokenizer to read it with: {}",
               model.no_tokenizer);
  base::Rng rng(1, 0);
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint32_t>(spec.vocabulary))));
  return ids;
}

}  // namespace coterie::surgery

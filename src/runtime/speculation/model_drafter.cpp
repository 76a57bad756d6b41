#include "runtime/speculation/model_drafter.h"

#include <algorithm>
#include <limits>

namespace coterie::runtime {

Draft ModelDrafter::propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) {
  using Logits = models::SequenceStep::Logits;
  const auto size = std::ssize(tokens);
  most = std::min(most, engine_.context_size() - size);
  if (most < 1) return {};
  Draft draft;
  Sampler chooses = sampler;
  std::vector<TokenId> all(tokens.begin(), tokens.end());
  read_.keep_prefix_for(*engine_.model().decoder, tokens.first(tokens.size() - 1), size);
  while (std::ssize(draft.tokens) < most) {
    const auto left = std::span(all).subspan(read_.ids.size());
    const auto count = std::min({std::ssize(left), engine_.step_tokens(), read_.cache.until_snapshot()});
    const auto ids = left.first(static_cast<size_t>(count));
    const bool to_the_end = ids.size() == left.size();
    const models::SequenceStep step{.ids = ids,
                                    .state = &read_.cache,
                                    .logits = to_the_end ? Logits::last : Logits::none,
                                    .random_key = sampler.options().seed,
                                    .length = std::ssize(all)};
    const tensor::Matrix logits = engine_.evaluate({&step, 1});
    read_.ids.insert(read_.ids.end(), ids.begin(), ids.end());
    read_.written_for = std::ssize(all);
    if (!to_the_end) continue;
    // What is drafted may be wrong: recurrent states go back to here.
    if (draft.tokens.empty()) read_.cache.remember();
    const auto known = std::min(logits_.size(), static_cast<size_t>(logits.cols));
    std::copy_n(logits.row(0), known, logits_.begin());
    std::fill(logits_.begin() + static_cast<std::ptrdiff_t>(known), logits_.end(),
              -std::numeric_limits<float>::infinity());
    all.push_back(chooses.sample(logits_, all));
    draft.tokens.push_back(all.back());
  }
  return draft;
}

}  // namespace coterie::runtime

#include "serve/prompt_order.h"

#include <algorithm>

namespace coterie::serve {

namespace {
// Clients whose turns are remembered. Who is forgotten goes first once, as a new one does.
constexpr size_t kMostClients = 4096;
}  // namespace

int64_t PromptOrder::level(const PromptCandidate& candidate) const {
  return candidate.priority + static_cast<int64_t>(candidate.waited_seconds / ageing_seconds_);
}

double PromptOrder::left(const PromptCandidate& candidate) const {
  return candidate.remaining_seconds - candidate.waited_seconds;
}

uint64_t PromptOrder::turn(std::string_view client) const {
  const auto found = turns_.find(client);
  return found == turns_.end() ? 0 : found->second;
}

std::optional<size_t> PromptOrder::next(std::span<const PromptCandidate> candidates) const {
  std::optional<size_t> shortest, by_turn, begun;
  int64_t highest = 0;
  for (size_t i = 0; i < candidates.size(); ++i)
    highest = i == 0 ? level(candidates[i]) : std::max(highest, level(candidates[i]));
  for (size_t i = 0; i < candidates.size(); ++i) {
    const PromptCandidate& candidate = candidates[i];
    if (level(candidate) < highest) continue;
    if (!shortest || left(candidate) < left(candidates[*shortest])) shortest = i;
    if (candidate.begun && (!begun || left(candidate) < left(candidates[*begun]))) begun = i;
    const auto rank = [&](const PromptCandidate& c) { return std::pair(turn(c.client), left(c)); };
    if (!by_turn || rank(candidate) < rank(candidates[*by_turn])) by_turn = i;
  }
  return begun ? shortest : by_turn;
}

void PromptOrder::begins(std::string_view client) {
  if (turns_.size() >= kMostClients && turns_.find(client) == turns_.end())
    turns_.erase(std::min_element(turns_.begin(), turns_.end(),
                                  [](const auto& a, const auto& b) { return a.second < b.second; }));
  turns_.insert_or_assign(std::string(client), ++clock_);
}

}  // namespace coterie::serve

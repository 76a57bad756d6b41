#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace coterie::serve {

/// A prompt that waits for its turn to be read, or has been read in part.
struct PromptCandidate {
  std::string_view client;
  int64_t priority = 0;
  double waited_seconds = 0;     // since it was submitted
  double remaining_seconds = 0;  // what is left of it will take
  bool begun = false;            // some of it has been read, or it has been admitted
};

/// Whose prompt is read next: one at a time. The highest priority first, which waiting raises; of those the one that
/// is being read, unless another has less left to do; else clients take turns, and a client's shortest goes first.
/// Having waited counts as seconds that are not left any more, so no long prompt waits for ever.
class PromptOrder {
 public:
  explicit PromptOrder(double ageing_seconds) : ageing_seconds_(ageing_seconds) {}

  /// The number of the next of `candidates`, which are in the order of their submission; nothing where there is none.
  std::optional<size_t> next(std::span<const PromptCandidate> candidates) const;
  /// A prompt of `client` begins: its next turn comes after everybody else's.
  void begins(std::string_view client);

 private:
  int64_t level(const PromptCandidate& candidate) const;
  double left(const PromptCandidate& candidate) const;
  uint64_t turn(std::string_view client) const;

  double ageing_seconds_;
  std::map<std::string, uint64_t, std::less<>> turns_;  // when a client's last prompt began
  uint64_t clock_ = 0;
};

}  // namespace coterie::serve

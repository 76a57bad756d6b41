#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/text_windows.h"
#include "runtime/engine.h"

namespace coterie::cli {

/// What a text costs more when an expert is silent: of the same predictions, token by token, the loss without it less
/// the loss with it.
struct ExpertWorth {
  int64_t layer = 0, expert = 0;
  double share = 0;           // of the tokens that are routed to it
  double cost = 0;            // mean difference, in nats a token
  double standard_error = 0;  // of the mean, taking predictions as independent
};

/// Silences each expert of each layer in turn: as many passes over the text as there are experts, and one. `progress`
/// is told what is under way, and may throw to stop.
std::vector<ExpertWorth> expert_worths(runtime::Engine& engine, const TextWindows& windows,
                                       const std::function<void(const std::string& text)>& progress);

/// A table for each layer, the costliest first.
std::string describe_worths(std::span<const ExpertWorth> worths);
base::Json worths_as_json(std::span<const ExpertWorth> worths);

}  // namespace coterie::cli

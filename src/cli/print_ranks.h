#pragma once

#include <array>
#include <string>

#include "base/json.h"
#include "runtime/inspection.h"
#include "runtime/machine.h"
#include "runtime/ranks/plan.h"

namespace coterie::cli {

/// What a model would need and do over ranks (coterie inspect --ranks): runtime::plan_ranks of what was inspected.
/// What each split over `ranks` would need and do, and one machine that holds the model.
struct Splits {
  std::array<runtime::SplitPlan, runtime::kSplits.size()> plans;
  runtime::SplitPlan alone;
};
/// By the limits of this machine, which each rank is taken to have.
Splits splits_of(const runtime::Inspection& model, const runtime::MachineLimits& machine, int ranks,
                 const runtime::Network& network);

runtime::RanksPlan plan_of(const runtime::Inspection& model, const runtime::MachineLimits& machine, int ranks,
                           const runtime::Network& network);
/// With a table of the splits (runtime::plan_splits).
std::string ranks_words(const runtime::RanksPlan& plan, const Splits& splits, const std::string& net);
base::Json ranks_json(const runtime::RanksPlan& plan, const Splits& splits, const std::string& net);

/// "split    memory of a rank   one text   prompts …", a line for each, and one for one machine that holds it all.
std::string splits_table(const Splits& splits);

}  // namespace coterie::cli

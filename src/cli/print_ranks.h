#pragma once

#include <string>

#include "base/json.h"
#include "runtime/inspection.h"
#include "runtime/machine.h"
#include "runtime/ranks/plan.h"

namespace coterie::cli {

/// What a model would need and do over ranks (coterie inspect --ranks): runtime::plan_ranks of what was inspected.
runtime::RanksPlan plan_of(const runtime::Inspection& model, const runtime::MachineLimits& machine, int ranks,
                           const runtime::Network& network);
std::string ranks_words(const runtime::RanksPlan& plan, const std::string& net);
base::Json ranks_json(const runtime::RanksPlan& plan, const std::string& net);

}  // namespace coterie::cli

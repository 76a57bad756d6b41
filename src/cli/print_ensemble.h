#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "runtime/engines.h"

namespace coterie::cli {

/// "gate: poet · weights poet 0.93, prophet 0.07" of the last prompt, or the mean weights of a gate that weighs by
/// token. Empty before it has decided anything, and for a model without a gate.
std::string describe_last(const std::optional<runtime::GateReport>& report);
/// The same, with how many prompts went to each model.
std::string describe_all(const std::optional<runtime::GateReport>& report);
/// As "gate" into what a command prints as JSON; nothing for a model without a gate.
void add_gate_report(const std::optional<runtime::GateReport>& report, base::Json& json);

}  // namespace coterie::cli

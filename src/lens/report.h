#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "lens/run_log.h"

namespace coterie::lens {

/// One page of HTML that needs nothing else: curves of the loss over tokens, FLOPs and seconds, of the optimiser and of
/// the routers, and a heat map of each layer's expert load over time, for one run or several to compare.
std::string training_report(std::span<const RunLog> runs);

}  // namespace coterie::lens

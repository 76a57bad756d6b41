#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "lens/run_log.h"

namespace coterie::lens {

/// One page of HTML that needs nothing else: curves of the loss over tokens, FLOPs and seconds, of the optimiser and of
/// the routers, and a heat map of each layer's expert load over time, for one run or several to compare.
std::string training_report(std::span<const RunLog> runs);

/// Whether a file is a page that training_report() made, which the next one may replace.
bool is_training_report(const std::filesystem::path& file);

}  // namespace coterie::lens

#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "runtime/expert_store/stream_figures.h"
#include "runtime/stream_forecast.h"

namespace coterie::cli {

/// Bytes a second that a disk is taken to read where nobody said what it does.
inline constexpr double kAssumedDisk = 1e9;

/// What `coterie inspect --memory` says: slots for experts, the least memory, tokens a second by the share of hits.
std::string stream_words(const runtime::StreamForecast& stream, double disk, bool assumed);
/// What reading experts from the disk has cost, in a line: hits, megabytes a token, the disk's rate and its share.
std::string reads_words(const runtime::StreamReport& report);
/// The same as JSON; null where nothing is read from the disk.
base::Json reads_json(const std::optional<runtime::StreamReport>& report);
base::Json stream_json(const runtime::StreamForecast& stream, double disk);

}  // namespace coterie::cli

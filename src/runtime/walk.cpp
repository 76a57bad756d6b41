#include "runtime/walk.h"

#include <charconv>
#include <cstdlib>

#include "base/cpu.h"
#include "base/error.h"
#include "runtime/machine_file.h"

namespace coterie::runtime {

namespace {

constexpr const char* kVariable = "COTERIE_READ_AHEAD";

/// The number is that of the list of walks: figures of another list are measured anew.
std::string key(const threads::Pool& pool, const kernels::KernelTable& kernels) {
  return fmt::format("walk 1 · {} · {} · {} threads", base::cpu().model, kernels.isa, pool.threads());
}

base::Json as_json(const std::vector<kernels::WalkTrial>& trials) {
  base::Json json = base::Json::array();
  for (const kernels::WalkTrial& trial : trials)
    json.push_back({{"streams", trial.walk.streams}, {"bytes_ahead", trial.walk.bytes}, {"gb_s", trial.gb_s}});
  return json;
}

bool valid(kernels::ReadAhead walk) {
  return (walk.streams == 1 || walk.streams == 2 || walk.streams == 4) && walk.bytes >= 0 && walk.bytes <= 65536;
}

/// Empty where the entry is not one that remember() wrote.
std::vector<kernels::WalkTrial> from_json(const base::Json& json) {
  std::vector<kernels::WalkTrial> trials;
  if (!json.is_array()) return {};
  try {
    for (const base::Json& entry : json) {
      base::JsonReader reader(entry, "walk");
      kernels::WalkTrial trial;
      trial.walk = {reader.integer("streams"), reader.integer("bytes_ahead")};
      trial.gb_s = reader.number("gb_s");
      if (!valid(trial.walk) || !(trial.gb_s > 0)) return {};
      trials.push_back(trial);
    }
  } catch (const base::Error&) {
    return {};
  }
  return trials;
}

/// Slower than any computer of this century reads its memory: the process was starved, or is emulated.
bool plausible(const std::vector<kernels::WalkTrial>& trials) {
  constexpr double kSlowest = 0.5;
  for (const kernels::WalkTrial& trial : trials)
    if (trial.gb_s >= kSlowest) return true;
  return false;
}

int64_t number(std::string_view text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

}  // namespace

kernels::ReadAhead parse_read_ahead(std::string_view text) {
  const size_t colon = text.find(':');
  kernels::ReadAhead walk{0, 0};
  if (colon != std::string_view::npos) walk = {number(text.substr(0, colon)), number(text.substr(colon + 1))};
  if (!valid(walk))
    throw base::Error(
        base::ErrorKind::bad_input, kVariable, fmt::format("expected STREAMS:BYTES, found \"{}\"", text),
        "STREAMS is 1, 2 or 4, BYTES is 0 to 65536, as in 4:2304; leave it unset to use what was measured");
  return walk;
}

std::optional<kernels::ReadAhead> forced_walk() {
  const char* forced = std::getenv(kVariable);
  if (!forced || !*forced) return {};
  return parse_read_ahead(forced);
}

Walk walk_of_this_machine(threads::Pool& pool, const kernels::KernelTable& kernels, bool measure_again,
                          const MeasureWalks& measure) {
  if (const auto forced = forced_walk()) return {*forced, Walk::Chosen::forced, {}};
  const std::string name = key(pool, kernels);
  if (!measure_again) {
    std::vector<kernels::WalkTrial> trials = from_json(recall(name));
    const kernels::ReadAhead walk = kernels::fastest_walk(trials);
    if (!trials.empty()) return {walk, Walk::Chosen::remembered, std::move(trials)};
  }
  std::vector<kernels::WalkTrial> trials = measure(kernels, pool);
  if (!plausible(trials)) return {};
  remember(name, as_json(trials));
  const kernels::ReadAhead walk = kernels::fastest_walk(trials);
  return {walk, Walk::Chosen::measured, std::move(trials)};
}

}  // namespace coterie::runtime

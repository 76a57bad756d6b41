#include "cli/print_stream.h"

#include <fmt/format.h>

#include "base/memory.h"
#include "cli/print_numbers.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

constexpr double kHits[] = {0.5, 0.8, 0.9};

double share(int64_t part, int64_t all) { return static_cast<double>(part) / static_cast<double>(all); }

}  // namespace

std::string stream_words(const runtime::StreamForecast& stream, double disk, bool assumed) {
  using base::human_bytes;
  std::string text = styled(fmt::format("in {} of memory\n", human_bytes(stream.memory)), Style::bold);
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("  {:<36}{}\n", what, value);
  };
  line("besides routed experts", human_bytes(std::max<int64_t>(stream.others, 0)));
  line("an expert, on average", fmt::format("{}; a token meets {} of {}", human_bytes(stream.expert_bytes),
                                            grouped(stream.experts_of_token), grouped(stream.experts)));
  line("at the least",
       fmt::format("{}: {} slots for experts", human_bytes(stream.least_memory()), grouped(stream.least_slots)));
  if (stream.all_fits()) {
    line("experts that stay in memory", "all: nothing is read from the disk once they are");
    return text;
  }
  if (!stream.runs()) {
    line("experts that stay in memory", styled("too few to run", Style::red));
    return text;
  }
  line("experts that stay in memory",
       fmt::format("{} slots, {} of all{}", grouped(stream.slots), percent(share(stream.slots, stream.experts)),
                   stream.slots < stream.experts_of_token ? ", fewer than one token meets" : ""));
  line("the disk reads",
       fmt::format("{:.1f} GB/s{}", disk / 1e9,
                   assumed ? " (assumed: --disk says another rate, coterie bench --disk measures it)" : ""));
  for (const double hits : kHits)
    line(fmt::format("if {:.0f} % are there when needed", 100 * hits),
         fmt::format("{:.1f} tokens a second", stream.tokens_per_second(hits, disk)));
  line(fmt::format("routed as {} routes, {:.0f} %", stream.fitted, 100 * stream.fitted_hit_share),
       fmt::format("{:.1f} tokens a second, {} read for each", 1 / stream.fitted_seconds,
                   human_bytes(static_cast<int64_t>(stream.fitted_bytes))));
  return text;
}

base::Json stream_json(const runtime::StreamForecast& stream, double disk) {
  base::Json at = base::Json::object();
  for (const double hits : kHits) at[fmt::format("{:.1f}", hits)] = stream.tokens_per_second(hits, disk);
  base::Json fitted = nullptr;
  if (stream.runs())
    fitted = {{"routing", stream.fitted},
              {"hit_share", stream.fitted_hit_share},
              {"missed_bytes_per_token", stream.fitted_bytes},
              {"tokens_per_second", stream.fitted_seconds > 0 ? base::Json(1 / stream.fitted_seconds) : nullptr}};
  return {{"memory", stream.memory},
          {"others", stream.others},
          {"experts", stream.experts},
          {"expert_bytes", stream.expert_bytes},
          {"experts_of_token", stream.experts_of_token},
          {"slots", stream.slots},
          {"least_slots", stream.least_slots},
          {"least_memory", stream.least_memory()},
          {"runs", stream.runs()},
          {"all_fits", stream.all_fits()},
          {"disk_bytes_per_second", disk},
          {"tokens_per_second_at_hit_share", at},
          {"fitted", fitted}};
}

}  // namespace coterie::cli

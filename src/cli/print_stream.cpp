#include "cli/print_stream.h"

#include <fmt/format.h>

#include "base/memory.h"
#include "base/plural.h"
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
  line("besides routed experts",
       fmt::format("{}, {} of context in it", human_bytes(stream.others), base::plural(stream.positions, "token")));
  line("an expert, on average", fmt::format("{}; a token meets {} of {}", human_bytes(stream.expert_bytes),
                                            grouped(stream.experts_of_token), grouped(stream.experts)));
  line("at the least",
       fmt::format("{}: {} slots for experts", human_bytes(stream.least_memory), grouped(stream.least_slots)));
  if (stream.all_fits()) {
    line("experts that stay in memory", "all: nothing is read from the disk once they are");
    return text;
  }
  if (!stream.runs()) {
    line("experts that stay in memory", styled("too few to run", Style::red));
    return text;
  }
  line("experts that stay in memory",
       fmt::format("{} slots in {}, {} of all{}", grouped(stream.slots), human_bytes(stream.slot_bytes),
                   percent(share(stream.slots, stream.experts)),
                   stream.slots < stream.experts_of_token ? ", fewer than one token meets" : ""));
  if (stream.prompt_tokens > 0)
    line("a prompt reads a missing expert", fmt::format("once for {} tokens", grouped(stream.prompt_tokens)));
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

std::string reads_words(const runtime::StreamReport& report) {
  const auto kind = [](std::string_view name, const runtime::StreamFigures::Kind& of) {
    if (of.tokens == 0) return std::string();
    std::string text =
        fmt::format(" · {} {:.1f} % hits, {:.1f} MB a token, waited {:.1f} ms a token", name, 100 * of.hit_share(),
                    of.bytes_per_token() / 1e6, 1e3 * of.stalled / static_cast<double>(of.tokens));
    if (of.ahead > 0)
      text += fmt::format(" ({} of {} experts guessed rightly, {:.1f} MB a token read ahead)", of.ahead_used, of.ahead,
                          static_cast<double>(of.ahead_bytes) / static_cast<double>(of.tokens) / 1e6);
    return text;
  };
  const runtime::StreamFigures& figures = report.figures;
  std::string text = "experts from the disk" + kind("prompt", figures.prompt) + kind("decode", figures.decode);
  if (const double rate = figures.bytes_per_second(); rate > 0) {
    text += fmt::format(" · {:.0f} MB/s", rate / 1e6);
    if (report.disk_rate > 0) text += fmt::format(", {:.0f} % of the rate measured at the start", 100 * report.share());
  }
  text +=
      fmt::format(" · {}, {} · look-ahead {}", report.reader, report.direct ? "direct" : "buffered", report.look_ahead);
  return report.look_ahead_gain > 0 ? text + fmt::format(" ({:.2f} ×)", report.look_ahead_gain) : text;
}

base::Json reads_json(const std::optional<runtime::StreamReport>& report) {
  if (!report) return nullptr;
  const auto kind = [](const runtime::StreamFigures::Kind& of) {
    return base::Json{{"tokens", of.tokens},
                      {"hits", of.hits},
                      {"misses", of.misses},
                      {"bytes", of.bytes},
                      {"prefetched", of.ahead},
                      {"prefetched_rightly", of.ahead_used},
                      {"bytes_read_ahead", of.ahead_bytes},
                      {"reading_seconds", of.reading},
                      {"stalled_seconds", of.stalled}};
  };
  return {{"decode", kind(report->figures.decode)},
          {"prompt", kind(report->figures.prompt)},
          {"slots", report->slots},
          {"experts", report->experts},
          {"slot_bytes", report->slot_bytes},
          {"bytes_per_second", report->figures.bytes_per_second()},
          {"disk_rate_at_start", report->disk_rate},
          {"reader", report->reader},
          {"direct", report->direct},
          {"look_ahead", report->look_ahead},
          {"look_ahead_gain", report->look_ahead_gain > 0 ? base::Json(report->look_ahead_gain) : base::Json(nullptr)}};
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
          {"least_memory", stream.least_memory},
          {"slot_bytes", stream.slot_bytes},
          {"context", stream.positions},
          {"prompt_tokens", stream.prompt_tokens},
          {"runs", stream.runs()},
          {"all_fits", stream.all_fits()},
          {"disk_bytes_per_second", disk},
          {"tokens_per_second_at_hit_share", at},
          {"fitted", fitted}};
}

}  // namespace coterie::cli

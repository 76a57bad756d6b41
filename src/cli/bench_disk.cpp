#include "cli/bench_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/memory.h"
#include "cli/terminal.h"
#include "runtime/disk_bench.h"
#include "runtime/expert_store/thread_reader.h"

namespace coterie::cli {

namespace {

std::string size_words(int64_t bytes) {
  return bytes >= 1 << 20 ? fmt::format("{} MiB", bytes >> 20) : fmt::format("{} KiB", bytes >> 10);
}

std::string how(const runtime::BlockReader& reader) {
  return fmt::format("{} by {}", reader.direct() ? "past the system's page cache" : "buffered by the system",
                     reader.name());
}

std::string as_text(const std::string& file, int64_t file_bytes, const runtime::BlockReader& reader,
                    const runtime::DiskBench& bench, const runtime::DiskBenchOptions& options) {
  std::string text =
      fmt::format("{}\n  {}, read {}\n\n", styled(file, Style::bold), base::human_bytes(file_bytes), how(reader));
  std::string head = fmt::format("  {:<26}", "GB/s, reads under way:");
  for (const int64_t depth : options.depths) head += fmt::format("{:>8}", depth);
  text += styled(head, Style::bold) + "\n";
  for (const int64_t size : options.sizes) {
    text += fmt::format("  {:<26}", "reads of " + size_words(size));
    for (const runtime::DiskRate& rate : bench.rates)
      if (rate.size == size) text += fmt::format("{:>8.2f}", rate.bytes_per_second() / 1e9);
    text += "\n";
  }
  const runtime::DiskRate& best = bench.fastest();
  text += fmt::format(
      "\n  {}: reads of {}, {} under way, {:.1f} ms each\n  {} read in {:.1f} s, no offset twice in a measurement{}\n",
      styled(fmt::format("{:.2f} GB/s at most", best.bytes_per_second() / 1e9), Style::bold), size_words(best.size),
      best.depth, 1e3 * best.latency, base::human_bytes(bench.bytes), bench.seconds,
      bench.checked ? "; the system says that a disk answered" : "");
  if (bench.rounds > 1)
    text += fmt::format(
        "  The file was read through before the time was up, so that each measurement was made {} times: the drive's "
        "own "
        "memory may have answered some of it, a larger file says more\n",
        bench.rounds);
  return text;
}

base::Json as_json(const std::string& file, int64_t file_bytes, const runtime::BlockReader& reader,
                   const runtime::DiskBench& bench) {
  base::Json rates = base::Json::array();
  for (const runtime::DiskRate& rate : bench.rates)
    rates.push_back({{"size", rate.size},
                     {"depth", rate.depth},
                     {"bytes", rate.bytes},
                     {"seconds", rate.seconds},
                     {"latency_seconds", rate.latency},
                     {"bytes_per_second", rate.bytes_per_second()}});
  return {{"file", file},
          {"file_bytes", file_bytes},
          {"reader", reader.name()},
          {"direct", reader.direct()},
          {"bytes", bench.bytes},
          {"seconds", bench.seconds},
          {"rounds", bench.rounds},
          {"from_disk", bench.checked},
          {"bytes_per_second", bench.fastest().bytes_per_second()},
          {"rates", rates}};
}

}  // namespace

int bench_disk_command(const std::string& file, double seconds, bool json) {
  const base::MappedFile mapped = base::MappedFile::open(file);
  runtime::DiskBenchOptions options;
  options.seconds = seconds;
  options.read_from_disks = runtime::bytes_read_from_disks;
  const std::filesystem::path path = file;
  const runtime::FileSample sample{0, mapped.bytes().first(std::min<size_t>(mapped.bytes().size(), 4096))};
  const auto deepest = static_cast<int>(*std::max_element(options.depths.begin(), options.depths.end()));
  const auto reader =
      runtime::make_thread_reader(runtime::StoredFiles({&path, 1}, {&sample, 1}, {.direct = true}), deepest);
  Progress progress;
  options.on_progress = [&](std::string_view text) { progress.show(text); };
  const runtime::DiskBench bench = runtime::bench_disk(*reader, mapped.size(), options);
  progress.clear();
  print(json ? as_json(file, mapped.size(), *reader, bench).dump(2) + "\n"
             : as_text(file, mapped.size(), *reader, bench, options));
  return 0;
}

}  // namespace coterie::cli

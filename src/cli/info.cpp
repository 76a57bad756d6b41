#include <fmt/format.h>

#include <cstdlib>
#include <memory>

#include "base/cpu.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "kernels/table.h"
#include "runtime/machine.h"
#include "runtime/version.h"
#include "runtime/walk.h"
#include "tensor/dtype.h"
#include "threads/topology.h"

namespace coterie::cli {

namespace {

struct InfoOptions {
  bool kernels = false, json = false, remeasure = false;
  int threads = 0;
};

std::string why(const kernels::Candidate& candidate, const kernels::KernelTable& chosen) {
  const char* forced = std::getenv("COTERIE_ISA");
  if (candidate.table == &chosen)
    return forced && *forced ? "chosen: COTERIE_ISA asks for it" : "chosen: the first in order that this CPU runs";
  if (!candidate.usable) return "not usable: " + candidate.reason;
  return forced && *forced ? "usable, but COTERIE_ISA asks for another" : "usable, but a better one is there";
}

std::string form(const kernels::MatmulKernel& kernel) {
  if (kernel.run == nullptr) return "none";
  const std::string tiles =
      kernel.tiles_from > 0 ? fmt::format(", by tiles from {} tokens on", kernel.tiles_from) : std::string();
  switch (kernel.form) {
    case kernels::ActivationForm::floats: return "f32 activations" + tiles;
    case kernels::ActivationForm::blocks32: return "int8 activations, blocks of 32" + tiles;
    case kernels::ActivationForm::blocks256: return "int8 activations, blocks of 256" + tiles;
  }
  return "?";
}

std::string_view name(runtime::Walk::Chosen chosen) {
  switch (chosen) {
    case runtime::Walk::Chosen::forced: return "forced by COTERIE_READ_AHEAD";
    case runtime::Walk::Chosen::measured: return "just measured";
    case runtime::Walk::Chosen::remembered: return "measured earlier; --remeasure";
    case runtime::Walk::Chosen::unmeasured: return "not measured";
  }
  return "?";
}

std::string words(kernels::ReadAhead walk) {
  return fmt::format("{} stream{}, {}", walk.streams, walk.streams == 1 ? "" : "s",
                     walk.bytes > 0 ? fmt::format("{} bytes prefetched ahead", walk.bytes) : "nothing prefetched");
}

std::string walk_text(const runtime::Walk& walk) {
  std::string text = fmt::format("\n{} {} ({})\n", styled("repacked weights are read in", Style::bold),
                                 words(walk.read_ahead), name(walk.chosen));
  for (const kernels::WalkTrial& trial : walk.trials)
    text += fmt::format("  {:<42}{:.1f} GB/s\n", words(trial.walk), trial.gb_s);
  return text;
}

base::Json as_json(const runtime::Walk& walk) {
  base::Json trials = base::Json::array();
  for (const kernels::WalkTrial& trial : walk.trials)
    trials.push_back(
        {{"streams", trial.walk.streams}, {"bytes_ahead", trial.walk.bytes}, {"bytes_per_second", trial.gb_s * 1e9}});
  return {{"streams", walk.read_ahead.streams},
          {"bytes_ahead", walk.read_ahead.bytes},
          {"chosen", name(walk.chosen)},
          {"trials", trials}};
}

std::string kernels_text(const kernels::KernelTable& chosen) {
  std::string text = styled(
      fmt::format("\nmatmul of {:<10}{:<24}{}\n", "weights", "--precision f32", "--precision fast"), Style::bold);
  for (int i = 0; i < tensor::kDTypes; ++i) {
    const auto dtype = static_cast<tensor::DType>(i);
    const auto& exact = chosen.matmul.exact[static_cast<size_t>(i)];
    const auto& fast = chosen.matmul.fast[static_cast<size_t>(i)];
    if (!exact.run && !fast.run) continue;
    text += fmt::format("  {:<18}{:<24}{}\n", tensor::name(dtype), form(exact), form(fast));
  }
  return text;
}

base::Json as_json(const threads::Topology& topology, const kernels::KernelTable& chosen, int threads,
                   const runtime::MachineLimits& machine, const runtime::Walk& walk) {
  base::Json candidates = base::Json::array(), formats = base::Json::object();
  for (const kernels::Candidate& candidate : kernels::candidates())
    candidates.push_back({{"isa", candidate.table->isa},
                          {"usable", candidate.usable},
                          {"chosen", candidate.table == &chosen},
                          {"why", why(candidate, chosen)}});
  for (int i = 0; i < tensor::kDTypes; ++i) {
    const auto& exact = chosen.matmul.exact[static_cast<size_t>(i)];
    const auto& fast = chosen.matmul.fast[static_cast<size_t>(i)];
    if (exact.run || fast.run)
      formats[std::string(tensor::name(static_cast<tensor::DType>(i)))] = {{"f32", form(exact)}, {"fast", form(fast)}};
  }
  return {{"version", runtime::version()},
          {"cpu", topology.model},
          {"logical_cpus", topology.cpus.size()},
          {"cores", topology.cores},
          {"numa_nodes", topology.nodes},
          {"cpu_quota", topology.quota},
          {"instruction_sets", base::cpu().features},
          {"kernels", candidates},
          {"isa", chosen.isa},
          {"matmul", formats},
          {"repacked_reads", as_json(walk)},
          {"threads", threads},
          {"memory_total", base::total_memory()},
          {"memory_available", base::available_memory()},
          {"read_bytes_per_second", machine.read_bytes_per_second},
          {"f32_flops_per_second", machine.f32_flops},
          {"int8_ops_per_second", machine.int8_ops},
          {"tile_ops_per_second", machine.tile_ops > 0 ? base::Json(machine.tile_ops) : base::Json(nullptr)},
          {"bf16_flops_per_second", machine.bf16_flops > 0 ? base::Json(machine.bf16_flops) : base::Json(nullptr)}};
}

std::string as_text(const InfoOptions& options, const threads::Topology& topology, const kernels::KernelTable& chosen,
                    int threads, const runtime::MachineLimits& machine, const runtime::Walk& walk) {
  std::string text = styled(fmt::format("coterie {}\n", runtime::version()), Style::bold);
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("{:<14}{}\n", what, value);
  };
  line("CPU",
       fmt::format("{}: {}, {}, {}{}", topology.model, base::plural(topology.cores, "core"),
                   base::plural(std::ssize(topology.cpus), "logical CPU"), base::plural(topology.nodes, "NUMA node"),
                   topology.quota > 0 ? fmt::format(", quota of {:g} CPUs", topology.quota) : ""));
  line("instructions", fmt::format("{}", fmt::join(base::cpu().features, " ")));
  bool first = true;
  for (const kernels::Candidate& candidate : kernels::candidates()) {
    line(first ? "kernels" : "", fmt::format("{:<8} {}", candidate.table->isa, why(candidate, chosen)));
    first = false;
  }
  const std::string turns =
      threads <= static_cast<int>(topology.cpus.size())
          ? ""
          : fmt::format(": more than the {} logical CPUs, so they take turns", topology.cpus.size());
  line("threads",
       fmt::format("{}{}{}", threads,
                   options.threads > 0 ? " (--threads)" : " (default: one for each physical core allowed)", turns));
  line("memory", fmt::format("{} of {} available", base::human_bytes(base::available_memory()),
                             base::human_bytes(base::total_memory())));
  const std::string bf16 = machine.bf16_flops > 0 ? fmt::format(" {:.0f} GFLOP/s bf16,", machine.bf16_flops / 1e9) : "";
  const std::string tiles =
      machine.tile_ops > 0 ? fmt::format(", {:.0f} GOP/s int8 by tiles", machine.tile_ops / 1e9) : "";
  line("limits", fmt::format("reads {:.1f} GB/s, multiply-add {:.0f} GFLOP/s f32,{} {:.0f} GOP/s int8{} ({})",
                             machine.read_bytes_per_second / 1e9, machine.f32_flops / 1e9, bf16, machine.int8_ops / 1e9,
                             tiles, machine.remembered ? "measured earlier; --remeasure" : "just measured"));
  if (options.kernels) text += kernels_text(chosen) + walk_text(walk);
  return text;
}

int info_command(const InfoOptions& options) {
  const threads::Topology topology = threads::Topology::read();
  const kernels::KernelTable& chosen = kernels::select();
  threads::Pool pool(options.threads);
  const runtime::MachineLimits machine = runtime::machine_limits(pool, chosen, options.remeasure);
  const runtime::Walk walk = options.kernels || options.json
                                 ? runtime::walk_of_this_machine(pool, chosen, options.remeasure)
                                 : runtime::Walk{};
  if (options.json)
    print(as_json(topology, chosen, pool.threads(), machine, walk).dump(2) + "\n");
  else
    print(as_text(options, topology, chosen, pool.threads(), machine, walk));
  return 0;
}

}  // namespace

void add_info(CLI::App& app, Action& action) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command =
      app.add_subcommand("info", "Show version, CPU, kernels and why they were chosen, threads, memory");
  command->add_flag("--kernels", options->kernels,
                    "Show also what each weight format is computed with, and how repacked weights are read");
  command->add_flag("--json", options->json, "Print JSON, kernels included");
  command->add_flag("--remeasure", options->remeasure,
                    "Measure the machine again instead of using the remembered figures");
  add_threads(*command, options->threads);
  command->footer(
      "Examples:\n"
      "  coterie info --kernels\n"
      "  COTERIE_ISA=avx2 coterie info      which kernels a forced instruction set gives (amx, avx512, avx2, scalar)\n"
      "  COTERIE_READ_AHEAD=2:2304 coterie info --kernels      two streams, each with 2304 bytes prefetched ahead");
  command->callback([=, &action] { action = [options] { return info_command(*options); }; });
}

}  // namespace coterie::cli

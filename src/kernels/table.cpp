#include "kernels/table.h"

#include <array>
#include <cstdlib>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/amx/gemm_bf16.h"
#include "kernels/isa.h"

namespace coterie::kernels {

namespace {

using base::ErrorKind;

constexpr std::string_view kVariable = "COTERIE_ISA";

/// What a CPU lacks of what an instruction set's kernels are compiled with, as a sentence; empty when it has all.
std::string lacking(std::span<const std::string_view> features) {
  std::string names;
  for (const std::string_view feature : features) {
    if (base::cpu().has(feature)) continue;
    if (!names.empty()) names += ", ";
    names += feature;
  }
  return names.empty() ? names : "needs " + names + ", which this CPU lacks";
}

// As in kernels/simd/target.h.
// avx2 implies avx and popcnt to the compiler, and a hypervisor may mask single features.
constexpr std::array<std::string_view, 5> kAvx2 = {"avx2", "fma", "f16c", "avx", "popcnt"};
constexpr std::array<std::string_view, 8> kAvx512 = {"avx512f",     "avx512bw", "avx512dq", "avx512vl",
                                                     "avx512_vnni", "avx2",     "fma",      "f16c"};
constexpr std::array<std::string_view, 2> kAmx = {"amx_tile", "amx_int8"};

KernelTable scalar_table() {
  return {.isa = "scalar",
          .matmul = scalar::matmul_kernels(),
          .vector = scalar::vector_kernels,
          .attention = scalar::attention_kernels,
          .ssm = scalar::ssm_kernels,
          .gemm = scalar::gemm_kernels,
          .training = scalar::training_kernels};
}

KernelTable avx2_table() {
  return {.isa = "avx2",
          .matmul = avx2::matmul_kernels(),
          .vector = avx2::vector_kernels,
          .attention = avx2::attention_kernels,
          .ssm = avx2::ssm_kernels,
          .gemm = avx2::gemm_kernels,
          .training = avx2::training_kernels};
}

KernelTable avx512_table() {
  KernelTable table = {.isa = "avx512",
                       .matmul = avx512::matmul_kernels(),
                       .vector = avx512::vector_kernels,
                       .attention = avx512::attention_kernels,
                       .ssm = avx512::ssm_kernels,
                       .gemm = avx512::gemm_kernels,
                       .training = avx512::training_kernels};
  if (base::cpu().has("avx512_bf16")) {
    table.gemm_bf16 = avx512::gemm_kernels_bf16;
    avx512::add_matmul_bf16(table.matmul);
  }
  return table;
}

KernelTable amx_table() {
  KernelTable table = avx512_table();
  table.isa = "amx";
  table.matmul = amx::matmul_kernels(table.matmul);
  if (table.gemm_bf16.run && base::cpu().has("amx_bf16")) {
    table.gemm_bf16 = amx::gemm_kernels_bf16;
    amx::add_matmul_bf16(table.matmul);
  }
  return table;
}

struct Registry {
  std::array<KernelTable, 4> tables = {amx_table(), avx512_table(), avx2_table(), scalar_table()};  // best first
  std::vector<Candidate> candidates;

  Registry() {
    const std::string no_avx512 = lacking(kAvx512);
    std::string no_amx = lacking(kAmx);
    if (no_amx.empty()) no_amx = no_avx512;
    if (no_amx.empty() && !amx::permitted()) no_amx = "needs tiles, which this system does not give to processes";
    const std::array<std::string, 4> reasons = {no_amx, no_avx512, lacking(kAvx2), ""};
    for (size_t i = 0; i < tables.size(); ++i) candidates.push_back({&tables[i], reasons[i].empty(), reasons[i]});
  }
};

const Registry& registry() {
  static const Registry instance;
  return instance;
}

const KernelTable& named(std::string_view isa, std::string_view where) {
  std::string names;
  for (const Candidate& candidate : candidates()) {
    if (candidate.table->isa == isa) {
      if (!candidate.usable) {
        throw base::Error(ErrorKind::unsupported, std::string(where), fmt::format("\"{}\" {}", isa, candidate.reason),
                          "leave it unset to use the best one that this CPU has");
      }
      return *candidate.table;
    }
    names += names.empty() ? "" : ", ";
    names += candidate.table->isa;
  }
  throw base::Error(ErrorKind::bad_input, std::string(where),
                    fmt::format("expected one of {}, found \"{}\"", names, isa));
}

}  // namespace

std::span<const Candidate> candidates() { return registry().candidates; }

const KernelTable& by_name(std::string_view isa) { return named(isa, "instruction set"); }

const KernelTable& select() {
  const char* forced = std::getenv(kVariable.data());
  if (forced != nullptr && *forced != '\0') return named(forced, kVariable);
  for (const Candidate& candidate : candidates())
    if (candidate.usable) return *candidate.table;
  base::fail(ErrorKind::internal, "kernels", "the scalar table is missing");
}

}  // namespace coterie::kernels

#include "kernels/table.h"

#include <array>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "kernels/isa.h"

namespace coterie::kernels {

namespace {

using base::ErrorKind;

constexpr std::string_view kVariable = "COTERIE_ISA";

struct Feature {
  std::string_view name;
  bool present;
};

// __builtin_cpu_supports also asks whether the operating system saves the registers.
std::string missing(std::initializer_list<Feature> features) {
  std::string names;
  for (const Feature& feature : features) {
    if (feature.present) continue;
    if (!names.empty()) names += ", ";
    names += feature.name;
  }
  return names.empty() ? names : "needs " + names + ", which this CPU lacks";
}

/// What reads turned rows, and anything else, fastest from memory. Emerald Rapids, two threads, November 2026: a plain
/// sum reads 1.1 times as fast by two streams as by one and 1.2 times by four. Decoding the Qwen3 shape in Q4_K (AVX2),
/// of what one stream of a plain sum reads: one stream 0.65, with 4608 bytes ahead 0.86; two with 2304 0.88; four with
/// 2304 0.98, eight 0.9; four with 1152 or 4608 are the same, also by AVX-512. Zen 4: one stream that asks for nothing
/// 0.94, asking costs a tenth; more streams were not measured there.
ReadAhead read_ahead_of_this_cpu() { return __builtin_cpu_is("intel") ? ReadAhead{4, 2304} : ReadAhead{1, 0}; }

struct Registry {
  std::array<KernelTable, 4> tables;  // best first
  std::vector<Candidate> candidates;

  Registry() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2"), fma = __builtin_cpu_supports("fma");
    const bool f16c = __builtin_cpu_supports("f16c");
    tables[1] = {"avx512",
                 avx512::matmul_kernels(),
                 avx512::vector_kernels(),
                 avx512::attention_kernels(),
                 avx512::ssm_kernels(),
                 avx512::gemm_kernels(),
                 avx512::training_kernels(),
                 {}};
    tables[2] = {"avx2",
                 avx2::matmul_kernels(),
                 avx2::vector_kernels(),
                 avx2::attention_kernels(),
                 avx2::ssm_kernels(),
                 avx2::gemm_kernels(),
                 avx2::training_kernels(),
                 {}};
    tables[3] = {"scalar",
                 scalar::matmul_kernels(),
                 scalar::vector_kernels(),
                 scalar::attention_kernels(),
                 scalar::ssm_kernels(),
                 scalar::gemm_kernels(),
                 scalar::training_kernels(),
                 {}};
    if (__builtin_cpu_supports("avx512bf16")) {
      tables[1].gemm_bf16 = avx512::gemm_kernels_bf16();
      avx512::add_matmul_bf16(tables[1].matmul);
    }
    tables[0] = tables[1], tables[0].isa = "amx";
    tables[0].matmul = amx::matmul_kernels(tables[1].matmul);
    for (KernelTable& table : tables) table.matmul.read_ahead = read_ahead_of_this_cpu();
    const std::string no_avx2 = missing({{"avx2", avx2}, {"fma", fma}, {"f16c", f16c}});
    const std::string no_avx512 = missing({{"avx512f", __builtin_cpu_supports("avx512f") != 0},
                                           {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                                           {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
                                           {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
                                           {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0},
                                           {"avx2", avx2},
                                           {"fma", fma},
                                           {"f16c", f16c}});
    std::string no_amx = missing({{"amx-tile", amx::features().tiles}, {"amx-int8", amx::features().int8}});
    if (no_amx.empty()) no_amx = no_avx512;
    if (no_amx.empty() && !amx::permitted()) no_amx = "needs tiles, which this system does not give to processes";
    const std::array<std::string, 4> reasons = {no_amx, no_avx512, no_avx2, ""};
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

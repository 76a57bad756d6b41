#include "base/cpu.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace coterie::base {

namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

/// Zeros for a leaf beyond the last one: some CPUs answer such a question with another leaf.
Registers leaf_or_zeros(unsigned leaf, unsigned subleaf = 0) {
  return cpuid(leaf & 0x80000000u).eax >= leaf ? cpuid(leaf, subleaf) : Registers{};
}

/// The registers that the system saves when it switches between threads (XCR0).
uint64_t saved_registers(const Registers& leaf1) {
  if ((leaf1.ecx >> 27 & 1) == 0) return 0;  // OSXSAVE
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

std::string read_model() {
  std::string model;
  for (unsigned leaf = 0x80000002u; leaf <= 0x80000004u; ++leaf) {
    const Registers r = leaf_or_zeros(leaf);
    char part[16];
    std::memcpy(part, &r, sizeof part);
    model.append(part, sizeof part);
  }
  model.resize(std::strlen(model.c_str()));
  const size_t begin = model.find_first_not_of(' '), end = model.find_last_not_of(' ');
  return begin == std::string::npos ? "unknown processor" : model.substr(begin, end - begin + 1);
}

Cpu read() {
  const Registers one = leaf_or_zeros(1), seven = leaf_or_zeros(7), seven1 = leaf_or_zeros(7, 1);
  const uint64_t saved = saved_registers(one);
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  struct Bit {
    std::string_view name;
    unsigned of;
    int bit;
    uint64_t needs;  // registers that must be saved
  };
  const std::array<Bit, 22> bits = {{{"ssse3", one.ecx, 9, 0},
                                     {"sse4_1", one.ecx, 19, 0},
                                     {"sse4_2", one.ecx, 20, 0},
                                     {"popcnt", one.ecx, 23, 0},
                                     {"avx", one.ecx, 28, kYmm},
                                     {"f16c", one.ecx, 29, kYmm},
                                     {"fma", one.ecx, 12, kYmm},
                                     {"avx2", seven.ebx, 5, kYmm},
                                     {"bmi1", seven.ebx, 3, 0},
                                     {"bmi2", seven.ebx, 8, 0},
                                     {"avx_vnni", seven1.eax, 4, kYmm},
                                     {"avx512f", seven.ebx, 16, kZmm},
                                     {"avx512dq", seven.ebx, 17, kZmm},
                                     {"avx512bw", seven.ebx, 30, kZmm},
                                     {"avx512vl", seven.ebx, 31, kZmm},
                                     {"avx512vbmi", seven.ecx, 1, kZmm},
                                     {"avx512_vnni", seven.ecx, 11, kZmm},
                                     {"avx512_bf16", seven1.eax, 5, kZmm},
                                     {"avx512_fp16", seven.edx, 23, kZmm},
                                     {"amx_tile", seven.edx, 24, kTiles},
                                     {"amx_int8", seven.edx, 25, kTiles},
                                     {"amx_bf16", seven.edx, 22, kTiles}}};
  Cpu cpu;
  cpu.model = read_model();
  for (const Bit& bit : bits)
    if ((bit.of >> bit.bit & 1) != 0 && (saved & bit.needs) == bit.needs) cpu.features.push_back(bit.name);
  const Registers host = cpuid(0x40000000u);
  char signature[12];
  std::memcpy(signature, &host.ebx, 4), std::memcpy(signature + 4, &host.ecx, 4),
      std::memcpy(signature + 8, &host.edx, 4);
  cpu.emulated = std::memcmp(signature, "TCGTCGTCGTCG", 12) == 0;
  return cpu;
}

}  // namespace

bool Cpu::has(std::string_view feature) const { return std::ranges::find(features, feature) != features.end(); }

const Cpu& cpu() {
  static const Cpu instance = read();
  return instance;
}

}  // namespace coterie::base

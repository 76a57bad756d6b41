#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace coterie::base {

/// The processor as CPUID describes it: under an emulator the emulated one, where /proc/cpuinfo shows the host's.
struct Cpu {
  std::string model;                       // "AMD EPYC 9354 32-Core Processor"
  std::vector<std::string_view> features;  // named as in /proc/cpuinfo; those whose registers the system saves
  bool emulated = false;                   // by QEMU's translator: speeds measured here describe no processor

  bool has(std::string_view feature) const;
};

/// This process's, read once.
const Cpu& cpu();

}  // namespace coterie::base

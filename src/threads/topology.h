#pragma once

#include <string>
#include <vector>

namespace coterie::threads {

/// What the system says about the processors this process may run on.
struct Topology {
  struct Cpu {
    int id;      // the kernel's number
    int core;    // physical core, unique over the machine
    int socket;  // physical package
    int node;    // NUMA node
  };
  std::vector<Cpu> cpus;   // those in this process's affinity mask, ascending id
  std::vector<int> order;  // ids, one of each physical core first, node by node, then the second threads of cores
  int cores = 0;           // physical cores among them
  int nodes = 0;           // NUMA nodes among them
  std::string model;       // "AMD EPYC 9354", by CPUID (base/cpu.h)
  double quota = 0;        // CPUs the cgroup allows (cpu.max); 0 = unlimited

  static Topology read();
  /// Threads that pay: physical cores, capped by the quota (rounded up), at least 1.
  int default_threads() const;
};

}  // namespace coterie::threads

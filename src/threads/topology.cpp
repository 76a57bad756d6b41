#include "threads/topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <thread>
#include <tuple>

#include "base/cpu.h"

namespace coterie::threads {

namespace {

int read_int(const std::string& path, int otherwise) {
  std::ifstream file(path);
  int value = 0;
  return file >> value ? value : otherwise;
}

double read_quota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0;
  if (v2 >> limit >> period) return limit == "max" || period <= 0 ? 0 : std::strtod(limit.c_str(), nullptr) / period;
  const int quota = read_int("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1);
  const int length = read_int("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
  return quota > 0 && length > 0 ? static_cast<double>(quota) / length : 0;
}

std::map<int, int> read_nodes() {
  std::map<int, int> node_of;
  for (int node = 0; node < 1024; ++node) {
    std::ifstream file("/sys/devices/system/node/node" + std::to_string(node) + "/cpulist");
    if (!file) {
      if (node > 64) break;
      continue;
    }
    int first = 0, last = 0;
    char separator = 0;
    while (file >> first) {
      last = first;
      if (file.peek() == '-') file >> separator >> last;
      for (int cpu = first; cpu <= last; ++cpu) node_of[cpu] = node;
      if (file.peek() == ',') file >> separator;
    }
  }
  return node_of;
}

}  // namespace

Topology Topology::read() {
  Topology topology;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const bool known = ::sched_getaffinity(0, sizeof allowed, &allowed) == 0;
  const std::map<int, int> node_of = read_nodes();
  std::map<std::pair<int, int>, int> core_number;
  for (int id = 0; id < CPU_SETSIZE; ++id) {
    if (known ? !CPU_ISSET(id, &allowed) : id >= static_cast<int>(std::thread::hardware_concurrency())) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/";
    const int socket = read_int(folder + "physical_package_id", 0);
    const int core_id = read_int(folder + "core_id", id);
    const int core = core_number.try_emplace({socket, core_id}, static_cast<int>(core_number.size())).first->second;
    const auto node = node_of.find(id);
    topology.cpus.push_back({id, core, socket, node == node_of.end() ? 0 : node->second});
  }
  if (topology.cpus.empty()) topology.cpus.push_back({0, 0, 0, 0});

  std::set<int> cores, nodes;
  std::vector<std::tuple<int, int, int, int>> ranked;  // sibling rank, node, core, id
  std::map<int, int> siblings;
  for (const Cpu& cpu : topology.cpus) {
    cores.insert(cpu.core), nodes.insert(cpu.node);
    ranked.emplace_back(siblings[cpu.core]++, cpu.node, cpu.core, cpu.id);
  }
  std::sort(ranked.begin(), ranked.end());
  for (const auto& [sibling, node, core, id] : ranked) topology.order.push_back(id);
  topology.cores = static_cast<int>(cores.size());
  topology.nodes = static_cast<int>(nodes.size());
  topology.model = base::cpu().model;
  topology.quota = read_quota();
  return topology;
}

int Topology::default_threads() const {
  const int allowed = quota > 0 ? static_cast<int>(std::ceil(quota)) : cores;
  return std::max(1, std::min(cores, allowed));
}

}  // namespace coterie::threads

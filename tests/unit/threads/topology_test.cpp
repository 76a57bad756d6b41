#include "threads/topology.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <set>

namespace coterie::threads {
namespace {

TEST(Topology, DescribesTheProcessorsThisProcessMayUse) {
  const Topology topology = Topology::read();
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  ASSERT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  EXPECT_EQ(static_cast<int>(topology.cpus.size()), CPU_COUNT(&allowed));
  std::set<int> ids, cores, nodes;
  for (const Topology::Cpu& cpu : topology.cpus) {
    EXPECT_TRUE(CPU_ISSET(static_cast<size_t>(cpu.id), &allowed));
    ids.insert(cpu.id), cores.insert(cpu.core), nodes.insert(cpu.node);
  }
  EXPECT_EQ(ids.size(), topology.cpus.size());
  EXPECT_EQ(static_cast<int>(cores.size()), topology.cores);
  EXPECT_EQ(static_cast<int>(nodes.size()), topology.nodes);
  EXPECT_FALSE(topology.model.empty());
  EXPECT_GE(topology.quota, 0);
}

TEST(Topology, OrderTakesOneThreadOfEachCoreFirst) {
  const Topology topology = Topology::read();
  ASSERT_EQ(topology.order.size(), topology.cpus.size());
  std::set<int> first;
  for (int i = 0; i < topology.cores; ++i)
    for (const Topology::Cpu& cpu : topology.cpus)
      if (cpu.id == topology.order[static_cast<size_t>(i)]) first.insert(cpu.core);
  EXPECT_EQ(static_cast<int>(first.size()), topology.cores);
  EXPECT_EQ(std::set<int>(topology.order.begin(), topology.order.end()).size(), topology.order.size());
}

TEST(Topology, DefaultThreadsRespectCoresAndQuota) {
  Topology topology;
  topology.cores = 8;
  EXPECT_EQ(topology.default_threads(), 8);
  topology.quota = 2.5;
  EXPECT_EQ(topology.default_threads(), 3);
  topology.quota = 0.5;
  EXPECT_EQ(topology.default_threads(), 1);
  topology.quota = 100;
  EXPECT_EQ(topology.default_threads(), 8);
}

}  // namespace
}  // namespace coterie::threads

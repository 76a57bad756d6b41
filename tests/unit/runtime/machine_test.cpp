#include "runtime/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/temp_folder.h"
#include "threads/topology.h"

namespace coterie::runtime {
namespace {

struct MachineTest : testing::Test {
  void SetUp() override { ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1); }
  void TearDown() override { ::unsetenv("XDG_CACHE_HOME"); }
  TempFolder folder;
  threads::Pool pool{1};
  const kernels::KernelTable& kernels = kernels::select();
};

TEST_F(MachineTest, MeasuredOnceAndRemembered) {
  const MachineLimits first = machine_limits(pool, kernels);
  EXPECT_FALSE(first.remembered);
  EXPECT_GT(first.read_bytes_per_second, 1e8);
  EXPECT_GT(first.f32_flops, 1e8);
  EXPECT_GT(first.int8_ops, 1e8);
  ASSERT_TRUE(std::filesystem::exists(folder / "coterie/machine.json"));
  const MachineLimits second = machine_limits(pool, kernels);
  EXPECT_TRUE(second.remembered);
  EXPECT_EQ(second.read_bytes_per_second, first.read_bytes_per_second);
  EXPECT_FALSE(machine_limits(pool, kernels, true).remembered);
}

TEST_F(MachineTest, OtherThreadCountsAreMeasuredApartAndASpoiltFileIsReplaced) {
  folder.write("coterie/machine.json", "not JSON at all");
  EXPECT_FALSE(machine_limits(pool, kernels).remembered);
  threads::Pool two(2);
  EXPECT_FALSE(machine_limits(two, kernels).remembered);
  EXPECT_TRUE(machine_limits(pool, kernels).remembered);
  EXPECT_TRUE(machine_limits(two, kernels).remembered);
}

TEST_F(MachineTest, FiguresThatCannotBeAreMeasuredAgain) {
  machine_limits(pool, kernels);
  base::Json file = base::read_json(folder / "coterie/machine.json");
  for (auto& entry : file) entry["read_bytes_per_second"] = -1;
  folder.write("coterie/machine.json", file.dump());
  EXPECT_FALSE(machine_limits(pool, kernels).remembered);
}

TEST_F(MachineTest, AFolderThatCannotBeWrittenCostsOnlyTheMemory) {
  folder.write("file", "");
  ::setenv("XDG_CACHE_HOME", (folder / "file").c_str(), 1);
  EXPECT_GT(machine_limits(pool, kernels).f32_flops, 0);
}

}  // namespace
}  // namespace coterie::runtime

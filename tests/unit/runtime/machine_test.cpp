#include "runtime/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/json.h"
#include "kernels/probe.h"
#include "support/temp_folder.h"
#include "threads/topology.h"

namespace coterie::runtime {
namespace {

struct MachineTest : testing::Test {
  void SetUp() override { ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1); }
  void TearDown() override { ::unsetenv("XDG_CACHE_HOME"); }

  // Counts instead of measuring.
  MachineLimits limits(threads::Pool& workers, bool again = false) {
    return machine_limits(workers, kernels, again, [this](auto&, auto&) {
      ++measured;
      return MachineLimits{
          1e9 * measured, 2e9, 3e9, false, kernels.gemm_bf16.run ? 4e9 : 0, kernels.matmul.peak_tiles ? 5e9 : 0};
    });
  }

  TempFolder folder;
  threads::Pool pool{1};
  const kernels::KernelTable& kernels = kernels::select();
  int measured = 0;
};

TEST_F(MachineTest, TheMeasurementGivesFigures) {
  const MachineLimits found = measure_machine(pool, kernels);
  EXPECT_GT(found.read_bytes_per_second, 1e7);
  EXPECT_GT(found.f32_flops, 1e7);
  EXPECT_GT(found.int8_ops, 1e7);
  EXPECT_EQ(found.tile_ops > 1e7, kernels.matmul.peak_tiles != nullptr);
  if (kernels.gemm_bf16.run)
    EXPECT_GT(found.bf16_flops, 1e7);
  else
    EXPECT_EQ(found.bf16_flops, 0);
}

TEST_F(MachineTest, MeasuredOnceAndRemembered) {
  EXPECT_FALSE(limits(pool).remembered);
  ASSERT_TRUE(std::filesystem::exists(folder / "coterie/machine.json"));
  const MachineLimits second = limits(pool);
  EXPECT_TRUE(second.remembered);
  EXPECT_EQ(second.read_bytes_per_second, 1e9);
  EXPECT_EQ(second.f32_flops, 2e9);
  EXPECT_EQ(second.int8_ops, 3e9);
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(limits(pool, true).read_bytes_per_second, 2e9) << "measured again on demand";
  EXPECT_EQ(limits(pool).read_bytes_per_second, 2e9) << "and that is remembered";
}

TEST_F(MachineTest, AFileWithoutAFigureForBf16IsOlderThanIt) {
  if (!kernels.gemm_bf16.run) GTEST_SKIP() << "no products of bf16 on this CPU";
  limits(pool);
  base::Json file = base::read_json(folder / "coterie/machine.json");
  for (auto& entry : file) entry.erase("bf16_flops");
  folder.write("coterie/machine.json", file.dump());
  EXPECT_FALSE(limits(pool).remembered);
  EXPECT_EQ(limits(pool).bf16_flops, 4e9);
  EXPECT_TRUE(limits(pool).remembered);
}

TEST_F(MachineTest, OtherThreadCountsAreMeasuredApart) {
  threads::Pool two(2);
  limits(pool), limits(two);
  EXPECT_EQ(measured, 2);
  EXPECT_EQ(limits(pool).read_bytes_per_second, 1e9);
  EXPECT_EQ(limits(two).read_bytes_per_second, 2e9);
}

TEST_F(MachineTest, ASpoiltFileIsReplaced) {
  for (const char* text : {"not JSON at all", "[1, 2]", "{}"}) {
    folder.write("coterie/machine.json", text);
    EXPECT_FALSE(limits(pool).remembered);
    EXPECT_TRUE(limits(pool).remembered);
  }
}

TEST_F(MachineTest, FiguresThatCannotBeAreMeasuredAgain) {
  for (const base::Json& value : {base::Json(-1), base::Json("fast"), base::Json(nullptr)}) {
    limits(pool);
    base::Json file = base::read_json(folder / "coterie/machine.json");
    for (auto& entry : file) entry["read_bytes_per_second"] = value;
    folder.write("coterie/machine.json", file.dump());
    EXPECT_FALSE(limits(pool).remembered) << value;
  }
}

// Each thread times itself; that they take turns must not make the machine eight times as fast.
TEST_F(MachineTest, MoreThreadsThanProcessorsDoNoMore) {
  const int processors = threads::Topology::read().default_threads();
  threads::Pool few(processors), many(8 * processors);
  EXPECT_LT(kernels::measure_f32_peak(kernels, many), 3 * kernels::measure_f32_peak(kernels, few));
}

TEST_F(MachineTest, AFolderThatCannotBeWrittenCostsOnlyTheMemory) {
  folder.write("file", "");
  ::setenv("XDG_CACHE_HOME", (folder / "file").c_str(), 1);
  EXPECT_EQ(limits(pool).f32_flops, 2e9);
  EXPECT_FALSE(limits(pool).remembered);
}

}  // namespace
}  // namespace coterie::runtime

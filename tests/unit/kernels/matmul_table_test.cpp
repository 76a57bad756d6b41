#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "kernels/probe.h"
#include "kernels/probe_walk.h"
#include "kernels/table.h"
#include "support/with_isa.h"

namespace coterie::kernels {
namespace {

TEST(Table, ScalarRunsEverywhereAndComesLast) {
  ASSERT_FALSE(candidates().empty());
  EXPECT_EQ(candidates().back().table->isa, "scalar");
  EXPECT_TRUE(candidates().back().usable);
  for (const Candidate& candidate : candidates()) EXPECT_EQ(candidate.usable, candidate.reason.empty());
}

TEST(Table, TheVariableForcesOne) {
  for (const Candidate& candidate : candidates()) {
    const WithIsa forced(std::string(candidate.table->isa).c_str());
    if (candidate.usable) {
      EXPECT_EQ(select().isa, candidate.table->isa);
    } else {
      EXPECT_THROW(select(), base::Error);
    }
  }
  const WithIsa unknown("sse9");
  try {
    select();
    FAIL() << "an unknown instruction set was accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
    EXPECT_NE(std::string(error.what()).find("scalar"), std::string::npos) << "the message lists what there is";
  }
}

TEST(Table, EveryTableIsComplete) {
  for (const Candidate& candidate : candidates()) {
    const MatmulKernels& kernels = candidate.table->matmul;
    for (int i = 0; i < tensor::kDTypes; ++i) {
      const bool weight = tensor::info(static_cast<tensor::DType>(i)).weight;
      EXPECT_EQ(kernels.exact[static_cast<size_t>(i)].run != nullptr, weight);
      EXPECT_EQ(kernels.fast[static_cast<size_t>(i)].run != nullptr, weight);
    }
    EXPECT_TRUE(kernels.quantise32 && kernels.quantise256 && kernels.peak_f32 && kernels.peak_int8 && kernels.read);
  }
}

TEST(Probe, FiguresAreThoseOfAComputer) {
  threads::Pool pool(1);
  const MachineLimits limits = measure_limits(select(), pool, 32 << 20);
  EXPECT_GT(limits.read_gb_s, 0.1);
  EXPECT_GT(limits.f32_gflop_s, 0.1);
  EXPECT_GT(limits.int8_gop_s, 0.1);
}

TEST(Probe, WalksAreComparedWhereThereAreRepackedRows) {
  threads::Pool pool(1);
  for (const Candidate& candidate : candidates()) {
    if (!candidate.usable) continue;
    const std::vector<WalkTrial> trials = measure_walks(*candidate.table, pool, 128 << 20);
    EXPECT_EQ(trials.empty(), candidate.table->matmul.repack == nullptr) << candidate.table->isa;
    for (const WalkTrial& trial : trials) EXPECT_GT(trial.gb_s, 0.1) << candidate.table->isa;
    const ReadAhead best = fastest_walk(trials);
    EXPECT_TRUE(best.streams == 1 || best.streams == 2 || best.streams == 4);
  }
}

}  // namespace
}  // namespace coterie::kernels

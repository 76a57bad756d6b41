#include "threads/pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/expect_error.h"

namespace coterie::threads {
namespace {

class PoolOf : public testing::TestWithParam<int> {};

TEST_P(PoolOf, RunsOnEveryWorkerOnce) {
  Pool pool(GetParam());
  ASSERT_EQ(pool.threads(), GetParam());
  for (int round = 0; round < 200; ++round) {
    std::vector<int> runs(static_cast<size_t>(pool.threads()));
    pool.run([&](int worker) { ++runs[static_cast<size_t>(worker)]; });
    ASSERT_EQ(runs, std::vector<int>(runs.size(), 1));
  }
}

TEST_P(PoolOf, SplitCoversEachIndexOnceInWholeGrains) {
  Pool pool(GetParam());
  for (const int64_t count : {0, 1, 2, 7, 16, 63, 64, 65, 1000}) {
    for (const int64_t grain : {1, 3, 16, 64, 2000}) {
      std::vector<int> seen(static_cast<size_t>(count));
      std::atomic<int> ragged = 0;
      pool.split(count, grain, [&](int64_t begin, int64_t end, int worker) {
        if (begin % grain != 0 || (end % grain != 0 && end != count) || begin >= end) ++ragged;
        if (worker < 0 || worker >= pool.threads()) ++ragged;
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      ASSERT_EQ(ragged, 0) << count << " by " << grain;
      ASSERT_EQ(seen, std::vector<int>(seen.size(), 1)) << count << " by " << grain;
    }
  }
}

TEST_P(PoolOf, SplitGivesAWorkerTheSameChunkEachTime) {
  Pool pool(GetParam());
  std::vector<int64_t> first(static_cast<size_t>(pool.threads()), -1), again = first;
  pool.split(1000, 8, [&](int64_t begin, int64_t, int worker) { first[static_cast<size_t>(worker)] = begin; });
  pool.split(1000, 8, [&](int64_t begin, int64_t, int worker) { again[static_cast<size_t>(worker)] = begin; });
  EXPECT_EQ(first, again);
}

TEST_P(PoolOf, EachHandsOutEveryTaskOnce) {
  Pool pool(GetParam());
  for (const int64_t count : {0, 1, 2, 5, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
    pool.each(count, [&](int64_t task, int) { ++seen[static_cast<size_t>(task)]; });
    for (const auto& times : seen) ASSERT_EQ(times, 1);
  }
}

TEST_P(PoolOf, BarrierHoldsEverybodyBack) {
  Pool pool(GetParam());
  constexpr int kPhases = 300;
  std::vector<int> phase(static_cast<size_t>(pool.threads()));
  std::atomic<int> early = 0;
  pool.run([&](int worker) {
    for (int step = 1; step <= kPhases; ++step) {
      phase[static_cast<size_t>(worker)] = step;
      pool.barrier();
      for (const int other : phase) early += other != step;
      pool.barrier();
    }
  });
  EXPECT_EQ(early, 0);
}

TEST_P(PoolOf, TheFirstExceptionComesBackAfterAllHaveReturned) {
  Pool pool(GetParam());
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> finished = 0;
    EXPECT_THROW(pool.run([&](int worker) {
      if (worker == pool.threads() - 1) throw std::runtime_error("one");
      ++finished;
    }),
                 std::runtime_error);
    EXPECT_EQ(finished, pool.threads() - 1);
  }
  int after = 0;
  pool.each(1, [&](int64_t, int) { ++after; });
  EXPECT_EQ(after, 1) << "the pool works on";
  EXPECT_THROW(pool.each(100,
                         [](int64_t task, int) {
                           if (task == 50) throw std::runtime_error("task");
                         }),
               std::runtime_error);
}

TEST_P(PoolOf, RefusesAJobInsideAJob) {
  Pool pool(GetParam());
  expect_error(base::ErrorKind::internal, {"inside a job"}, [&] { pool.run([&](int) { pool.run([](int) {}); }); });
  expect_error(base::ErrorKind::internal, {"inside a job"},
               [&] { pool.each(1, [&](int64_t, int) { pool.split(1, 1, [](int64_t, int64_t, int) {}); }); });
  expect_error(base::ErrorKind::internal, {"inside a job"},
               [&] { pool.split(1, 1, [&](int64_t, int64_t, int) { pool.each(1, [](int64_t, int) {}); }); });
  EXPECT_NO_THROW(pool.run([](int) {}));
}

TEST_P(PoolOf, SleepingWorkersWakeUp) {
  Pool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than workers spin
    std::atomic<int> count = 0;
    pool.run([&](int) { ++count; });
    ASSERT_EQ(count, pool.threads());
  }
}

TEST_P(PoolOf, ManyShortJobs) {
  Pool pool(GetParam());
  std::vector<int64_t> values(64);
  for (int round = 0; round < 5000; ++round)
    pool.split(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i;
    });
  for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], 5000 * i);
}

INSTANTIATE_TEST_SUITE_P(, PoolOf, testing::Values(1, 2, 3, 8));

TEST(Pool, ZeroTakesThePhysicalCoresAndNegativeIsRefused) {
  EXPECT_GE(Pool(0).threads(), 1);
  expect_error(base::ErrorKind::bad_input, {"threads", "-1"}, [] { Pool pool(-1); });
}

TEST(Pool, SeveralPoolsLiveSideBySide) {
  Pool one(2), two(3);
  std::atomic<int> count = 0;
  std::thread other([&] {
    for (int round = 0; round < 200; ++round) two.run([&](int) { ++count; });
  });
  for (int round = 0; round < 200; ++round) one.run([&](int) { ++count; });
  other.join();
  EXPECT_EQ(count, 200 * 5);
}

TEST(Pool, ComesAndGoesWithoutAJob) {
  for (int round = 0; round < 50; ++round) Pool pool(4);
}

}  // namespace
}  // namespace coterie::threads

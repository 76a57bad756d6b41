#include "train/windows.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace coterie::train {
namespace {

using Order = Windows::Order;

TEST(Windows, AnEpochPredictsEachTokenOnce) {
  for (const int64_t tokens : {9, 64, 65, 66, 1000, 1001}) {
    const Windows windows(tokens, 8, Order::shuffled, 7, "data");
    for (int64_t epoch = 0; epoch < 5; ++epoch) {
      std::set<int64_t> begins;
      for (int64_t i = 0; i < windows.per_epoch(); ++i) {
        const int64_t begin = windows.begin(epoch * windows.per_epoch() + i);
        ASSERT_GE(begin, 0);
        ASSERT_LT(begin + 8, tokens);
        EXPECT_TRUE(begins.insert(begin).second) << "window " << begin << " twice";
        EXPECT_EQ(begin % 8, *begins.begin() % 8) << "windows do not overlap";
      }
    }
  }
}

TEST(Windows, OrderDependsOnSeedAndEpoch) {
  const auto order = [](uint64_t seed, int64_t epoch) {
    const Windows windows(8 * 100 + 1, 8, Order::shuffled, seed, "data");
    std::vector<int64_t> list;
    for (int64_t i = 0; i < windows.per_epoch(); ++i)
      list.push_back(windows.begin(epoch * windows.per_epoch() + i) / 8);
    return list;
  };
  EXPECT_EQ(order(1, 0), order(1, 0));
  EXPECT_NE(order(1, 0), order(2, 0));
  EXPECT_NE(order(1, 0), order(1, 1));
  // Shuffled: of 99 neighbours in the stream few remain neighbours.
  const std::vector<int64_t> list = order(1, 0);
  int64_t neighbours = 0;
  for (size_t i = 1; i < list.size(); ++i) neighbours += list[i] == list[i - 1] + 1;
  EXPECT_LT(neighbours, 10);
}

TEST(Windows, LaterEpochsAreCutElsewhere) {
  const Windows windows(1000, 8, Order::shuffled, 3, "data");
  std::set<int64_t> cuts;
  for (int64_t epoch = 0; epoch < 12; ++epoch) cuts.insert(windows.begin(epoch * windows.per_epoch()) % 8);
  EXPECT_GE(cuts.size(), 4u);
}

TEST(Windows, SequentialGoesRound) {
  const Windows windows(25, 8, Order::sequential, 0, "data");
  EXPECT_EQ(windows.per_epoch(), 3);
  std::vector<int64_t> begins;
  for (int64_t i = 0; i < 5; ++i) begins.push_back(windows.begin(i));
  EXPECT_EQ(begins, (std::vector<int64_t>{0, 8, 16, 0, 8}));
}

TEST(Windows, RandomBeginsAnywhere) {
  const Windows windows(40, 8, Order::random, 5, "data");
  std::set<int64_t> begins;
  for (int64_t i = 0; i < 2000; ++i) begins.insert(windows.begin(i));
  EXPECT_EQ(begins.size(), 32u);
  EXPECT_EQ(*begins.begin(), 0);
  EXPECT_EQ(*begins.rbegin(), 31);
}

TEST(Windows, RefusesTooFewTokens) {
  EXPECT_THROW(Windows(8, 8, Order::shuffled, 0, "data"), base::Error);
  EXPECT_NO_THROW(Windows(9, 8, Order::shuffled, 0, "data"));
  EXPECT_THROW(Windows(9, 0, Order::shuffled, 0, "data"), base::Error);
}

}  // namespace
}  // namespace coterie::train

#include "runtime/ranks/division.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "comm/placement.h"

namespace coterie::runtime {
namespace {

TEST(Division, GivesEveryRowToOneRankInOrder) {
  const std::vector<std::vector<SequenceShare>> steps = {
      {{0, 64}}, {{5, 200}}, {{15, 1}, {0, 33}, {31, 34}}, {{3, 1}}, {{0, 0}, {16, 48}}};
  for (const std::vector<SequenceShare>& step : steps)
    for (int ranks = 1; ranks <= 5; ++ranks) {
      const std::vector<Segment> segments = divide(step, ranks, {.alone = 1, .keys = {{.each = 0.1}}});
      int rank = 0;
      std::vector<int64_t> rows(step.size());
      for (const Segment& s : segments) {
        EXPECT_GE(s.rank, rank);
        EXPECT_LT(s.rank, ranks);
        rank = s.rank;
        EXPECT_EQ(s.begin, rows[static_cast<size_t>(s.sequence)]);
        EXPECT_LT(s.begin, s.end);
        rows[static_cast<size_t>(s.sequence)] = s.end;
        if (s.begin > 0) {
          EXPECT_EQ((step[static_cast<size_t>(s.sequence)].first + s.begin) % 16, 0);
        }
      }
      for (size_t i = 0; i < step.size(); ++i) EXPECT_EQ(rows[i], step[i].rows);
    }
}

TEST(Division, GivesEveryRankAboutAsMuch) {
  const SequenceShare prompt[] = {{0, 512}};
  const std::vector<Segment> segments = divide(prompt, 4, {});
  ASSERT_EQ(segments.size(), 4u);
  for (const Segment& s : segments) EXPECT_EQ(s.end - s.begin, 128);
  EXPECT_TRUE(worth_dividing(prompt, 4));
  const SequenceShare token[] = {{100, 1}};
  EXPECT_FALSE(worth_dividing(token, 2));
  EXPECT_FALSE(worth_dividing(prompt, 1));
}

TEST(Division, GivesFewerRowsWhereTheySeeMoreKeys) {
  const RowCost cost{.alone = 100, .keys = {{.each = 1}, {.each = 1, .most = 50}}};
  EXPECT_EQ(cost.at(9), 120);
  EXPECT_EQ(cost.at(99), 250);
  const SequenceShare prompt[] = {{0, 1024}};
  double least = 1e30, most = 0;
  int64_t rows = 1024;
  for (const Segment& s : divide(prompt, 4, cost)) {
    EXPECT_LT(s.end - s.begin, rows);
    rows = s.end - s.begin;
    double of_rank = 0;
    for (int64_t r = s.begin; r < s.end; ++r) of_rank += cost.at(r);
    least = std::min(least, of_rank), most = std::max(most, of_rank);
  }
  EXPECT_LT(most / least, 1.12);  // blocks of 16 rows
}

TEST(Placement, GivesEveryExpertToOneRank) {
  for (int64_t experts = 1; experts <= 9; ++experts)
    for (int ranks = 1; ranks <= 12; ++ranks) {
      const comm::Placement placement{ranks};
      EXPECT_EQ(placement.first(0, experts), 0);
      EXPECT_EQ(placement.end(ranks - 1, experts), experts);
      for (int64_t e = 0; e < experts; ++e) {
        int owners = 0;
        for (int r = 0; r < ranks; ++r) owners += placement.owns(r, e, experts);
        EXPECT_EQ(owners, 1);
        EXPECT_TRUE(placement.owns(placement.owner(e, experts), e, experts));
      }
    }
}

}  // namespace
}  // namespace coterie::runtime

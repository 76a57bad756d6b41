#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace coterie::train {
namespace {

using Kind = Schedule::Kind;

TEST(Schedule, WarmsUpInAStraightLine) {
  for (const Kind kind : {Kind::constant, Kind::cosine, Kind::linear, Kind::wsd}) {
    const Schedule schedule{kind, 100, 10, 20, 0.1};
    EXPECT_DOUBLE_EQ(schedule.at(0), 0.1);
    EXPECT_DOUBLE_EQ(schedule.at(4), 0.5);
    EXPECT_DOUBLE_EQ(schedule.at(9), 1.0);
    EXPECT_DOUBLE_EQ(schedule.at(10), 1.0);
  }
}

TEST(Schedule, EndsAtTheFloor) {
  EXPECT_DOUBLE_EQ((Schedule{Kind::constant, 100, 10, 0, 0.1}.at(99)), 1);
  EXPECT_NEAR((Schedule{Kind::cosine, 100, 10, 0, 0.1}.at(99)), 0.1, 1e-12);
  EXPECT_NEAR((Schedule{Kind::linear, 100, 10, 0, 0.1}.at(99)), 0.1, 1e-12);
  EXPECT_NEAR((Schedule{Kind::wsd, 100, 10, 20, 0.1}.at(99)), 0.1, 1e-12);
}

TEST(Schedule, HasItsShapeBetween) {
  // 101 steps after none: the middle is step 50.
  EXPECT_NEAR((Schedule{Kind::cosine, 101, 0, 0, 0.2}.at(50)), 0.6, 1e-12);
  EXPECT_NEAR((Schedule{Kind::cosine, 101, 0, 0, 0}.at(25)), 0.5 * (1 + std::sqrt(0.5)), 1e-12);
  EXPECT_NEAR((Schedule{Kind::linear, 101, 0, 0, 0}.at(25)), 0.75, 1e-12);
  const Schedule wsd{Kind::wsd, 100, 0, 20, 0};
  EXPECT_DOUBLE_EQ(wsd.at(79), 1);
  EXPECT_NEAR(wsd.at(80), 0.95, 1e-12);
  EXPECT_NEAR(wsd.at(89), 0.5, 1e-12);
}

TEST(Schedule, RefusesWhatCannotBe) {
  for (const Schedule& bad :
       {Schedule{Kind::cosine, 0, 0, 0, 0}, Schedule{Kind::cosine, 10, 11, 0, 0}, Schedule{Kind::wsd, 10, 5, 6, 0},
        Schedule{Kind::wsd, 10, 5, 0, 0}, Schedule{Kind::linear, 10, -1, 0, 0}, Schedule{Kind::linear, 10, 0, 0, 1.5},
        Schedule{Kind::linear, 10, 0, 0, std::nan("")}})
    EXPECT_THROW(check(bad, "recipe"), base::Error);
  EXPECT_NO_THROW(check({Kind::wsd, 10, 5, 5, 0}, "recipe"));
}

}  // namespace
}  // namespace coterie::train

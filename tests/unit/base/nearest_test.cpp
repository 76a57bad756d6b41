#include "base/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace coterie::base {
namespace {

TEST(Nearest, FindsWhatWasMeant) {
  const std::vector<std::string> known = {"batch", "steps", "learning_rate", "warmup"};
  EXPECT_EQ(nearest("setps", known), "steps");
  EXPECT_EQ(nearest("learningrate", known), "learning_rate");
  EXPECT_EQ(nearest("warm_up", known), "warmup");
  EXPECT_EQ(nearest("bacth", known), "batch");
  EXPECT_EQ(nearest("router", known), "");
  EXPECT_EQ(nearest("x", known), "");
  EXPECT_EQ(nearest("anything", {}), "");
}

}  // namespace
}  // namespace coterie::base

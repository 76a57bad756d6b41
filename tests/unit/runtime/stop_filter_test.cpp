#include "runtime/stop_filter.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace coterie::runtime {
namespace {

TEST(StopFilter, WithoutStopsTextPasses) {
  StopFilter filter({});
  EXPECT_EQ(filter.push("hello "), "hello ");
  EXPECT_EQ(filter.finish(), "");
  EXPECT_FALSE(filter.stopped());
}

TEST(StopFilter, HoldsBackWhatCouldBecomeAStop) {
  StopFilter filter({"</s>"});
  EXPECT_EQ(filter.push("a<"), "a");
  EXPECT_EQ(filter.push("/"), "");
  EXPECT_EQ(filter.push("b"), "</b");
  EXPECT_EQ(filter.push("x</"), "x");
  EXPECT_EQ(filter.push("s>rest"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, GivesBackAtTheEnd) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.push("the EN"), "the ");
  EXPECT_EQ(filter.finish(), "EN");
  EXPECT_FALSE(filter.stopped());
}

TEST(StopFilter, TheEarliestOfSeveralCounts) {
  StopFilter filter({"world", "lo w"});
  EXPECT_EQ(filter.which(), -1);
  EXPECT_EQ(filter.push("hello world"), "hel");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.which(), 1);
}

TEST(StopFilter, WaitsForALongerStopThatBeganEarlier) {
  StopFilter filter({"abcd", "c"});
  EXPECT_EQ(filter.push("xabc"), "x");
  EXPECT_FALSE(filter.stopped());
  EXPECT_EQ(filter.push("d"), "");
  EXPECT_TRUE(filter.stopped());

  StopFilter other({"abcd", "c"});
  EXPECT_EQ(other.push("xabc"), "x");
  EXPECT_EQ(other.push("e"), "ab");
  EXPECT_TRUE(other.stopped());

  StopFilter ended({"abcd", "c"});
  EXPECT_EQ(ended.push("xabc"), "x");
  EXPECT_EQ(ended.finish(), "ab");
  EXPECT_TRUE(ended.stopped());
}

// Whatever the cut into pieces: what comes out is the text before the first stop, and never more.
TEST(StopFilter, EveryCutGivesTheSame) {
  const std::string text = "aababcabcaababd";
  const std::vector<std::string> stops = {"abab", "caab"};
  const size_t first = std::min(text.find(stops[0]), text.find(stops[1]));
  for (unsigned cuts = 0; cuts < (1u << (text.size() - 1)); ++cuts) {
    StopFilter filter(stops);
    std::string out, piece;
    for (size_t i = 0; i < text.size(); ++i) {
      piece += text[i];
      if (i + 1 < text.size() && !(cuts >> i & 1)) continue;
      out += filter.push(piece);
      ASSERT_EQ(text.substr(0, out.size()), out);
      ASSERT_LE(out.size(), first);
      piece.clear();
    }
    out += filter.finish();
    ASSERT_TRUE(filter.stopped());
    ASSERT_EQ(out, text.substr(0, first)) << cuts;
  }
}

TEST(StopFilter, RefusesTheEmptyStop) { EXPECT_THROW(StopFilter({"a", ""}), base::Error); }

}  // namespace
}  // namespace coterie::runtime

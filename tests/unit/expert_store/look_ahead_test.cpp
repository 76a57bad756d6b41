#include "runtime/expert_store/look_ahead.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/rng.h"

namespace coterie::runtime {
namespace {

/// Steps of 100 experts that take `with` or `without` seconds, give or take a fifth; the share of those that looked
/// ahead.
double share_ahead(LookAheadSwitch& ahead, double with, double without, int steps) {
  base::Rng rng(3);
  int looked = 0;
  for (int i = 0; i < steps; ++i) {
    looked += ahead.on();
    ahead.note((ahead.on() ? with : without) * (0.8 + 0.4 * rng.uniform_double()), 100);
  }
  return looked / static_cast<double>(steps);
}

TEST(LookAheadSwitch, KeepsWhatIsFaster) {
  for (const auto& [with, without] : {std::pair(1.0, 1.1), {1.1, 1.0}, {1.0, 1.5}, {1.5, 1.0}}) {
    LookAheadSwitch ahead(LookAhead::automatic);
    EXPECT_EQ(ahead.gain(), 0);
    share_ahead(ahead, with, without, 800);  // one comparison is over by then
    EXPECT_NEAR(ahead.gain(), without / with, 0.12);
    const double share = share_ahead(ahead, with, without, 4000);
    EXPECT_GT(with < without ? share : 1 - share, 0.9);
  }
}

// Both ways are tried again: what did not pay may pay on another topic.
TEST(LookAheadSwitch, ChangesItsMind) {
  LookAheadSwitch ahead(LookAhead::automatic);
  share_ahead(ahead, 1.2, 1, 800);
  EXPECT_LT(ahead.gain(), 1);
  EXPECT_FALSE(ahead.on());
  share_ahead(ahead, 1, 1.2, 2000);
  EXPECT_GT(ahead.gain(), 1);
}

TEST(LookAheadSwitch, GoesByWhatItIsTold) {
  LookAheadSwitch on(LookAhead::on), off(LookAhead::off);
  EXPECT_EQ(share_ahead(on, 2, 1, 500), 1);
  EXPECT_EQ(share_ahead(off, 1, 2, 500), 0);
  EXPECT_EQ(on.gain(), 0);
}

TEST(Guesses, RanksThatAreMostlyWrongAreNotWorthARead) {
  Guesses guesses;
  const int32_t asked[] = {1, 4, 9};
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(guesses.worth(0));
    EXPECT_EQ(guesses.worth(1), i < 64);
    guesses.guess(3, 4, 0), guesses.guess(3, i % 3 == 0 ? 9 : 5, 1);
    guesses.guess(2, 1, 2);  // of a layer that was not reached
    guesses.settle(3, asked);
  }
  EXPECT_TRUE(guesses.worth(2)) << "nobody knows";
  for (int i = 0; i < 600; ++i) guesses.guess(3, 9, 1), guesses.settle(3, asked);
  EXPECT_TRUE(guesses.worth(1)) << "it has become better";
}

}  // namespace
}  // namespace coterie::runtime

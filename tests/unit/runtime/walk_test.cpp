#include "runtime/walk.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/atomic_file.h"
#include "base/json.h"
#include "runtime/machine_file.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace coterie::runtime {
namespace {

using kernels::ReadAhead;

bool operator==(ReadAhead a, ReadAhead b) { return a.streams == b.streams && a.bytes == b.bytes; }

struct WalkTest : testing::Test {
  void SetUp() override {
    ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
    ::unsetenv("COTERIE_READ_AHEAD");
  }
  void TearDown() override {
    ::unsetenv("XDG_CACHE_HOME");
    ::unsetenv("COTERIE_READ_AHEAD");
  }

  // Counts instead of measuring.
  Walk walk(double two_streams = 20, bool again = false) {
    return walk_of_this_machine(pool, kernels::select(), again, [&](auto&, auto&) {
      ++measured;
      return std::vector<kernels::WalkTrial>{{{1, 0}, two_streams / 2}, {{2, 2304}, two_streams}, {{4, 2304}, 0.1}};
    });
  }

  TempFolder folder;
  threads::Pool pool{1};
  int measured = 0;
};

TEST_F(WalkTest, TheFastestIsTakenAndRemembered) {
  const Walk first = walk();
  EXPECT_TRUE(first.read_ahead == (ReadAhead{2, 2304}));
  EXPECT_EQ(first.chosen, Walk::Chosen::measured);
  const Walk second = walk();
  EXPECT_TRUE(second.read_ahead == (ReadAhead{2, 2304}));
  EXPECT_EQ(second.chosen, Walk::Chosen::remembered);
  EXPECT_EQ(second.trials.size(), 3u);
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(walk(20, true).chosen, Walk::Chosen::measured);
  EXPECT_EQ(measured, 2);
}

TEST_F(WalkTest, TheVariableForcesOneAndIsNotRemembered) {
  ::setenv("COTERIE_READ_AHEAD", "4:1152", 1);
  const Walk forced = walk();
  EXPECT_TRUE(forced.read_ahead == (ReadAhead{4, 1152}));
  EXPECT_EQ(forced.chosen, Walk::Chosen::forced);
  EXPECT_EQ(measured, 0);
  EXPECT_FALSE(std::filesystem::exists(*machine_file()));
}

TEST_F(WalkTest, ImplausibleFiguresAreNotRemembered) {
  const Walk starved = walk(0.01);
  EXPECT_TRUE(starved.read_ahead == ReadAhead{});
  EXPECT_EQ(starved.chosen, Walk::Chosen::unmeasured);
  EXPECT_FALSE(std::filesystem::exists(*machine_file()));
  EXPECT_EQ(walk().chosen, Walk::Chosen::measured);
}

TEST_F(WalkTest, ADamagedMemoryIsMeasuredAnew) {
  walk();
  base::Json file = base::read_json(*machine_file());
  for (auto& entry : file) entry = {{{"streams", 3}, {"bytes_ahead", 0}, {"gb_s", 5}}};
  base::write_text(*machine_file(), file.dump());
  EXPECT_EQ(walk().chosen, Walk::Chosen::measured);
}

TEST_F(WalkTest, OtherValuesOfTheVariableAreRefused) {
  for (const char* text : {"", "4", "3:0", "2:", ":2304", "2:-1", "2:99999999", "2:2304x", "two:0"})
    expect_error(base::ErrorKind::bad_input, {"STREAMS:BYTES"}, [&] { parse_read_ahead(text); });
}

}  // namespace
}  // namespace coterie::runtime

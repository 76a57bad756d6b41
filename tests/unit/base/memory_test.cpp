#include "base/memory.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/expect_error.h"

namespace coterie::base {
namespace {

TEST(Memory, FiguresAreSane) {
  EXPECT_GT(total_memory(), int64_t{64} << 20);
  EXPECT_GT(available_memory(), 0);
  EXPECT_LE(available_memory(), total_memory());
  EXPECT_GT(resident_memory(), 1 << 20);
  EXPECT_GE(peak_resident_memory() + (4 << 20), resident_memory());
}

TEST(Memory, ResidentFollowsWhatIsTouched) {
  const int64_t before = resident_memory();
  const std::vector<char> touched(64 << 20, 1);
  EXPECT_GT(resident_memory() - before, 60 << 20);
  EXPECT_GE(peak_resident_memory(), before + (60 << 20));
  EXPECT_EQ(touched[12345], 1);
}

TEST(Memory, RequireRefusesWithBothFigures) {
  EXPECT_NO_THROW(require_memory(1024, "a little", ""));
  expect_error(ErrorKind::out_of_memory, {"KV cache", "1000 PB", "available", "use less"},
               [] { require_memory(int64_t{1000} * 1'000'000'000'000'000, "KV cache", "use less"); });
}

TEST(Memory, HumanBytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.0 kB");
  EXPECT_EQ(human_bytes(999'499), "999 kB");
  EXPECT_EQ(human_bytes(999'500), "1.0 MB");
  EXPECT_EQ(human_bytes(12'345'678'901), "12.3 GB");
  EXPECT_EQ(human_bytes(640'000), "640 kB");
  EXPECT_EQ(human_bytes(99'960'000), "100 MB");
  EXPECT_EQ(human_bytes(std::numeric_limits<int64_t>::max()), "9223 PB");
}

}  // namespace
}  // namespace coterie::base

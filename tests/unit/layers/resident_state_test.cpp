#include "layers/resident_state.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace coterie::layers {
namespace {

TEST(ResidentState, GrowsByWholeBlocksAndKeepsThem) {
  ResidentState state({256, 0, 512}, tensor::DType::f16);
  EXPECT_EQ(state.blocks(0).size(), 0u);
  state.reserve(1);
  EXPECT_EQ(state.blocks(0).size(), 1u);
  EXPECT_EQ(state.blocks(1).size(), 0u);  // a layer without a cache
  std::byte* const first = state.blocks(2)[0];
  state.advance(ops::kCacheBlock);
  state.reserve(1);
  EXPECT_EQ(state.blocks(2).size(), 2u);
  EXPECT_EQ(state.blocks(2)[0], first);
  EXPECT_EQ(state.length(), ops::kCacheBlock);
  state.truncate(3);
  EXPECT_EQ(state.length(), 3);
  EXPECT_EQ(state.blocks(2).size(), 2u);
}

TEST(ResidentState, RecurrentStatesGoBackToWhatIsRemembered) {
  ResidentState state({0, 64}, tensor::DType::f32, {3, 0});
  EXPECT_EQ(state.recurrent(1).size(), 0u);
  ASSERT_EQ(state.recurrent(0).size(), 3u);
  EXPECT_EQ(state.recurrent(0)[2], 0);
  const auto go_on = [&](int64_t rows, float value) {
    state.reserve(rows);
    state.recurrent(0)[2] = value;
    state.advance(rows);
  };
  go_on(5, 1.5f);
  state.remember();
  go_on(4, 2.5f);
  EXPECT_THROW(state.truncate(7), base::Error);
  state.truncate(9);
  EXPECT_EQ(state.recurrent(0)[2], 2.5f);
  state.truncate(5);
  EXPECT_EQ(state.recurrent(0)[2], 1.5f);
  EXPECT_EQ(state.length(), 5);
  state.truncate(0);
  EXPECT_EQ(state.recurrent(0)[2], 0);
  go_on(6, 3.5f);
  EXPECT_THROW(state.truncate(5), base::Error);
}

}  // namespace
}  // namespace coterie::layers

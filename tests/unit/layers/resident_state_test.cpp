#include "layers/resident_state.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace coterie::layers

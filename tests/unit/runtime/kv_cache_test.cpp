#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;

struct Fixture : testing::Test {
  families::Model model = test::tiny_model(false);
  std::shared_ptr<const CacheShape> shape =
      std::make_shared<CacheShape>(cache_shape(model.decoder->spec(), tensor::DType::f16));
  std::shared_ptr<PagePool> pool = std::make_shared<PagePool>(shape->page_bytes());
};
using KvCacheTest = Fixture;

TEST_F(KvCacheTest, APageHoldsEveryLayersBlock) {
  // Mixtral fixture: 2 layers, 2 KV heads of 12 dimensions, keys and values, 2 bytes each, 16 positions.
  EXPECT_EQ(shape->layers(), 2);
  EXPECT_EQ(shape->page_bytes(), 2 * 2 * 12 * 2 * 2 * 16);
  EXPECT_EQ(shape->position_bytes(), 2 * 2 * 12 * 2 * 2);
  EXPECT_EQ(cache_bytes(*shape, 17), 2 * shape->page_bytes());
}

TEST_F(KvCacheTest, GrowsByPagesAndKeepsWhatItHad) {
  KvCache cache(shape, pool);
  EXPECT_EQ(cache.blocks(0).size(), 0u);
  cache.reserve(1);
  ASSERT_EQ(cache.blocks(1).size(), 1u);
  std::byte* first = cache.blocks(1)[0];
  std::memset(first, 7, 100);
  cache.advance(1);
  cache.reserve(33);
  EXPECT_EQ(cache.blocks(0).size(), 3u);
  EXPECT_EQ(cache.blocks(1)[0], first);
  EXPECT_EQ(static_cast<int>(first[99]), 7);
  EXPECT_EQ(cache.blocks(1)[2] - cache.blocks(0)[2], shape->offset[1]);
  EXPECT_EQ(pool->pages_in_use(), 3);
}

TEST_F(KvCacheTest, NoPageIsHeldTwice) {
  KvCache a(shape, pool), b(shape, pool);
  a.reserve(64), b.reserve(64);
  std::set<std::byte*> pages;
  for (KvCache* cache : {&a, &b})
    for (std::byte* block : cache->blocks(0)) EXPECT_TRUE(pages.insert(block).second);
}

TEST_F(KvCacheTest, TruncationGivesWholePagesBack) {
  KvCache cache(shape, pool);
  cache.reserve(40);
  cache.advance(40);
  cache.truncate(17);
  EXPECT_EQ(cache.length(), 17);
  EXPECT_EQ(cache.blocks(0).size(), 2u);
  EXPECT_EQ(pool->pages_in_use(), 2);
  const int64_t held = pool->capacity();
  cache.reserve(40);
  EXPECT_EQ(pool->capacity(), held) << "pages given back are used again";
  cache.truncate(0);
  EXPECT_EQ(pool->pages_in_use(), 0);
}

TEST_F(KvCacheTest, MovingAndDestroyingGiveBack) {
  {
    KvCache a(shape, pool);
    a.reserve(16), a.advance(3);
    KvCache b(std::move(a));
    EXPECT_EQ(b.length(), 3);
    KvCache c(shape, pool);
    c.reserve(16);
    c = std::move(b);
    EXPECT_EQ(c.length(), 3);
    EXPECT_EQ(pool->pages_in_use(), 1);
  }
  EXPECT_EQ(pool->pages_in_use(), 0);
}

TEST_F(KvCacheTest, FreshPagesAreZero) {
  KvCache cache(shape, pool);
  cache.reserve(160);
  for (std::byte* block : cache.blocks(0))
    for (int64_t i = 0; i < shape->offset[1]; ++i) ASSERT_EQ(static_cast<int>(block[i]), 0);
}

TEST_F(KvCacheTest, WhatCannotFitIsRefusedWithTheFigure) {
  PagePool huge(int64_t{1} << 40);
  std::vector<PagePool::Page> pages;
  expect_error(ErrorKind::out_of_memory, {"KV cache", "4.4 TB", "`context`"}, [&] { huge.take(4, pages); });
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(huge.capacity(), 0);
}

TEST_F(KvCacheTest, PromisesAreChecked) {
  KvCache cache(shape, pool);
  expect_error(ErrorKind::internal, {"pages are held"}, [&] { cache.advance(1); });
  expect_error(ErrorKind::internal, {"cut to 1"}, [&] { cache.truncate(1); });
  expect_error(ErrorKind::internal, {"layer 2 of 2"}, [&] { (void)cache.blocks(2); });
  expect_error(ErrorKind::unsupported, {"q4_0"}, [&] { cache_shape(model.decoder->spec(), tensor::DType::q4_0); });
}

}  // namespace
}  // namespace coterie::runtime

#include "tensor/arena.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/expect_error.h"
#include "tensor/buffer.h"

// Under AddressSanitizer an allocation that cannot be must fail as it does without, instead of ending the test.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace coterie::tensor {
namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0; }

TEST(Arena, PiecesAreAlignedAndApart) {
  Arena arena(256);
  std::vector<std::pair<char*, int64_t>> pieces;
  for (const int64_t size : {1, 63, 64, 65, 200, 1000, 5000, 3}) {
    char* piece = arena.take<char>(size);
    ASSERT_TRUE(aligned(piece));
    std::memset(piece, static_cast<int>(pieces.size()), static_cast<size_t>(size));
    pieces.emplace_back(piece, size);
  }
  for (size_t i = 0; i < pieces.size(); ++i)
    for (int64_t j = 0; j < pieces[i].second; ++j) ASSERT_EQ(pieces[i].first[j], static_cast<char>(i));
}

TEST(Arena, AWarmArenaAllocatesNothing) {
  Arena arena(1024);
  std::vector<float*> first;
  const auto step = [&] {
    std::vector<float*> taken;
    for (const int64_t rows : {3, 50, 700, 2}) taken.push_back(arena.matrix(rows, 17).data);
    return taken;
  };
  first = step();
  const int64_t capacity = arena.capacity();
  for (int round = 0; round < 20; ++round) {
    arena.reset();
    ASSERT_EQ(step(), first);
    ASSERT_EQ(arena.capacity(), capacity);
  }
}

TEST(Arena, ScopesGiveBackWhatTheyTook) {
  Arena arena(4096);
  float* outer = arena.take<float>(10);
  outer[0] = 42;
  float* inner = nullptr;
  for (int round = 0; round < 3; ++round) {
    ArenaScope scope(arena);
    float* taken = arena.take<float>(100'000);  // in a chunk of its own
    if (inner) {
      EXPECT_EQ(taken, inner);
    }
    inner = taken;
    taken[0] = 1;
  }
  EXPECT_EQ(outer[0], 42);
  EXPECT_NE(arena.take<float>(10), outer);
}

TEST(Arena, NothingIsAPieceToo) {
  Arena arena(64);
  EXPECT_NE(arena.take<float>(0), nullptr);
  const Matrix empty = arena.matrix(0, 5);
  EXPECT_EQ(empty.rows, 0);
}

TEST(Arena, GrowsWithWhatIsAskedAndNotBeyond) {
  Arena arena(1024);
  arena.take<char>(10'000'000);
  const int64_t capacity = arena.capacity();
  EXPECT_GE(capacity, 10'000'000);
  arena.take<char>(100);
  EXPECT_LE(arena.capacity(), 3 * capacity) << "a large piece must not make all later chunks large";
}

TEST(Buffer, IsAlignedAndRefusesTheImpossible) {
  Buffer<float> buffer(100);
  EXPECT_TRUE(aligned(buffer.data()));
  EXPECT_EQ(buffer.size(), 100);
  buffer[99] = 3;
  EXPECT_EQ(buffer.span().back(), 3);
  EXPECT_EQ(Buffer<int>(0).data(), nullptr);
  Buffer<float> moved = std::move(buffer);
  EXPECT_EQ(moved[99], 3);
  EXPECT_EQ(buffer.size(), 0) << "what was moved from holds nothing";
  expect_error(base::ErrorKind::out_of_memory, {"bytes"}, [] { Buffer<float>(int64_t{1} << 58); });
  expect_error(base::ErrorKind::internal, {"-1"}, [] { Buffer<float>(-1); });
}

}  // namespace
}  // namespace coterie::tensor

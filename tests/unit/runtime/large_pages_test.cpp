#include "runtime/large_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "checkpoint/file_source.h"
#include "support/temp_folder.h"

namespace coterie::runtime {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();
constexpr int64_t kBytes = int64_t{72} << 20;  // more than what is not worth moving

uint64_t value_at(int64_t i) { return static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u; }

// One tensor that neither begins nor ends at a page.
checkpoint::FileSource source_in(const TempFolder& folder) {
  std::string contents(kBytes + 8, '\0');
  for (int64_t i = 0; i < kBytes / 8; ++i) {
    const uint64_t value = value_at(i);
    std::memcpy(contents.data() + 8 + 8 * i, &value, 8);
  }
  folder.write("weights", contents);
  base::MappedFile file = base::MappedFile::open(folder / "weights");
  const std::span<const std::byte> bytes = file.bytes().subspan(8);
  checkpoint::FileSource source(checkpoint::Format::safetensors, "weights");
  source.add(std::move(file), {{"w", tensor::DType::f32, {kBytes / 4}, bytes}});
  return source;
}

void expect_unchanged(const checkpoint::TensorSource& source, const std::byte* address) {
  const auto bytes = source.tensors().front().bytes;
  ASSERT_EQ(bytes.data(), address);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kBytes / 8; ++i) {
    uint64_t value;
    std::memcpy(&value, bytes.data() + 8 * i, 8);
    wrong += value != value_at(i);
  }
  EXPECT_EQ(wrong, 0);
}

TEST(LargePages, WhatIsMovedKeepsItsAddressAndItsBytes) {
  const TempFolder folder;
  const checkpoint::FileSource source = source_in(folder);
  const std::byte* address = source.tensors().front().bytes.data();
  threads::Pool pool(2);
  LargePages pages(source);
  EXPECT_FALSE(pages.done());
  pages.advance(pool, 0, 0);
  EXPECT_EQ(pages.moved_bytes(), 0) << "no time, nothing moved";
  expect_unchanged(source, address);
  pages.advance(pool, kForever, 0);
  EXPECT_TRUE(pages.done());
  EXPECT_LE(pages.moved_bytes(), kBytes);
  EXPECT_EQ(pages.moved_bytes() % (2 << 20), 0);
  expect_unchanged(source, address);
  // How much was moved is the system's affair: the file may be in large pages, or there may be none.
  RecordProperty("moved_bytes", std::to_string(pages.moved_bytes()));
}

TEST(LargePages, MemoryThatIsShortEndsIt) {
  const TempFolder folder;
  const checkpoint::FileSource source = source_in(folder);
  threads::Pool pool(2);
  LargePages pages(source);
  pages.advance(pool, kForever, INT64_MAX / 2);
  EXPECT_TRUE(pages.done());
  EXPECT_EQ(pages.moved_bytes(), 0);
}

}  // namespace
}  // namespace coterie::runtime

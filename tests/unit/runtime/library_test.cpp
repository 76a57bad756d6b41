#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "runtime/library/translate.h"

// What the rooms throw, as the promised header's errors. The header itself is tested by tests/unit/library, which sees
// nothing else.
namespace coterie::library {
namespace {

using Kind = Error::Kind;

template <typename Body>
Error error_of(Body body) {
  try {
    translated(body);
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("nothing was thrown");
}

TEST(Library, TranslatesWhateverTheRoomsThrow) {
  EXPECT_EQ(error_of([] { throw std::bad_alloc(); }).kind(), Kind::out_of_memory);
  const Error file = error_of([] { (void)std::filesystem::file_size("/no such file"); });
  EXPECT_EQ(file.kind(), Kind::io);
  EXPECT_EQ(file.where(), "/no such file");
  EXPECT_EQ(error_of([] { const base::Json ignored = base::Json::parse("{"); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([] { throw std::length_error("vector"); }).kind(), Kind::internal);
  EXPECT_EQ(error_of([] { throw 7; }).kind(), Kind::internal);
  const Error ours = error_of([] { throw base::Error(base::ErrorKind::unsupported, "here", "no", "do that"); });
  EXPECT_EQ(ours.kind(), Kind::unsupported);
  EXPECT_EQ(ours.where(), "here");
  EXPECT_EQ(ours.message(), "no");
  EXPECT_EQ(ours.hint(), "do that");
  EXPECT_EQ(std::string(ours.what()), base::Error(base::ErrorKind::unsupported, "here", "no", "do that").what());
}

TEST(Library, WhatACallbackThrowsLeavesAsItIs) {
  struct Gone {};
  EXPECT_THROW(translated([] { call_back([] { throw Gone(); }); }), Gone);
  EXPECT_THROW(translated([] { call_back([] { throw std::bad_alloc(); }); }), std::bad_alloc);
}

TEST(Library, AKeptErrorIsTranslatedToo) {
  EXPECT_FALSE(translated_error(nullptr));
  const auto kept = std::make_exception_ptr(base::Error(base::ErrorKind::out_of_memory, "KV cache", "is full"));
  EXPECT_THROW(std::rethrow_exception(translated_error(kept)), Error);
}

}  // namespace
}  // namespace coterie::library

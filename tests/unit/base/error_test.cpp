#include "base/error.h"

#include <gtest/gtest.h>

#include "base/function_ref.h"
#include "support/expect_error.h"

namespace coterie::base {
namespace {

TEST(Error, SaysWhereWhatAndWhatToDo) {
  const Error error(ErrorKind::bad_input, "model.gguf", "the file is empty", "download it again");
  EXPECT_STREQ(error.what(), "model.gguf: the file is empty\n  hint: download it again");
  EXPECT_STREQ(Error(ErrorKind::io, "", "no place").what(), "no place");
  EXPECT_EQ(error.where(), "model.gguf");
  EXPECT_EQ(error.message(), "the file is empty");
  EXPECT_EQ(error.hint(), "download it again");
}

TEST(Error, WithinAddsTheOuterPlace) {
  const Error inner(ErrorKind::not_found, "blk.0.attn_q.weight", "missing", "hint");
  const Error outer = inner.within("model.gguf");
  EXPECT_EQ(outer.where(), "model.gguf: blk.0.attn_q.weight");
  EXPECT_EQ(outer.kind(), ErrorKind::not_found);
  EXPECT_EQ(outer.hint(), "hint");
  EXPECT_EQ(Error(ErrorKind::io, "", "x").within("a").where(), "a");
}

TEST(Error, ExitCodes) {
  for (const ErrorKind kind :
       {ErrorKind::bad_input, ErrorKind::unsupported, ErrorKind::not_found, ErrorKind::out_of_memory})
    EXPECT_EQ(exit_code(kind), 2);
  EXPECT_EQ(exit_code(ErrorKind::io), 1);
  EXPECT_EQ(exit_code(ErrorKind::interrupted), 130);
  EXPECT_EQ(exit_code(ErrorKind::internal), 70);
}

TEST(Error, FailAndRequireFormat) {
  expect_error(ErrorKind::bad_input, {"file: 3 of 4"}, [] { fail(ErrorKind::bad_input, "file", "{} of {}", 3, 4); });
  EXPECT_NO_THROW(require(true, "op", "unused {}", 1));
  expect_error(ErrorKind::internal, {"op: 7 rows"}, [] { require(false, "op", "{} rows", 7); });
}

TEST(FunctionRef, CallsWhatItWasGiven) {
  int calls = 0;
  const auto twice = [&](int value) {
    ++calls;
    return 2 * value;
  };
  const FunctionRef<int(int)> ref = twice;
  EXPECT_EQ(ref(4), 8);
  const FunctionRef<int(int)> copy = ref;
  EXPECT_EQ(copy(5), 10);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace coterie::base

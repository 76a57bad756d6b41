#include "base/utf8.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace coterie::base {
namespace {

TEST(Utf8, ValidBytesEndAtTheFirstThatIsNone) {
  for (const std::string_view whole : {"", "plain", "caf\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf",
                                       "\xee\x80\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_EQ(valid_utf8_bytes(whole), whole.size()) << whole;
  const auto bad_at = [](std::string_view text, size_t at) { EXPECT_EQ(valid_utf8_bytes(text), at) << text; };
  bad_at("caf\xe9", 3);           // Latin 1
  bad_at("a\xc3", 1);             // cut
  bad_at("a\xe2\x82", 1);         // cut
  bad_at("ab\xa9", 2);            // the rest of a character alone
  bad_at("\xc0\xaf", 0);          // overlong
  bad_at("\xe0\x80\xaf", 0);      // overlong
  bad_at("\xf0\x80\x80\xaf", 0);  // overlong
  bad_at("x\xed\xa0\x80", 1);     // a surrogate
  bad_at("\xf4\x90\x80\x80", 0);  // above U+10FFFF
  bad_at("\xf5\x80\x80\x80", 0);
  bad_at("a\xff", 1);
}

TEST(Utf8, ARefusalNamesThePlaceAndTheByte) {
  EXPECT_NO_THROW(require_utf8("caf\xc3\xa9", "notes.txt", "the text"));
  expect_error(ErrorKind::bad_input, {"notes.txt", "the text is not UTF-8", "0xe9", "offset 3"},
               [] { require_utf8("caf\xe9", "notes.txt", "the text"); });
}

}  // namespace
}  // namespace coterie::base

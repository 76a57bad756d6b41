#include "cli/option_names.h"

#include <gtest/gtest.h>

namespace coterie::cli {
namespace {

TEST(OptionNames, FieldsInATextBecomeOptions) {
  EXPECT_EQ(with_options("a smaller `context` needs less, or `cache_type` q8_0"),
            "a smaller --context needs less, or --cache-type q8_0");
  EXPECT_EQ(with_options("`no such field` and `layers"), "`no such field` and `layers");
  EXPECT_EQ(with_options(""), "");
}

TEST(OptionNames, WhereAnErrorIsNamesTheOption) {
  EXPECT_EQ(option_of("top_k"), "--top-k");
  EXPECT_EQ(option_of("upcycle.router: score"), "--router: score");
  EXPECT_EQ(option_of("model.gguf: context"), "model.gguf: context");
}

TEST(OptionNames, AnErrorSaysWhereAndWhat) {
  EXPECT_EQ(text_of({base::ErrorKind::bad_input, "max_tokens", "is -5; see `context`", ""}),
            "-n: is -5; see --context");
  EXPECT_EQ(text_of({base::ErrorKind::bad_input, "", "no model", ""}), "no model");
}

}  // namespace
}  // namespace coterie::cli

#include "text/tokenizer.h"

#include <gtest/gtest.h>

namespace coterie::text {
namespace {

TEST(Tokenizer, BrokenJsonIsAnError) { EXPECT_THROW(Tokenizer::from_json("{\"model\": ", "broken.json"), base::Error); }

}  // namespace
}  // namespace coterie::text

// The tokenizer inside a real GGUF file, SmolLM2's, against the ids of Hugging Face's tokenizers (make_golden.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "base/json.h"
#include "checkpoint/tensor_source.h"
#include "families/gguf/gguf_vocabulary.h"
#include "families/open.h"
#include "support/places.h"
#include "text/tokenizer.h"

namespace coterie::text {
namespace {

const std::filesystem::path kTests = tests::source_folder();
const std::filesystem::path kModel = kTests.parent_path() / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";

TEST(SmolLm2, IdsEqualHuggingFace) {
  if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "SmolLM2 is not in build/models; ./dev run fetches it";
  const auto source = checkpoint::open_gguf(kModel);
  const auto vocabulary = families::gguf_vocabulary(*source);
  ASSERT_TRUE(vocabulary);
  const Tokenizer tokenizer = Tokenizer::from_gguf(*vocabulary, kModel.string());
  EXPECT_EQ(tokenizer.vocabulary_size(), 49152);
  EXPECT_EQ(tokenizer.token(tokenizer.end_tokens().front()), "<|im_end|>");
  const base::Json golden = base::read_json(kTests / "parity/text/smollm2.json");
  ASSERT_EQ(golden["lines"].size(), 300u);
  for (size_t i = 0; i < golden["lines"].size(); ++i) {
    const std::string line = golden["lines"][i];
    const std::vector<TokenId> ids = tokenizer.encode(line, false);
    EXPECT_EQ(ids, golden["plain"][i].get<std::vector<TokenId>>()) << line;
    EXPECT_EQ(tokenizer.decode(ids, false), golden["text"][i].get<std::string>());

    StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const TokenId id : ids) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), golden["text"][i].get<std::string>());
  }
}

}  // namespace
}  // namespace coterie::text

#include <gtest/gtest.h>

#include <thread>

#include "library/small_model.h"

namespace coterie {
namespace {

using test::error_of;
using test::small;

TEST(PublicModel, VersionsOfHeaderAndLibraryAgree) {
  EXPECT_EQ(version(), std::to_string(COTERIE_VERSION_MAJOR) + "." + std::to_string(COTERIE_VERSION_MINOR) + "." +
                           std::to_string(COTERIE_VERSION_PATCH));
}

TEST(PublicModel, SaysWhatItIs) {
  const Model& model = small();
  EXPECT_FALSE(model.name().empty());
  EXPECT_GE(model.context_size(), 256);
  EXPECT_GT(model.layers(), 1);
  EXPECT_GT(model.width(), 0);
  EXPECT_GT(model.parameters(), model.active_parameters());
  EXPECT_EQ(model.models(), std::vector<std::string>{model.name()});
  EXPECT_TRUE(model.warnings().empty());
  EXPECT_FALSE(model.end_tokens().empty());
  EXPECT_EQ(name(Finish::end_token), "end token");
}

TEST(PublicModel, TokensAndText) {
  const Model& model = small();
  const std::vector<int32_t> ids = model.tokenize("One day, a little girl", false);
  EXPECT_EQ(model.detokenize(ids), "One day, a little girl");
  EXPECT_EQ(model.count_tokens("One day"), std::ssize(model.tokenize("One day")));
  const std::vector<int32_t> outside = {static_cast<int32_t>(model.vocabulary_size())};
  EXPECT_EQ(error_of([&] { (void)model.detokenize(outside); }).kind(), Error::Kind::bad_input);
}

TEST(PublicModel, WritesTextInOneCall) {
  std::string streamed;
  const Generated answer =
      small().generate("One day", test::greedy(8), [&](std::string_view text) { streamed += text; });
  EXPECT_EQ(answer.text, streamed);
  EXPECT_EQ(answer.tokens.size(), 8u);
  EXPECT_EQ(answer.finish, Finish::max_tokens);
  EXPECT_EQ(small().generate("One day", test::greedy(8)).text, answer.text);
}

TEST(PublicModel, AnswersAChatOrSaysThatItHasNoTemplate) {
  const Model& model = small();
  if (model.has_chat_template()) {
    const std::string prompt = model.apply_chat_template({{"user", "hi"}});
    EXPECT_NE(prompt.find("hi"), std::string::npos);
    EXPECT_EQ(model.chat({{"user", "hi"}}, test::greedy(3)).tokens.size(), 3u);
    EXPECT_EQ(model.session().chat({{"user", "hi"}}, test::greedy(3)).tokens.size(), 3u);
  } else {
    EXPECT_EQ(error_of([&] { (void)model.chat({{"user", "hi"}}, test::greedy(3)); }).kind(), Error::Kind::unsupported);
  }
}

TEST(PublicModel, NothingButErrorLeaves) {
  using Kind = Error::Kind;
  const Error missing = error_of([] { (void)Model::load("no such model"); });
  EXPECT_EQ(missing.kind(), Kind::not_found);
  EXPECT_EQ(missing.where(), "no such model");
  EXPECT_NE(std::string(missing.what()).find(missing.message()), std::string::npos);
  EXPECT_THROW((void)Model::load(std::string(5000, 'a')), Error);
  EXPECT_EQ(error_of([] { (void)Model::load(test::small_path(), {.threads = -1}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([] { (void)Model::load(test::small_path(), {.context = -1}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([] { (void)Model::load(test::small_path(), {.step_tokens = 0}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([] { (void)Model::load(test::small_path(), {.cache_bytes = -1}); }).kind(), Kind::bad_input);
  EXPECT_EQ(error_of([] { (void)Model::load(test::small_path(), {.experts_per_token = 999}); }).kind(),
            Kind::bad_input);
  EXPECT_THROW((void)Model::load(test::small_path(), {.adapter = "no such adapter"}), Error);
  EXPECT_EQ(error_of([] {
              GenerateOptions options;
              options.top_p = 2;
              (void)small().generate("x", options);
            }).kind(),
            Kind::bad_input);
}

TEST(PublicModel, CacheTypesAndAdapters) {
  const Model bare = Model::load(test::fixture("mixtral"), {.threads = 1, .exact = true});
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6};
  const std::vector<float> exact = bare.session().logits(ids);
  ASSERT_EQ(std::ssize(exact), bare.vocabulary_size());
  const Model rough =
      Model::load(test::fixture("mixtral"), {.threads = 1, .exact = true, .cache_type = CacheType::q8_0});
  const std::vector<float> rounded = rough.session().logits(ids);
  EXPECT_NE(rounded, exact);
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(rounded[i], exact[i], 0.1);
  // It has no tokenizer: text is refused, ids are not.
  EXPECT_EQ(error_of([&] { (void)bare.tokenize("x"); }).kind(), Error::Kind::unsupported);
}

TEST(PublicModel, AHandleOutlivesWhatItWasCopiedFrom) {
  auto model = std::make_unique<Model>(Model::load(test::fixture("mixtral"), {.threads = 1}));
  Session session = model->session();
  const Model copy = *model;
  model.reset();
  const std::vector<int32_t> ids = {1, 2, 3};
  EXPECT_EQ(session.logits(ids), copy.session().logits(ids));
}

TEST(PublicModel, SessionsOfSeveralThreadsTakeTurns) {
  const Model model = Model::load(test::fixture("mixtral"), {.threads = 1});
  const std::vector<int32_t> a = {1, 2, 3}, b = {4, 5, 6, 7};
  const std::vector<int32_t> first = model.generate(a, test::greedy(20)).tokens;
  const std::vector<int32_t> second = model.generate(b, test::greedy(20)).tokens;
  std::vector<int32_t> found;
  std::thread other([&] { found = model.generate(b, test::greedy(20)).tokens; });
  EXPECT_EQ(model.generate(a, test::greedy(20)).tokens, first);
  other.join();
  EXPECT_EQ(found, second);
}

}  // namespace
}  // namespace coterie

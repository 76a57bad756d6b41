#include <gtest/gtest.h>

#include "client.h"
#include "fake_backend.h"

namespace coterie::serve::test {
namespace {

base::Json ask_json(const Fixture& fixture, const base::Json& body, int status = 200) {
  const Reply reply = ask(fixture.port(), post("/v1/embeddings", body.dump()));
  EXPECT_EQ(reply.status, status) << reply.body;
  return base::Json::parse(reply.body, nullptr, false);
}

TEST(Embeddings, AreOfLengthOneAndSayHowTheyArePooled) {
  const Fixture fixture;
  const base::Json json = ask_json(fixture, {{"input", "Hi"}, {"model", "fake"}, {"user", "me"}});
  EXPECT_EQ(json["object"], "list");
  EXPECT_EQ(json["data"][0]["object"], "embedding");
  const std::vector<float> vector = json["data"][0]["embedding"];
  ASSERT_EQ(vector.size(), 3U);
  EXPECT_FLOAT_EQ(vector[0], 0.6F);
  EXPECT_FLOAT_EQ(vector[2], -0.8F);
  EXPECT_EQ(json["pooling"], "mean");
  EXPECT_EQ(json["usage"], (base::Json{{"prompt_tokens", 2}, {"total_tokens", 2}}));
  const Request seen = fixture.backend.seen()[0];
  EXPECT_EQ(seen.max_tokens, 0);
  EXPECT_EQ(seen.pooling, Request::Pooling::mean);
  EXPECT_EQ(ask_json(fixture, {{"input", "Hi"}, {"normalize", false}})["data"][0]["embedding"],
            (base::Json{3.0, 0.0, -4.0}));
  EXPECT_EQ(ask_json(fixture, {{"input", "Hi"}, {"pooling", "last"}})["pooling"], "last");
  EXPECT_EQ(fixture.backend.seen()[2].pooling, Request::Pooling::last);
}

TEST(Embeddings, OfManyTextsGoToTheSchedulerAFewAtATime) {
  const Fixture fixture;
  const int64_t parallel = fixture.backend.options().parallel;
  base::Json texts = base::Json::array();
  for (int64_t i = 0; i < 3 * parallel; ++i) texts.push_back(std::string(static_cast<size_t>(i % 7 + 1), 'a'));
  const base::Json json = ask_json(fixture, {{"input", texts}});
  ASSERT_EQ(json["data"].size(), texts.size());
  EXPECT_EQ(json["data"].back()["index"], texts.size() - 1);
  EXPECT_EQ(fixture.backend.seen().size(), texts.size());
}

TEST(Embeddings, InputsAreTextsOrIds) {
  const Fixture fixture;
  ask_json(fixture, {{"input", {72, 105}}});
  ask_json(fixture, {{"input", {{72, 105}, {72}}}});
  ask_json(fixture, {{"input", {{"content", {{{"type", "text"}, {"text", "H"}}, {{"type", "text"}, {"text", "i"}}}}}}});
  const auto seen = fixture.backend.seen();
  EXPECT_EQ(seen[0].prompt, (std::vector<TokenId>{72, 105}));
  EXPECT_EQ(seen[2].prompt, (std::vector<TokenId>{72}));
  EXPECT_EQ(seen[3].prompt, (std::vector<TokenId>{72, 105}));
}

TEST(Embeddings, InBase64AreTheSameFloats) {
  const Fixture fixture;
  const base::Json json = ask_json(fixture, {{"input", "Hi"}, {"encoding_format", "base64"}, {"normalize", false}});
  EXPECT_EQ(json["data"][0]["embedding"], "AABAQAAAAAAAAIDA");  // 3, 0, -4
}

TEST(Embeddings, WhatIsWrongIsNamed) {
  const Fixture fixture;
  const auto fault = [&](const base::Json& body) { return ask_json(fixture, body, 400)["error"]["param"]; };
  EXPECT_EQ(fault(base::Json::object()), "input");
  EXPECT_EQ(fault({{"input", base::Json::array()}}), "input");
  EXPECT_EQ(fault({{"input", ""}}), "input");
  EXPECT_EQ(fault({{"input", {259}}}), "input");
  EXPECT_EQ(fault({{"input", {{"content", {{{"type", "image_url"}}}}}}}), "input");
  EXPECT_EQ(fault({{"input", "Hi"}, {"dimensions", 2}}), "dimensions");
  EXPECT_EQ(fault({{"input", "Hi"}, {"pooling", "max"}}), "pooling");
  EXPECT_EQ(fault({{"input", "Hi"}, {"temperature", 1}}), "temperature");
}

}  // namespace
}  // namespace coterie::serve::test

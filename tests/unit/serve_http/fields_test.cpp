#include "serve/api/fields.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "fake_backend.h"
#include "serve/api/answer.h"
#include "serve/api/sampling_fields.h"

namespace coterie::serve::test {
namespace {

std::string refused(const std::function<void()>& read) {
  try {
    read();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param + "|" + error.message;
  }
  return "";
}

TEST(Fields, NameWhatIsWrong) {
  const base::Json json = {{"a", 1}, {"b", "x"}, {"c", 2.5}, {"d", nullptr}, {"e", 16.0}, {"f", true}};
  Fields fields(json);
  EXPECT_EQ(fields.integer("a", 0, 9), 1);
  EXPECT_EQ(fields.integer("e", 0, 99), 16);
  EXPECT_FALSE(fields.integer("d", 0, 9));
  EXPECT_FALSE(fields.integer("z", 0, 9));
  EXPECT_EQ(refused([&] { fields.integer("b", 0, 9); }), "b|b: expected a whole number from 0 to 9, found \"x\"");
  EXPECT_EQ(refused([&] { fields.integer("c", 0, 9); }), "c|c: expected a whole number from 0 to 9, found 2.5");
  EXPECT_EQ(refused([&] { fields.integer("e", 0, 9); }), "e|e: expected a whole number from 0 to 9, found 16.0");
  EXPECT_EQ(refused([&] { fields.number("f", 0, 1); }), "f|f: expected a number from 0 to 1, found true");
  EXPECT_EQ(refused([&] { fields.boolean("a"); }), "a|a: expected true or false, found 1");
}

TEST(Fields, UnknownOnesAreRefusedByName) {
  const base::Json json = {{"temperature", 1}, {"temperatur", 2}, {"zzz", 3}};
  Fields fields(json);
  fields.number("temperature", 0, 2);
  EXPECT_EQ(refused([&] { fields.refuse_unknown(false); }),
            "temperatur|these fields are not known here: temperatur, zzz (did you mean \"temperature\"?)");
  EXPECT_EQ(fields.refuse_unknown(true), (std::vector<std::string>{"temperatur", "zzz"}));
}

Request sampled(const base::Json& json) {
  static const ServedModel model = fake_model();
  Fields fields(json);
  Request request = default_request(model);
  read_sampling(fields, model, request);
  fields.refuse_unknown(false);
  return request;
}

TEST(SamplingFields, AreAllHonoured) {
  const Request request = sampled({{"temperature", 0.5},
                                   {"top_p", 0},
                                   {"top_k", -1},
                                   {"min_p", 0.1},
                                   {"seed", 7},
                                   {"stop", {"x", "y"}},
                                   {"repetition_penalty", 1.1},
                                   {"presence_penalty", -2},
                                   {"frequency_penalty", 2},
                                   {"logit_bias", {{"97", -100}, {"bc", 1}}},
                                   {"priority", 3},
                                   {"cache_salt", "s"},
                                   {"ignore_eos", true},
                                   {"cache_prompt", false}});
  EXPECT_EQ(request.sampler.temperature, 0.5);
  EXPECT_GT(request.sampler.top_p, 0);
  EXPECT_EQ(request.sampler.top_k, 0);
  EXPECT_EQ(request.sampler.min_p, 0.1);
  EXPECT_EQ(request.sampler.seed, 7U);
  EXPECT_EQ(request.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(request.sampler.repeat_penalty, 1.1);
  EXPECT_EQ(request.sampler.presence_penalty, -2);
  EXPECT_EQ(request.sampler.frequency_penalty, 2);
  EXPECT_EQ(request.sampler.logit_bias,
            (std::vector<std::pair<TokenId, float>>{{97, -100.0F}, {98, 1.0F}, {99, 1.0F}}));
  EXPECT_EQ(request.priority, -3);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_TRUE(request.ignore_end);
  EXPECT_FALSE(request.use_cache);
}

TEST(SamplingFields, RangesAreChecked) {
  for (const base::Json& bad : std::vector<base::Json>{{{"temperature", -1}},
                                                       {{"temperature", "1"}},
                                                       {{"top_p", 1.5}},
                                                       {{"presence_penalty", 3}},
                                                       {{"seed", 1.5}},
                                                       {{"stop", 1}},
                                                       {{"stop", {1}}},
                                                       {{"logit_bias", 3}},
                                                       {{"logit_bias", {{"1", "x"}}}},
                                                       {{"temperature", {{"__float__", "NaN"}}}}})
    EXPECT_NE(refused([&] { sampled(bad); }), "") << bad;
}

TEST(SamplingFields, ChoicesHaveSeedsOfTheirOwn) {
  Request request;
  request.sampler.seed = 5;
  const std::vector<Request> all = copies(request, 3);
  EXPECT_EQ(all[0].sampler.seed, 5U);
  EXPECT_EQ(all[2].sampler.seed, 7U);
}

TEST(Answers, Base64) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(Answers, BytesOfTokens) {
  const ServedModel model = fake_model();
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(model.bytes.of(byte), std::string(1, static_cast<char>(byte)));
  EXPECT_EQ(model.bytes.of(kEnd), "<|end|>");
  EXPECT_EQ(model.token_text('a'), "a");
  EXPECT_EQ(model.token_text(0xff), "\xef\xbf\xbd");
}

}  // namespace
}  // namespace coterie::serve::test

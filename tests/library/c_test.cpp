#include <coterie/coterie_c.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "library/small_model.h"

namespace coterie {
namespace {

struct CInterface : testing::Test {
  void SetUp() override {
    coterie_load_options options;
    coterie_load_defaults(&options, sizeof options);
    options.threads = 2, options.context = 256;
    ASSERT_EQ(coterie_model_load(test::small_path().c_str(), &options, &model), COTERIE_OK) << coterie_last_error();
    ASSERT_EQ(coterie_session_new(model, &session), COTERIE_OK);
  }
  void TearDown() override {
    coterie_model_free(model);
    coterie_session_free(session);
  }
  std::vector<int32_t> ids(const char* text) const {
    size_t count = 0;
    EXPECT_EQ(coterie_tokenize(model, text, 1, nullptr, 0, &count), COTERIE_TOO_SMALL);
    std::vector<int32_t> result(count);
    EXPECT_EQ(coterie_tokenize(model, text, 1, result.data(), count, &count), COTERIE_OK);
    return result;
  }
  static coterie_generate_options greedy(int64_t tokens) {
    coterie_generate_options options;
    coterie_generate_defaults(&options, sizeof options);
    options.temperature = 0, options.max_tokens = tokens, options.ignore_end = 1;
    return options;
  }
  std::string text(const coterie_session* of) const {
    std::string result(1000, ' ');
    size_t count = 0;
    EXPECT_EQ(coterie_session_text(of, result.data(), result.size(), &count), COTERIE_OK);
    return result.substr(0, count);
  }
  coterie_model* model = nullptr;
  coterie_session* session = nullptr;
};

TEST_F(CInterface, WritesWhatTheClassesWrite) {
  EXPECT_EQ(coterie_version(), std::string(version()));
  EXPECT_EQ(coterie_model_vocabulary(model), test::small().vocabulary_size());
  EXPECT_EQ(coterie_model_parameters(model), test::small().parameters());
  const auto prompt = ids("One day");
  EXPECT_EQ(prompt, test::small().tokenize("One day"));
  const coterie_generate_options options = greedy(6);
  std::string streamed;
  const auto add = [](const char* text, size_t bytes, void* user) {
    static_cast<std::string*>(user)->append(text, bytes);
    return int32_t{0};
  };
  ASSERT_EQ(coterie_session_generate(session, prompt.data(), prompt.size(), &options, add, &streamed), COTERIE_OK);
  EXPECT_EQ(streamed, test::small().generate("One day", test::greedy(6)).text);
  EXPECT_EQ(text(session), streamed);
  EXPECT_EQ(coterie_session_finish(session), COTERIE_MAX_TOKENS);
}

TEST_F(CInterface, SessionsStepTogetherForkAndAreCancelled) {
  const auto prompt = ids("One day"), other_prompt = ids("The dog");
  const coterie_generate_options options = greedy(6);
  coterie_session* other = nullptr;
  ASSERT_EQ(coterie_session_new(model, &other), COTERIE_OK);
  ASSERT_EQ(coterie_session_start(session, prompt.data(), prompt.size(), &options, nullptr, nullptr), COTERIE_OK);
  ASSERT_EQ(coterie_session_start(other, other_prompt.data(), other_prompt.size(), &options, nullptr, nullptr),
            COTERIE_OK);
  coterie_session* const both[] = {session, other};
  ASSERT_EQ(coterie_step(both, 2), COTERIE_OK);
  coterie_session_cancel(other);
  while (coterie_session_finish(session) == COTERIE_NOT_YET) ASSERT_EQ(coterie_step(both, 2), COTERIE_OK);
  EXPECT_EQ(coterie_session_finish(other), COTERIE_FINISH_INTERRUPTED);
  EXPECT_EQ(text(session), test::small().generate("One day", test::greedy(6)).text);
  coterie_session* fork = nullptr;
  ASSERT_EQ(coterie_session_fork(session, &fork), COTERIE_OK);
  EXPECT_EQ(coterie_session_length(fork), coterie_session_length(session));
  int64_t left = 0;
  EXPECT_EQ(coterie_session_truncate(fork, 1, &left), COTERIE_OK);
  EXPECT_EQ(left, 1);
  coterie_session_free(fork), coterie_session_free(other);
}

TEST_F(CInterface, Numbers) {
  const auto prompt = ids("One day, a girl");
  const auto v = static_cast<size_t>(coterie_model_vocabulary(model));
  size_t count = 0;
  std::vector<float> logits(v);
  ASSERT_EQ(coterie_session_logits(session, prompt.data(), prompt.size(), static_cast<int64_t>(prompt.size()) - 1,
                                   logits.data(), logits.size(), &count),
            COTERIE_OK);
  EXPECT_EQ(logits, test::small().session().logits(prompt));
  std::vector<double> scores(prompt.size() - 1);
  ASSERT_EQ(coterie_session_score(session, prompt.data(), prompt.size(), 1, scores.data(), scores.size(), &count),
            COTERIE_OK);
  EXPECT_EQ(scores, test::small().session().score(prompt));
  std::vector<float> states(prompt.size() * static_cast<size_t>(coterie_model_width(model)));
  ASSERT_EQ(coterie_session_hidden(session, prompt.data(), prompt.size(), -1, states.data(), states.size(), &count),
            COTERIE_OK);
  EXPECT_EQ(states, test::small().session().hidden_states(prompt));
  EXPECT_EQ(coterie_session_hidden(session, prompt.data(), prompt.size(), -1, nullptr, 0, &count), COTERIE_TOO_SMALL);
  EXPECT_EQ(count, states.size());
  int64_t tokens = 0;
  const auto listen = [](int64_t layer, int64_t, int64_t t, int64_t, int64_t, const int32_t*, const float*,
                         const float*, void* user) {
    if (layer == 0) *static_cast<int64_t*>(user) += t;
    return int32_t{0};
  };
  (void)coterie_session_truncate(session, 0, nullptr);
  ASSERT_EQ(coterie_session_on_routing(session, listen, &tokens), COTERIE_OK);
  ASSERT_EQ(coterie_session_score(session, prompt.data(), prompt.size(), 1, scores.data(), scores.size(), &count),
            COTERIE_OK);
  EXPECT_EQ(coterie_session_on_routing(session, nullptr, nullptr), COTERIE_OK);
}

TEST_F(CInterface, ErrorsSayWhatIsWrong) {
  coterie_model* none = nullptr;
  EXPECT_EQ(coterie_model_load("no such model", nullptr, &none), COTERIE_NOT_FOUND);
  EXPECT_EQ(none, nullptr);
  EXPECT_NE(std::strstr(coterie_last_error(), "no such model"), nullptr);
  EXPECT_EQ(coterie_model_load(nullptr, nullptr, &none), COTERIE_BAD_INPUT);
  EXPECT_NE(std::strstr(coterie_last_error(), "path"), nullptr);
  EXPECT_EQ(coterie_session_start(session, nullptr, 0, nullptr, nullptr, nullptr), COTERIE_BAD_INPUT);
  coterie_generate_options unset = {};
  const auto prompt = ids("One day");
  EXPECT_EQ(coterie_session_start(session, prompt.data(), prompt.size(), &unset, nullptr, nullptr), COTERIE_BAD_INPUT);
  const coterie_generate_options options = greedy(6);
  const auto stop = [](const char*, size_t, void*) { return int32_t{1}; };
  EXPECT_EQ(coterie_session_generate(session, prompt.data(), prompt.size(), &options, stop, nullptr), COTERIE_STOPPED);
  EXPECT_EQ(coterie_session_finish(session), COTERIE_FAILED);
  EXPECT_EQ(coterie_session_error(session), COTERIE_STOPPED);
  coterie_model_free(nullptr), coterie_session_free(nullptr);
}

// A program that was built against an earlier, shorter struct: what it does not know is as by default.
TEST_F(CInterface, OptionsOfAnEarlierVersionAreUnderstood) {
  coterie_generate_options options = greedy(3);
  options.size = offsetof(coterie_generate_options, ignore_end);
  options.ignore_end = 77;
  const auto prompt = ids("One day");
  EXPECT_EQ(coterie_session_generate(session, prompt.data(), prompt.size(), &options, nullptr, nullptr), COTERIE_OK);
}

// Nor is more written than it has.
TEST_F(CInterface, DefaultsKeepToTheSizeThatTheCallerHas) {
  coterie_generate_options options;
  options.mirostat_ent = 1234;
  coterie_generate_defaults(&options, offsetof(coterie_generate_options, mirostat_ent));
  EXPECT_EQ(options.size, offsetof(coterie_generate_options, mirostat_ent));
  EXPECT_EQ(options.mirostat_ent, 1234);
  EXPECT_EQ(options.max_tokens, GenerateOptions().max_tokens);
}

TEST_F(CInterface, HasEverySamplerOption) {
  coterie_generate_options options = greedy(12);
  const GenerateOptions defaults;
  EXPECT_EQ(options.dry_base, defaults.dry_base);
  EXPECT_EQ(options.dry_penalty_last_n, defaults.dry_penalty_last_n);
  EXPECT_EQ(options.xtc_threshold, defaults.xtc_threshold);
  EXPECT_EQ(options.top_n_sigma, defaults.top_n_sigma);
  EXPECT_EQ(options.dynatemp_exp, defaults.dynatemp_exp);
  EXPECT_EQ(options.mirostat_lr, defaults.mirostat_lr);
  const auto prompt = ids("One day");
  options.regex = "[0-9]{3}";
  options.ignore_end = 0;
  ASSERT_EQ(coterie_session_generate(session, prompt.data(), prompt.size(), &options, nullptr, nullptr), COTERIE_OK);
  const std::string number = text(session);
  EXPECT_EQ(number.size(), 3u) << number;
  EXPECT_EQ(number.find_first_not_of("0123456789"), std::string::npos) << number;
  options.json_schema = R"({"type": "integer"})";
  EXPECT_EQ(coterie_session_generate(session, prompt.data(), prompt.size(), &options, nullptr, nullptr),
            COTERIE_BAD_INPUT);
  EXPECT_NE(std::string(coterie_last_error()).find("exclude each other"), std::string::npos) << coterie_last_error();
}

}  // namespace
}  // namespace coterie

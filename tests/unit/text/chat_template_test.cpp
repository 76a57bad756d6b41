#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>

#include "base/atomic_file.h"

#include "support/places.h"
#include "text/tokenizer.h"

namespace coterie::text {
namespace {

TEST(ChatTemplate, ChatMl) {
  const ChatTemplate chatml(
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
      "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
      "", "<|im_end|>", "test");
  const std::vector<Message> messages = {{"system", "Be brief."}, {"user", "Hi"}};
  EXPECT_EQ(chatml.render(messages, true),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, SyntaxErrorsNameTheLine) {
  try {
    ChatTemplate("one\n{% if %}", "", "", "model.gguf");
    FAIL() << "no error";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
    EXPECT_EQ(error.where(), "model.gguf");
    EXPECT_NE(error.message().find("line 2"), std::string::npos) << error.message();
  }
}

TEST(ChatTemplate, RaiseExceptionCarriesItsWords) {
  const ChatTemplate strict("{{ raise_exception('Roles must alternate') }}", "", "", "test");
  try {
    strict.render(std::vector<Message>{{"user", "Hi"}}, false);
    FAIL() << "no error";
  } catch (const base::Error& error) {
    EXPECT_NE(error.message().find("Roles must alternate"), std::string::npos) << error.message();
  }
}

const std::filesystem::path kData = std::filesystem::path(tests::source_folder()) / "unit/text/data";

/// What a golden case expects: the text, or nothing where transformers refuses.
void expect_case(const ChatTemplate& chat_template, const base::Json& want, const std::string& messages,
                 const std::string& extra, bool generate, const std::string& name) {
  std::optional<std::string> got;
  try {
    got = chat_template.render_json(messages, generate, extra);
  } catch (const base::Error& error) {
    EXPECT_EQ(error.kind(), base::ErrorKind::bad_input) << name;
  }
  if (want.is_null())
    EXPECT_EQ(got, std::nullopt) << name << ": transformers refuses";
  else
    EXPECT_EQ(got, want.get<std::string>()) << name;
}

TEST(ChatTemplate, RendersWhatTransformersRenders) {
  const base::Json golden = base::read_json(kData / "templates/golden.json");
  ASSERT_GT(golden["cases"].size(), 150u);
  for (const base::Json& row : golden["cases"]) {
    const std::string name = row[0];
    const ChatTemplate chat_template(base::read_text(kData / "templates" / (name + ".jinja")), "<s>", "</s>", name);
    expect_case(chat_template, row[4], golden["conversations"][row[1].get<std::string>()],
                golden["variables"][row[2].get<std::string>()], row[3], row.dump().substr(0, 80));
  }
}

TEST(ChatTemplate, EvaluatesExpressionsAsJinja) {
  const base::Json golden = base::read_json(kData / "expressions.json");
  ASSERT_GT(golden["cases"].size(), 190u);
  for (const base::Json& row : golden["cases"]) {
    const std::string source = row[0];
    std::optional<ChatTemplate> chat_template;
    try {
      chat_template.emplace(source, "<s>", "</s>", "expression");
    } catch (const base::Error& error) {
      EXPECT_TRUE(row[1].is_null()) << source << ": " << error.what();
      continue;
    }
    expect_case(*chat_template, row[1], golden["messages"], golden["extra"], true, source);
  }
}

TEST(ChatTemplate, StrftimeNowIsLocalTime) {
  const ChatTemplate clock("{{ strftime_now('%Y-%m-%d %H %%') }}", "", "", "test");
  const auto now = [] {
    const std::time_t seconds = std::time(nullptr);
    std::tm parts{};
    localtime_r(&seconds, &parts);
    char text[64];
    return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%d %H %%", &parts));
  };
  const std::string before = now(), rendered = clock.render(std::vector<Message>{}, false), after = now();
  EXPECT_TRUE(rendered == before || rendered == after) << rendered;
}

TEST(ChatTemplate, LoadsTheTemplatesOfAFolder) {
  const auto loaded = ChatTemplate::load(kData / "tiny_bpe");
  ASSERT_TRUE(loaded);
  const std::vector<Message> messages = {{"user", "Hi"}, {"assistant", "Ho"}};
  EXPECT_EQ(loaded->render(messages, false), "<|begin|>Hi<|end|>Ho<|end|>");
  EXPECT_EQ(loaded->render(messages, false, {{"tools", {1, 2, 3}}}), "3 tools");
  EXPECT_EQ(loaded->render(messages, false, {{"tools", nullptr}}), "<|begin|>Hi<|end|>Ho<|end|>");
  EXPECT_FALSE(ChatTemplate::load(kData)) << "a folder without any";
}

TEST(ChatTemplate, KeepsTheOrderOfKeysInJsonText) {
  const ChatTemplate printing("{{ tools | tojson }}", "", "", "test");
  EXPECT_EQ(printing.render_json("[]", false, R"({"tools": [{"z": 1, "a": {"y": 2.0, "b": null}}]})"),
            R"([{"z": 1, "a": {"y": 2.0, "b": null}}])");
}

TEST(ChatTemplate, AMissingBosIsUndefined) {
  const std::string source = "{{ bos_token is defined }}{{ bos_token }}{{ eos_token }}";
  EXPECT_EQ(ChatTemplate(source, "", "E", "test").render(std::vector<Message>{}, false), "FalseE");
}

TEST(ChatTemplate, BadMessagesAndEndlessTemplatesAreRefused) {
  const ChatTemplate plain("{{ messages }}", "", "", "test");
  EXPECT_THROW(plain.render_json("{", false), base::Error);
  EXPECT_THROW(plain.render_json("{}", false), base::Error);
  EXPECT_THROW(plain.render_json("[1]", false), base::Error);
  EXPECT_THROW(plain.render_json("[]", false, "[]"), base::Error);
  const std::string nested = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THROW(plain.render_json(nested, false), base::Error);
  EXPECT_THROW(ChatTemplate("{{ " + std::string(100000, '(') + " }}", "", "", "test"), base::Error);
  const ChatTemplate recursive("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "", "", "test");
  EXPECT_THROW(recursive.render_json("[]", false), base::Error);
  const ChatTemplate endless("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "", "",
                             "test");
  EXPECT_THROW(endless.render_json("[]", false), base::Error);
}

}  // namespace
}  // namespace coterie::text

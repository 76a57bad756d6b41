#include <gtest/gtest.h>

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

}  // namespace
}  // namespace coterie::text

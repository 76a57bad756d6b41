#include "runtime/conversation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>

#include "base/atomic_file.h"
#include "base/json.h"
#include "layers/observer.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;

EngineOptions engine_options() {
  EngineOptions options;
  options.threads = 1;
  options.precision = ops::Precision::f32;
  return options;
}

// Letters only, so that what is said is text.
GenerationOptions letters(int64_t tokens) {
  GenerationOptions options;
  options.max_tokens = tokens;
  options.sampler.seed = 5;
  for (TokenId id = 0; id < 259; ++id)
    if (id < 'a' || id > 'z') options.sampler.logit_bias.push_back({id, -1000.0f});
  return options;
}

struct ConversationTest : testing::Test {
  Engine engine{test::tiny_model(true, 512), engine_options()};
  Conversation conversation{engine, test::tiny_template(), "be kind"};
};

TEST_F(ConversationTest, ATurnEvaluatesOnlyWhatIsNew) {
  const Reply first = conversation.reply("hello", letters(6));
  EXPECT_EQ(first.text.size(), 6u);
  EXPECT_EQ(first.statistics.reused_tokens, 0);
  const Reply second = conversation.reply("more", letters(6));
  // New: the last token of the answer (never evaluated), and "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n
  // <|im_start|>assistant\n", one token a byte and one for each special token.
  const int64_t added = 1 + (1 + 1) + (1 + 5 + 4 + 1 + 1) + (1 + 10);
  EXPECT_EQ(second.statistics.prompt_tokens - second.statistics.reused_tokens, added);
  EXPECT_EQ(second.statistics.evaluated_tokens, added + 5);

  // And the answer is the one that evaluating everything gives.
  Conversation whole(engine, test::tiny_template(), "be kind");
  TempFolder folder;
  conversation.save(folder / "c.json");
  whole.load(folder / "c.json");
  const Reply third = conversation.reply("again", letters(8));
  const Reply fresh = whole.reply("again", letters(8));
  EXPECT_EQ(fresh.statistics.reused_tokens, 0);
  EXPECT_EQ(third.text, fresh.text);
}

// Models take turns; each reads only what came since it last answered, and says what it would say of the whole.
TEST_F(ConversationTest, EachModelKeepsItsCache) {
  Engine other(test::tiny_model(true, 512, 2), engine_options());
  conversation.reply("hello", letters(6));
  conversation.answer_with(other, test::tiny_template());
  const Reply second = conversation.reply("more", letters(6));
  EXPECT_EQ(second.statistics.reused_tokens, 0);
  conversation.answer_with(engine, test::tiny_template());
  const Reply third = conversation.reply("again", letters(6));
  EXPECT_GT(third.statistics.reused_tokens, 0);
  conversation.answer_with(other, test::tiny_template());
  TempFolder folder;
  conversation.save(folder / "c.json");
  const Reply fourth = conversation.reply("and again", letters(6));
  EXPECT_GE(fourth.statistics.reused_tokens, second.statistics.prompt_tokens);

  Conversation whole(other, test::tiny_template(), "be kind");
  whole.load(folder / "c.json");
  const Reply fresh = whole.reply("and again", letters(6));
  EXPECT_EQ(fresh.statistics.reused_tokens, 0);
  EXPECT_EQ(fourth.text, fresh.text);
  EXPECT_EQ(fourth.statistics.prompt_tokens, fresh.statistics.prompt_tokens);
}

TEST_F(ConversationTest, MessagesAlternateAndResetKeepsTheSystemMessage) {
  conversation.reply("hello", letters(3));
  ASSERT_EQ(conversation.messages().size(), 3u);
  EXPECT_EQ(conversation.messages()[0].role, "system");
  EXPECT_EQ(conversation.messages()[1].content, "hello");
  EXPECT_EQ(conversation.messages()[2].role, "assistant");
  conversation.reset();
  ASSERT_EQ(conversation.messages().size(), 1u);
  EXPECT_EQ(conversation.messages()[0].content, "be kind");
}

TEST(ConversationContext, FullDropsTheOldestTurnsAndKeepsTheSystemMessage) {
  Engine engine(test::tiny_model(true, 160), engine_options());
  Conversation conversation(engine, test::tiny_template(), "be kind");
  int64_t dropped = 0, heard = 0;
  for (int turn = 0; turn < 8; ++turn) {
    const std::string message = "message " + std::to_string(turn);
    const Reply reply = conversation.reply(message, letters(10), [&](int64_t messages) { heard += messages; });
    EXPECT_EQ(reply.text.size(), 10u) << turn;
    dropped += reply.dropped_messages;
    const auto& messages = conversation.messages();
    EXPECT_EQ(messages.front().content, "be kind");
    EXPECT_EQ(messages[messages.size() - 2].content, message);
    EXPECT_EQ(messages[1].role, "user") << "whole turns are dropped";
  }
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(dropped % 2, 0);
  EXPECT_EQ(heard, dropped);
}

// Models of different contexts take turns: what no longer fits the small one is still there for the large one.
TEST(ConversationContext, EachModelDropsByItsOwnContext) {
  Engine small(test::tiny_model(true, 160), engine_options()), large(test::tiny_model(true, 1024, 2), engine_options());
  Conversation conversation(large, test::tiny_template(), "be kind");
  conversation.reply("the first message", letters(10));
  int64_t dropped = 0;
  for (int turn = 0; turn < 5; ++turn) {
    conversation.answer_with(small, test::tiny_template());
    dropped += conversation.reply("message " + std::to_string(turn), letters(10)).dropped_messages;
  }
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(conversation.messages().size(), 13u) << "nothing is forgotten";
  TempFolder folder;
  conversation.save(folder / "c.json");
  conversation.answer_with(large, test::tiny_template());
  const Reply last = conversation.reply("the last message", letters(10));
  EXPECT_EQ(last.dropped_messages, 0);
  EXPECT_GT(last.statistics.reused_tokens, 20) << "its own first turn";
  Conversation whole(large, test::tiny_template(), "");
  whole.load(folder / "c.json");
  const Reply fresh = whole.reply("the last message", letters(10));
  EXPECT_EQ(last.statistics.prompt_tokens, fresh.statistics.prompt_tokens);
  EXPECT_EQ(last.text, fresh.text);
  // The small one goes on from where it was, and reads what fits.
  conversation.answer_with(small, test::tiny_template());
  const Reply again = conversation.reply("more", letters(10));
  EXPECT_GT(again.dropped_messages, 0);
  EXPECT_LE(again.statistics.prompt_tokens + 10, 160);
}

// Each is prompted with the template it came with.
TEST_F(ConversationTest, EachModelHasItsTemplate) {
  Engine other(test::tiny_model(true, 512, 2), engine_options());
  const text::ChatTemplate plain("{% for m in messages %}{{ m.content }};{% endfor %}", "", "", "plain");
  conversation.reply("hello", letters(6));
  conversation.answer_with(other, plain);
  const Reply reply = conversation.reply("more", letters(6));
  EXPECT_EQ(reply.statistics.prompt_tokens, 7 + 1 + 5 + 1 + 6 + 1 + 4 + 1);
}

TEST(ConversationContext, AMessageThatCannotFitIsRefusedAndForgotten) {
  Engine engine(test::tiny_model(true, 100), engine_options());
  Conversation conversation(engine, test::tiny_template(), "be kind");
  conversation.reply("hi", letters(4));
  expect_error(ErrorKind::bad_input, {"message", "context of 100", "`context`"},
               [&] { conversation.reply(std::string(200, 'x'), letters(4)); });
  EXPECT_EQ(conversation.messages().size(), 3u) << "as before";
  EXPECT_EQ(conversation.reply("hi", letters(4)).text.size(), 4u);
}

TEST_F(ConversationTest, AnInterruptedAnswerIsKept) {
  std::atomic<bool> flag{false};
  GenerationOptions options = letters(50);
  options.interrupt = &flag;
  int tokens = 0;
  options.on_token = [&](TokenId) { flag = ++tokens == 4; };
  const Reply reply = conversation.reply("hello", options);
  EXPECT_EQ(reply.finish, Finish::interrupted);
  EXPECT_EQ(reply.text.size(), 4u);
  EXPECT_EQ(conversation.messages().back().content, reply.text);
  EXPECT_GT(conversation.reply("go on", letters(4)).statistics.reused_tokens, 30);
}

/// Raises a flag when the last block of the model has been passed so many times.
struct FlagAfterBlocks final : layers::Observer {
  explicit FlagAfterBlocks(int blocks) : left(blocks) {}
  void block(int64_t, tensor::ConstMatrix) override { flag = flag || --left == 0; }
  std::atomic<bool> flag{false};
  int left;
};

TEST_F(ConversationTest, APromptIsBrokenOffBetweenBlocksAndReadAgain) {
  const Reply whole = conversation.reply("hello", letters(6));
  Conversation broken(engine, test::tiny_template(), "be kind");
  FlagAfterBlocks observer(1);
  GenerationOptions options = letters(6);
  options.interrupt = &observer.flag;
  const Reply reply = broken.reply("hello", options, {}, &observer);
  EXPECT_EQ(reply.finish, Finish::interrupted);
  EXPECT_EQ(reply.statistics.evaluated_tokens, 0) << "the step was not finished";
  EXPECT_EQ(observer.left, 0) << "and ended after the first of two blocks";
  EXPECT_EQ(broken.reply_instead("hello", letters(6)).text, whole.text);
}

TEST_F(ConversationTest, AnAnswerInsteadIsThatOfTheShorterConversation) {
  conversation.reply("hello", letters(6));
  const Reply expected = conversation.reply("more", letters(6));
  Conversation other(engine, test::tiny_template(), "be kind");
  expect_error(ErrorKind::bad_input, {"no message"}, [&] { other.reply_instead("x", letters(4)); });
  other.reply("hello", letters(6));
  other.reply("less", letters(9));
  EXPECT_EQ(other.last_user_message(), "less");
  const Reply instead = other.reply_instead("more", letters(6));
  EXPECT_EQ(instead.text, expected.text);
  EXPECT_GT(instead.statistics.reused_tokens, 20);
  ASSERT_EQ(other.messages().size(), 5u);
  EXPECT_EQ(other.messages()[3].content, "more");
  // One that fails changes nothing.
  expect_error(ErrorKind::bad_input, {"do not fit"}, [&] { other.reply_instead(std::string(600, 'x'), letters(4)); });
  ASSERT_EQ(other.messages().size(), 5u);
  EXPECT_EQ(other.messages()[4].content, expected.text);
}

TEST_F(ConversationTest, TheSystemMessageIsReplacedAndTakenAway) {
  conversation.reply("hello", letters(4));
  EXPECT_EQ(conversation.system(), "be kind");
  const int64_t tokens = conversation.tokens();
  conversation.set_system("be");
  EXPECT_EQ(conversation.tokens(), tokens - 5);
  conversation.set_system("");
  EXPECT_EQ(conversation.system(), "");
  ASSERT_EQ(conversation.messages().size(), 2u);
  EXPECT_EQ(conversation.messages()[0].role, "user");
}

TEST_F(ConversationTest, AStopStringEndsAnAnswerAndTheNextTurnIsRight) {
  const Reply whole = conversation.reply("hello", letters(12));
  conversation.reset();
  GenerationOptions options = letters(12);
  options.stop = {whole.text.substr(6, 2)};
  const Reply reply = conversation.reply("hello", options);
  EXPECT_EQ(reply.finish, Finish::stop_string);
  EXPECT_EQ(reply.text, whole.text.substr(0, whole.text.find(options.stop[0])));
  const Reply next = conversation.reply("more", letters(8));
  Conversation other(engine, test::tiny_template(), "");
  TempFolder folder;
  // The conversation without its last turn, answered from nothing.
  base::Json messages = base::Json::array();
  for (size_t i = 0; i + 2 < conversation.messages().size(); ++i)
    messages.push_back({{"role", conversation.messages()[i].role}, {"content", conversation.messages()[i].content}});
  folder.write("c.json", base::Json{{"format", "coterie conversation 1"}, {"messages", messages}}.dump());
  other.load(folder / "c.json");
  EXPECT_EQ(other.reply("more", letters(8)).text, next.text);
}

TEST_F(ConversationTest, SaveAndLoadGiveTheSameMessages) {
  TempFolder folder;
  conversation.reply("ünïcödé \"quotes\"\n", letters(5));
  conversation.save(folder / "c.json");
  Conversation other(engine, test::tiny_template(), "");
  other.load(folder / "c.json");
  ASSERT_EQ(other.messages().size(), conversation.messages().size());
  for (size_t i = 0; i < other.messages().size(); ++i) {
    EXPECT_EQ(other.messages()[i].role, conversation.messages()[i].role);
    EXPECT_EQ(other.messages()[i].content, conversation.messages()[i].content);
  }
}

TEST_F(ConversationTest, WhatIsNoConversationIsRefusedAndChangesNothing) {
  TempFolder folder;
  const auto refused = [&](ErrorKind kind, std::initializer_list<std::string_view> words, std::string_view text) {
    const auto file = folder.write("c.json", text);
    expect_error(kind, words, [&] { conversation.load(file); });
    EXPECT_EQ(conversation.messages().size(), 1u);
  };
  refused(ErrorKind::bad_input, {"c.json"}, "{");
  refused(ErrorKind::not_found, {"format"}, "{}");
  refused(ErrorKind::bad_input, {"another"}, R"({"format": "another", "messages": []})");
  refused(ErrorKind::bad_input, {"messages"}, R"({"format": "coterie conversation 1"})");
  refused(ErrorKind::not_found, {"messages[0]", "content"},
          R"({"format": "coterie conversation 1", "messages": [{"role": "user"}]})");
  expect_error(ErrorKind::not_found, {"absent.json"}, [&] { conversation.load(folder / "absent.json"); });
  expect_error(ErrorKind::io, {"c.json"}, [&] { conversation.save(folder / "c.json" / "below-a-file"); });
}

}  // namespace
}  // namespace coterie::runtime

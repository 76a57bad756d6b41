// A chat as somebody at a terminal meets it, and through a pipe.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/json.h"
#include "support/temp_folder.h"
#include "unit/cli/process.h"
#include "unit/cli/terminal_session.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::cli {
namespace {

using Words = std::vector<std::string>;

struct Chat : testing::Test {
  static void SetUpTestSuite() {
    folder = new TempFolder;
    runtime::test::write_tiny_gguf(*folder / "tiny.gguf");
    // Room for a long message: a token a byte.
    runtime::test::write_tiny_gguf(*folder / "long.gguf", 200000);
    ::setenv("XDG_CACHE_HOME", folder->path().c_str(), 1);
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string file(const std::string& name) { return (*folder / name).string(); }
  static Words chat(const std::string& model, int tokens = 3) {
    return {"chat", file(model), "-n", std::to_string(tokens), "--seed", "1", "--logit-bias", "258=-inf"};
  }
  /// What a session has said and heard, from what /save wrote.
  static base::Json messages(const std::string& name) { return base::read_json(file(name))["messages"]; }
  static constexpr char kReady[] = "/help lists the commands";

  static TempFolder* folder;
};
TempFolder* Chat::folder = nullptr;

TEST_F(Chat, ArrowsEditTheLineAndReachWhatWasTypedBefore) {
  const std::filesystem::path state = *folder / "arrows";
  {
    test::TerminalSession session(chat("tiny.gguf"), state);
    session.wait_for(kReady);
    session.type("acb\033[D\033[D\033[3~\033[Fc\r");  // acb, left twice, delete c, end, c
    session.wait_for("generated 3 tokens");
    session.type("\033[A!\r");  // up
    session.wait_for("generated 3 tokens");
    session.type("/save " + file("arrows.json") + "\r");
    session.wait_for("4 messages saved");
    session.type("\004");
    EXPECT_EQ(session.wait(), 0);
  }
  EXPECT_EQ(messages("arrows.json")[0]["content"], "abc");
  EXPECT_EQ(messages("arrows.json")[2]["content"], "abc!");
  // The next session begins with the history of this one, which its owner alone can read.
  struct stat kept {};
  ASSERT_EQ(::stat((state / "coterie/chat_history.jsonl").c_str(), &kept), 0);
  EXPECT_EQ(kept.st_mode & 0777, 0600u);
  test::TerminalSession session(chat("tiny.gguf"), state);
  session.wait_for(kReady);
  session.type("\033[A\033[A?\r");  // past /save
  session.wait_for("generated 3 tokens");
  session.type("/save " + file("arrows2.json") + "\r");
  session.wait_for("2 messages saved");
  session.type("/quit\r");
  EXPECT_EQ(session.wait(), 0);
  EXPECT_EQ(messages("arrows2.json")[0]["content"], "abc!?");
}

TEST_F(Chat, TwentyThousandWordsArriveWhole) {
  std::string words;
  for (int i = 0; i < 20000; ++i) words += "word" + std::to_string(i % 10) + (i % 1000 == 999 ? "\n" : " ");
  words.pop_back();
  for (const bool bracketed : {true, false}) {
    test::TerminalSession session(chat("long.gguf", 0), *folder / "paste");
    session.wait_for(kReady);
    std::string sent = words;
    if (!bracketed) std::replace(sent.begin(), sent.end(), '\n', ' ');
    bracketed ? session.paste(sent) : session.type(sent);
    session.type("\r");
    session.wait_for("generated 0 tokens");
    const std::string saved = bracketed ? "pasted.json" : "typed.json";
    session.type("/save " + file(saved) + "\r");
    session.wait_for("2 messages saved");
    session.type("\004");
    EXPECT_EQ(session.wait(), 0);
    EXPECT_EQ(messages(saved)[0]["content"], sent) << "one message, every byte of it";
  }
}

TEST_F(Chat, CtrlCStopsTheAnswerAndClearsTheLineAndCtrlDEnds) {
  test::TerminalSession session(chat("long.gguf", -1), *folder / "keys");
  session.wait_for(kReady);
  session.wait_for("> ");
  session.type("never sent\003");
  session.wait_for("/quit or Ctrl-D leaves");
  session.type("hello\r");
  session.wait_for("\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  session.type("\003");
  session.wait_for("interrupted");
  session.type("/save " + file("keys.json") + "\r");
  session.wait_for("2 messages saved");
  session.type("\004");
  EXPECT_EQ(session.wait(), 0);
  EXPECT_EQ(messages("keys.json")[0]["content"], "hello");
}

TEST_F(Chat, CharactersCutInHalfAndAResizeChangeNothing) {
  test::TerminalSession session(chat("tiny.gguf"), *folder / "cut");
  session.wait_for(kReady);
  session.type("caf\xc3");
  session.resize(40, 10);
  session.wait_for("caf");
  session.type("\xa9 \xe2\x82");
  session.resize(100, 30);
  session.type("\xac\r");
  session.wait_for("generated 3 tokens");
  // A byte that belongs to no character: refused, and the session goes on.
  session.type("caf\xe9!\r");
  session.wait_for("the message is not UTF-8: bad byte 0xe9 at offset 3");
  session.type("/save " + file("cut.json") + "\r");
  session.wait_for("2 messages saved");
  session.type("/quit\r");
  EXPECT_EQ(session.wait(), 0);
  EXPECT_EQ(messages("cut.json")[0]["content"], "café €");
}

TEST_F(Chat, TabCompletesCommandsAndFiles) {
  folder->write("completed-name.txt", "from the file\n");
  test::TerminalSession session(chat("tiny.gguf"), *folder / "tab");
  session.wait_for(kReady);
  session.type("/rea\t" + file("completed-n") + "\t\r");
  session.wait_for("13 bytes of");
  session.type("what is this?\r");
  session.wait_for("generated 3 tokens");
  session.type("/edit\r");
  session.type("!\r");
  session.wait_for("generated 3 tokens");
  session.type("/sav\t");
  session.type(" " + file("tab.json") + "\r");
  session.wait_for("2 messages saved");
  session.type("/quit\r");
  EXPECT_EQ(session.wait(), 0);
  EXPECT_EQ(messages("tab.json")[0]["content"], "from the file\n\nwhat is this?!");
}

TEST_F(Chat, TheTerminalIsAsItWasWhenTheChatIsEndedFromOutside) {
  test::TerminalSession session(chat("tiny.gguf"), *folder / "ended");
  session.wait_for("\033[?2004h");
  session.wait_for("> ");
  session.signal(SIGTERM);
  session.wait_for("\033[?2004l");
  EXPECT_EQ(session.wait(), 128 + SIGTERM);
}

TEST_F(Chat, SavesReplaceAFileWhenAskedToAlone) {
  const std::string name = file("kept.json");
  const test::Outcome outcome =
      test::coterie(chat("tiny.gguf"), {.input = "hello\n/save " + name + "\n/reset\n/save " + name + "\n/load " +
                                                 name + "\nmore\n/save! " + name + "\n"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("already exists"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/save! " + name), std::string::npos) << outcome.err;
  EXPECT_EQ(messages("kept.json").size(), 4u);
}

TEST_F(Chat, NeverSavesOverItsModel) {
  const auto size = std::filesystem::file_size(file("tiny.gguf"));
  const test::Outcome outcome = test::coterie(chat("tiny.gguf"), {.input = "/save! " + file("tiny.gguf") + "\n"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("never overwritten"), std::string::npos) << outcome.err;
  EXPECT_EQ(std::filesystem::file_size(file("tiny.gguf")), size);
}

TEST_F(Chat, MessagesOfSeveralLinesSlashesAndBadBytes) {
  const std::string name = file("lines.json");
  const test::Outcome outcome =
      test::coterie(chat("tiny.gguf"), {.input = "\"\"\"\none\ntwo\n\"\"\"\n\"\"\"three\"\"\"\n//etc/passwd\n"
                                                 "/usr/bin/ls what is it?\n/sav x\ncaf\xe9\n/save " +
                                                 name + "\n"});
  EXPECT_EQ(outcome.code, 2);
  const base::Json saved = messages("lines.json");
  ASSERT_EQ(saved.size(), 6u) << outcome.err;
  EXPECT_EQ(saved[0]["content"], "one\ntwo");
  EXPECT_EQ(saved[2]["content"], "three");
  EXPECT_EQ(saved[4]["content"], "/etc/passwd");
  for (const char* words : {"/usr/bin/ls: is not a command", "did you mean \"/save\"?", "not UTF-8: bad byte 0xe9"})
    EXPECT_NE(outcome.err.find(words), std::string::npos) << words << " in " << outcome.err;
}

TEST_F(Chat, AnswersAnewChangesMessagesAndShowsWhatItKnows) {
  const std::string name = file("anew.json");
  const test::Outcome outcome = test::coterie(
      chat("tiny.gguf"), {.input = "/regenerate\n/edit x\n/experts\nhello\n/regenerate\n/edit hallo\n/system be brief\n"
                                   "/tokens\n/tokens ab\n/experts\n/save " +
                                   name + "\n"});
  EXPECT_EQ(outcome.code, 2);
  const base::Json saved = messages("anew.json");
  ASSERT_EQ(saved.size(), 3u) << outcome.err;
  EXPECT_EQ(saved[0]["content"], "be brief");
  EXPECT_EQ(saved[1]["content"], "hallo");
  for (const char* words :
       {"there is no message to answer yet", "there is no message to change yet", "there is no answer yet",
        "system message: be brief", "2 tokens: 97 a · 98 b", "3 messages, "})
    EXPECT_NE(outcome.err.find(words), std::string::npos) << words << " in " << outcome.err;
  EXPECT_NE(outcome.out.find("Experts used by"), std::string::npos) << outcome.out;
}

TEST_F(Chat, FilesAreReadInFrontOfAMessage) {
  folder->write("bom.txt", "\xef\xbb\xbfnotes\n");
  folder->write("latin.txt", "caf\xe9");
  const std::string name = file("read.json");
  const test::Outcome outcome = test::coterie(
      chat("tiny.gguf"), {.input = "/read " + file("bom.txt") + "\nsum up\n/read " + file("latin.txt") + "\n/read " +
                                   file("absent") + "\n/save " + name + "\n/read " + file("bom.txt") + "\n"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(messages("read.json")[0]["content"], "notes\n\nsum up");
  EXPECT_NE(outcome.err.find("latin.txt: the text is not UTF-8"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("absent"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace coterie::cli

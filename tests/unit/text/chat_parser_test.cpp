#include "text/chat/parser.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/json.h"
#include "support/places.h"

namespace coterie::text {
namespace {

using Kind = ChatEvent::Kind;

const char* const kTools = R"([
  {"type": "function", "function": {"name": "weather", "description": "of a town", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"},
    "unit": {"type": ["string", "null"]}}, "required": ["town"]}}},
  {"type": "function", "function": {"name": "now"}}])";

/// Content and reasoning as they are; each call as "id name(arguments)", or "…" at its end when it was cut off.
std::string told(const std::vector<ChatEvent>& events) {
  std::string out;
  for (const ChatEvent& event : joined(events)) switch (event.kind) {
      case Kind::content: out += "C[" + event.text + "]"; break;
      case Kind::reasoning: out += "R[" + event.text + "]"; break;
      case Kind::call_begin: out += std::to_string(event.call) + ":" + event.id + " " + event.name + "("; break;
      case Kind::call_arguments: out += event.text; break;
      case Kind::call_end: out += ")"; break;
    }
  return out;
}

std::vector<ChatEvent> read(const ChatSyntax& syntax, const ChatParserOptions& options,
                            const std::vector<std::string_view>& pieces) {
  ChatParser parser(syntax, options);
  std::vector<ChatEvent> all;
  for (const std::string_view piece : pieces)
    for (ChatEvent& event : parser.push(piece)) {
      EXPECT_NO_THROW((void)base::Json(event.text).dump()) << "not whole UTF-8: " << event.text;
      all.push_back(std::move(event));
    }
  for (ChatEvent& event : parser.finish()) all.push_back(std::move(event));
  return all;
}

/// What the text comes to, after checking that no cut changes it.
std::string read(const ChatSyntax& syntax, std::string_view text, ChatParserOptions options = {}) {
  const std::string whole = told(read(syntax, options, {text}));
  std::vector<std::string_view> characters;
  for (size_t at = 0, next = 0; at < text.size(); at = next) {
    next = at + 1;
    while (next < text.size() && (text[next] & 0xC0) == 0x80) ++next;
    characters.push_back(text.substr(at, next - at));
    EXPECT_EQ(told(read(syntax, options, {text.substr(0, at), text.substr(at)})), whole) << "cut at " << at;
  }
  EXPECT_EQ(told(read(syntax, options, characters)), whole) << "character by character";
  return whole;
}

struct Case {
  const char* name;
  const char* source;  // words of a template that writes so
  const char* text;
  const char* expected;
};

const char* const kHermes = "<tool_call>{\"name\": n, \"arguments\": a}</tool_call>";
const char* const kCoder = "<tool_call><function=n><parameter=p></parameter></function></tool_call>";
const char* const kGlm = "<tool_call>n<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>";
const char* const kLlama = "<|start_header_id|> {\"name\": n, \"parameters\": p}";
const char* const kDeepSeek3 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>```json";
const char* const kDeepSeek31 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>";
const char* const kOss = "<|start|><|channel|><|message|>";

const Case kCases[] = {
    {"Hermes", kHermes,
     "I will look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Köln }\\\" <x>\", \"days\": 2}}\n"
     "</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n",
     "C[I will look.]0:call_0 weather({\"town\": \"Köln }\\\" <x>\", \"days\": 2})1:call_1 now({})"},
    {"Hermes", kHermes, "<tool_call>{\"arguments\": {\"a\": [1, {}]}, \"name\": \"now\"}</tool_call> done ",
     "0:call_0 now({\"a\": [1, {}]})C[done]"},
    {"Hermes", kHermes, "a <tool> <tool_calx> b", "C[a <tool> <tool_calx> b]"},
    {"Hermes", kHermes, "see <tool_call>text", "C[see <tool_call>text]"},
    {"Hermes", kHermes, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"town\": \"Kö",
     "0:call_0 weather({\"town\": \"Kö"},
    {"Hermes", kHermes, "<tool_call>{\"na", "C[<tool_call>{\"na]"},
    {"Hermes", kHermes, "\n text with space ", "C[\n text with space ]"},
    {"Qwen3-Coder", kCoder,
     "Now:\n<tool_call>\n<function=weather>\n<parameter=town>\nKöln \"am\nRhein\"\n</parameter>\n<parameter=days>\n3\n"
     "</parameter>\n<parameter=unit>\nnull\n</parameter>\n</function>\n</tool_call>",
     "C[Now:]0:call_0 weather({\"town\": \"Köln \\\"am\\nRhein\\\"\", \"days\": 3, \"unit\": null})"},
    {"Qwen3-Coder", kCoder,
     "<tool_call>\n<function=now>\n</function>\n</"
     "tool_call>\n<tool_call>\n<function=weather>\n<parameter=unit>\nnullable"
     "\n</parameter>\n</function>\n</tool_call>",
     "0:call_0 now({})1:call_1 weather({\"unit\": \"nullable\"})"},
    {"GLM", kGlm,
     "\n<tool_call>weather\n<arg_key>town</arg_key>\n<arg_value>Bonn\n</arg_value>\n<arg_key>days</arg_key>\n"
     "<arg_value>3</arg_value>\n</tool_call>",
     "0:call_0 weather({\"town\": \"Bonn\\n\", \"days\": 3})"},
    {"GLM", kGlm, "<tool_call>now\n</tool_call>\n<tool_call>now</tool_call>", "0:call_0 now({})1:call_1 now({})"},
    {"Llama", kLlama, "{\"name\": \"weather\", \"parameters\": {\"town\": \"Bonn\"}}",
     "0:call_0 weather({\"town\": \"Bonn\"})"},
    {"Llama", kLlama, "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}",
     "0:call_0 now({})1:call_1 now({})"},
    {"Llama", kLlama, "{\"answer\": 42} is it", "C[{\"answer\": 42} is it]"},
    {"Llama", kLlama, "It is {\"name\": \"now\"}", "C[It is {\"name\": \"now\"}]"},
    {"Mistral", "[TOOL_CALLS]",
     "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"town\": \"[x]\"}, \"id\": \"abcdefghi\"}, {\"id\": "
     "\"123456789\", \"name\": \"now\", \"arguments\": {}}]",
     "0:call_0 weather({\"town\": \"[x]\"})1:123456789 now({})"},
    {"Mistral, by name", "[TOOL_CALLS] [ARGS]",
     "Wait [T]. [TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{\"town\": \"Bonn\"}[TOOL_CALLS]now[ARGS]{}",
     "C[Wait [T].]0:abcdefghi weather({\"town\": \"Bonn\"})1:call_1 now({})"},
    {"Granite", "<|tool_call|>", "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]", "0:call_0 now({})"},
    {"DeepSeek-V3", kDeepSeek3,
     "Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"town\": \"Bonn\"}\n```"
     "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "C[Hm]0:call_0 weather({\"town\": \"Bonn\"})1:call_1 now({})"},
    {"DeepSeek-V3.1", kDeepSeek31,
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"town\": \"Bonn\"}<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "0:call_0 weather({\"town\": \"Bonn\"})"},
    {"Harmony", kOss,
     "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment."
     "<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"town\": "
     "\"Bonn\"}<|call|>",
     "R[Let me see.]C[One moment.]0:call_0 weather({\"town\": \"Bonn\"})"},
    {"Harmony", kOss, " to=functions.now<|channel|>commentary json<|message|>{}", "0:call_0 now({})"},
    {"Harmony", kOss, "<|channel|>commentary to=functions.now<|message|>{\"a\": ", "0:call_0 now({\"a\": "},
    {"Harmony", kOss, "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>2 < 3\n",
     "R[a]C[2 < 3]"},
};

TEST(ChatParser, ReadsEachSyntaxUnderEveryCut) {
  for (const Case& one : kCases) {
    SCOPED_TRACE(one.text);
    const ChatSyntax syntax = ChatSyntax::of_source(one.source);
    ASSERT_TRUE(syntax.calls()) << one.name;
    EXPECT_EQ(syntax.calls()->name, one.name);
    EXPECT_EQ(read(syntax, one.text, {.tools = kTools}), one.expected);
  }
}

TEST(ChatParser, WithoutToolsCallsAreText) {
  const std::string text = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(read(ChatSyntax::of_source(kHermes), text), "C[" + text + "]");
  EXPECT_EQ(read(ChatSyntax(), text, {.tools = kTools}), "C[" + text + "]");
}

TEST(ChatParser, SplitsReasoningOff) {
  const ChatSyntax syntax = ChatSyntax::of_source("<think></think>" + std::string(kHermes));
  EXPECT_EQ(read(syntax, "<think>\nIs it 2 < 3?\n</think>\n\nYes.\n"), "R[Is it 2 < 3?]C[Yes.\n]");
  EXPECT_EQ(read(syntax, "\n <think>a</think>"), "R[a]");
  EXPECT_EQ(read(syntax, "<think>cut off </thi"), "R[cut off </thi]");
  EXPECT_EQ(read(syntax, "<thing> and <think>"), "C[<thing> and <think>]") << "in the middle it is text";
  EXPECT_EQ(read(syntax, " plain "), "C[ plain ]");
  const ChatParserOptions opened{.prompt = "<|im_start|>assistant\n<think>\n"};
  EXPECT_EQ(read(syntax, "so\n</think>\nYes", opened), "R[so]C[Yes]");
  const ChatParserOptions closed{.prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"};
  EXPECT_EQ(read(syntax, "Yes", closed), "C[Yes]");
  // Calls in reasoning are thoughts; after it they are calls.
  const ChatParserOptions tools{.prompt = opened.prompt, .tools = kTools};
  EXPECT_EQ(
      read(syntax, "<tool_call></think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", tools),
      "R[<tool_call>]0:call_0 now({})");
  EXPECT_EQ(read(syntax, "<think>a</think>b", {.reasoning = false}), "C[<think>a</think>b]");
  EXPECT_EQ(read(ChatSyntax::of_source("[THINK] [/THINK]"), "[THINK]a[/THINK]b"), "R[a]C[b]");
}

TEST(ChatParser, StreamsArgumentsAsTheyCome) {
  ChatParser parser(ChatSyntax::of_source(kHermes),
                    {.tools = kTools, .make_id = [](int64_t call) { return "id" + std::to_string(call); }});
  EXPECT_TRUE(parser.push("<tool_call>\n{\"name\": \"weath").empty());
  EXPECT_EQ(parser.push("er\","), (std::vector<ChatEvent>{{Kind::call_begin, 0, "", "id0", "weather"}}));
  EXPECT_EQ(parser.push(" \"arguments\": {\"to"), (std::vector<ChatEvent>{{Kind::call_arguments, 0, "{\"to", "", ""}}));
  EXPECT_EQ(
      parser.push("wn\": \"B\"}}\n</tool_call>"),
      (std::vector<ChatEvent>{{Kind::call_arguments, 0, "wn\": \"B\"}", "", ""}, {Kind::call_end, 0, "", "", ""}}));
  EXPECT_TRUE(parser.finish().empty());
  EXPECT_EQ(parser.calls(), 1);
  // Text between marks becomes a JSON string piece by piece.
  ChatParser tags(ChatSyntax::of_source(kCoder), {.tools = kTools});
  tags.push("<tool_call>\n<function=weather>\n<parameter=town>\n");
  EXPECT_EQ(told(tags.push("Bo")), "\"Bo");
  EXPECT_EQ(told(tags.push("nn\n")), "nn");
  EXPECT_EQ(told(tags.push("x</par")), "\\nx");
  EXPECT_EQ(told(tags.push("ameter>")), "\"");
}

TEST(ChatSyntax, IsKnownByTheTemplatesMarks) {
  EXPECT_EQ(ChatSyntax::of_source("{{ messages }}").calls(), nullptr);
  EXPECT_EQ(ChatSyntax::of_source("{{ messages }}").reasoning(), nullptr);
  const std::filesystem::path folder = std::filesystem::path(tests::source_folder()) / "unit/text/data/templates";
  const auto name = [&](const char* file) -> std::string {
    const CallForm* form = ChatSyntax::of_source(base::read_text(folder / file)).calls();
    return form ? std::string(form->name) : "none";
  };
  EXPECT_EQ(name("thinking.jinja"), "Hermes");
  EXPECT_EQ(name("brackets.jinja"), "Mistral");
  EXPECT_EQ(name("channels.jinja"), "Harmony");
  EXPECT_EQ(name("headers.jinja"), "Llama");
  EXPECT_EQ(name("chatml.jinja"), "none");
  EXPECT_EQ(ChatSyntax::of_source(base::read_text(folder / "thinking.jinja")).reasoning()->end, "</think>");
}

}  // namespace
}  // namespace coterie::text

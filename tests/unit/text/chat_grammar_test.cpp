#include "text/chat/grammar.h"

#include <gtest/gtest.h>

#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/chat/parser.h"
#include "vocabularies.h"

namespace coterie::text {
namespace {

using base::Json;
using Mode = ToolChoice::Mode;

const char* const kTools = R"([
  {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {
      "town": {"type": "string", "minLength": 1, "maxLength": 4}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
      "unit": {"enum": ["C", "F", null]}, "at": {"type": "string", "pattern": "^[0-9]{2}/[0-9]$"}},
    "required": ["town", "at"], "additionalProperties": false}}},
  {"type": "function", "function": {"name": "now"}}])";

struct Family {
  const char* source;  // words of a template
  std::vector<std::string> special;
  const char* two_calls;  // as a model writes them; or one, where the family writes one
  int calls;
};

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"<tool_call>{\"name\": n, \"arguments\": a}</tool_call>",
       {"<|end|>"},
       "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Rom\", \"at\": \"10/1\"}}\n</tool_call>\n"
       "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
       2},
      {"<tool_call><function=n><parameter=p></parameter></function></tool_call>",
       {"<|end|>", "<tool_call>", "</tool_call>"},
       "<tool_call>\n<function=weather>\n<parameter=town>\nRom\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
       "<parameter=unit>\nnull\n</parameter>\n<parameter=at>\n10/1\n</parameter>\n</function>\n</tool_call>\n"
       "<tool_call>\n<function=now>\n</function>\n</tool_call>",
       2},
      {"<tool_call>n<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>",
       {"<|end|>"},
       "<tool_call>weather\n<arg_key>town</arg_key>\n<arg_value>Rom</arg_value>\n<arg_key>unit</arg_key>\n"
       "<arg_value>C</arg_value><arg_key>at</arg_key><arg_value>10/1</arg_value></tool_call>\n"
       "<tool_call>now\n</tool_call>",
       2},
      {"<|start_header_id|> {\"name\": n, \"parameters\": p}",
       {"<|end|>", "<|python_tag|>"},
       "{\"name\": \"weather\", \"parameters\": {\"town\": \"Rom\", \"at\": \"10/1\"}}",
       1},
      {"[TOOL_CALLS]",
       {"<|end|>", "[TOOL_CALLS]"},
       "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"town\": \"Rom\", \"at\": \"10/1\"}}, {\"name\": "
       "\"now\", "
       "\"arguments\": {}, \"id\": \"abcdefghi\"}]",
       2},
      {"[TOOL_CALLS] [ARGS]",
       {"<|end|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"},
       "[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{\"town\": \"Rom\", \"at\": \"10/1\"}[TOOL_CALLS]now[ARGS]{}",
       2},
      {"<|tool_call|>", {"<|end|>", "<|tool_call|>"}, "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]", 1},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>```json",
       {"<|end|>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>"},
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"town\": \"Rom\", \"at\": "
       "\"10/1\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```"
       "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       2},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>",
       {"<|end|>"},
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       1},
      {"<|start|><|channel|><|message|>",
       {"<|return|>", "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>"},
       "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.now "
       "<|constrain|>json<|message|>{}<|call|>",
       1},
  };
  return all;
}

std::vector<TokenId> allowed(Constraint& constraint, const Tokenizer& tokenizer) {
  std::vector<uint32_t> bits(static_cast<size_t>(tokenizer.vocabulary_size() + 31) / 32);
  constraint.mask(bits);
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id)
    if (bits[static_cast<size_t>(id) / 32] >> (id % 32) & 1) ids.push_back(id);
  return ids;
}

/// How many of the text's tokens are accepted, and whether it may end there.
std::pair<size_t, bool> taken(Constraint constraint, const Tokenizer& tokenizer, std::string_view text) {
  size_t n = 0;
  for (const TokenId id : tokenizer.encode(text, false)) {
    const std::vector<TokenId> ids = allowed(constraint, tokenizer);
    if (!std::binary_search(ids.begin(), ids.end(), id)) return {n, false};
    constraint.accept(id);
    ++n;
  }
  return {n, constraint.complete()};
}

/// The beginning of a text that is accepted, all of it where it may end there.
std::string accepted(const Constraint& constraint, const Tokenizer& tokenizer, std::string_view text) {
  const auto [n, complete] = taken(constraint, tokenizer, text);
  std::vector<TokenId> ids = tokenizer.encode(text, false);
  const bool all = n == ids.size();
  ids.resize(n);
  return tokenizer.decode(ids, false) + (all && !complete ? "…" : "");
}

std::vector<ChatEvent> parsed(const ChatSyntax& syntax, std::string_view text) {
  ChatParser parser(syntax, {.tools = kTools});
  std::vector<ChatEvent> events = parser.push(text);
  for (ChatEvent& event : parser.finish()) events.push_back(std::move(event));
  return joined(events);
}

/// Each call has arguments that fit its function; how many there are.
int check_calls(const std::vector<ChatEvent>& events, const std::string& text) {
  int calls = 0;
  std::string name, arguments;
  for (const ChatEvent& event : events) {
    if (event.kind == ChatEvent::Kind::call_begin) name = event.name, arguments.clear();
    if (event.kind == ChatEvent::Kind::call_arguments) arguments += event.text;
    if (event.kind != ChatEvent::Kind::call_end) continue;
    ++calls;
    const Json json = Json::parse(arguments, nullptr, false);
    EXPECT_TRUE(json.is_object()) << arguments << " in " << text;
    if (!json.is_object()) continue;
    if (name == "now") {
      EXPECT_TRUE(json.empty()) << text;
      continue;
    }
    EXPECT_EQ(name, "weather");
    EXPECT_TRUE(json.contains("town") && json["town"].is_string() && !json["town"].get<std::string>().empty()) << text;
    EXPECT_TRUE(json.contains("at") && json["at"].is_string() && json["at"].get<std::string>().size() == 4) << text;
    const Json days = json.value("days", Json(1)), unit = json.value("unit", Json());
    EXPECT_TRUE(days.is_number_integer() && days >= 1 && days <= 9) << text;
    EXPECT_TRUE(unit == "C" || unit == "F" || unit.is_null()) << text;
    for (const auto& [key, value] : json.items())
      EXPECT_TRUE(key == "town" || key == "at" || key == "days" || key == "unit") << text;
  }
  return calls;
}

/// What a model without any sense writes; nothing when it does not end soon.
std::optional<std::string> walk(Constraint constraint, const Tokenizer& tokenizer, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<TokenId> ids;
  const TokenId end = tokenizer.end_tokens().at(0);
  for (int i = 0; i < 1500; ++i) {
    const std::vector<TokenId> forced = constraint.forced();
    constraint.accept(forced);
    ids.insert(ids.end(), forced.begin(), forced.end());
    const std::vector<TokenId> choice = allowed(constraint, tokenizer);
    if (std::binary_search(choice.begin(), choice.end(), end)) return tokenizer.decode(ids, false);
    ids.push_back(choice.at(static_cast<size_t>(rng.uniform_double() * static_cast<double>(choice.size()))));
    constraint.accept(ids.back());
  }
  return std::nullopt;
}

TEST(ChatGrammar, TakesTheCallsThatTheFamiliesWrite) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.two_calls);
    const Tokenizer tokenizer = bytes(family.special);
    const ChatSyntax syntax = ChatSyntax::of_source(family.source);
    EXPECT_EQ(syntax.needs_special(tokenizer), family.special.size() > 1);
    for (const Mode mode : {Mode::required, Mode::automatic}) {
      const std::optional<Constraint> constraint =
          answer_constraint(tokenizer, syntax, {.tools = kTools, .tool_choice = {mode}});
      ASSERT_TRUE(constraint);
      EXPECT_EQ(accepted(*constraint, tokenizer, family.two_calls), family.two_calls);
    }
    EXPECT_EQ(check_calls(parsed(syntax, family.two_calls), family.two_calls), family.calls);
    // The other function is not allowed where one is named, nor a second call where there may be one.
    const std::optional<Constraint> named =
        answer_constraint(tokenizer, syntax, {.tools = kTools, .tool_choice = {Mode::named, "now"}});
    EXPECT_EQ(accepted(*named, tokenizer, family.two_calls) == family.two_calls,
              std::string_view(family.two_calls).find("weather") == std::string_view::npos);
    const std::optional<Constraint> one = answer_constraint(
        tokenizer, syntax, {.tools = kTools, .tool_choice = {Mode::required}, .parallel_calls = false});
    EXPECT_EQ(accepted(*one, tokenizer, family.two_calls) == family.two_calls, family.calls == 1);
    EXPECT_FALSE(answer_constraint(tokenizer, syntax, {.tools = kTools, .tool_choice = {Mode::none}}));
    EXPECT_FALSE(answer_constraint(tokenizer, syntax, {}));
  }
}

TEST(ChatGrammar, CallsOfAModelWithoutSenseFitTheirSchemas) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.source);
    const Tokenizer tokenizer = bytes(family.special);
    const ChatSyntax syntax = ChatSyntax::of_source(family.source);
    const std::optional<Constraint> constraint =
        answer_constraint(tokenizer, syntax, {.tools = kTools, .tool_choice = {Mode::required}});
    if (syntax.channels()) continue;  // it would think for ever
    int calls = 0;
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const std::optional<std::string> text = walk(*constraint, tokenizer, seed);
      ASSERT_TRUE(text);
      const std::vector<ChatEvent> events = parsed(syntax, *text);
      EXPECT_EQ(events.at(0).kind, ChatEvent::Kind::call_begin) << *text;
      calls += check_calls(events, *text);
    }
    EXPECT_GE(calls, 6);
  }
}

TEST(ChatGrammar, TextIsFreeUntilACallBegins) {
  const char* const text = "It is {\"a\": 1} <tool> [T] \u00e9.\n";
  for (const Family& family : families()) {
    SCOPED_TRACE(family.source);
    const Tokenizer tokenizer = bytes(family.special);
    const ChatSyntax syntax = ChatSyntax::of_source(family.source);
    const std::optional<Constraint> constraint = answer_constraint(tokenizer, syntax, {.tools = kTools});
    const std::string answer = (syntax.channels() ? "<|channel|>final<|message|>" : "") + std::string(text);
    EXPECT_EQ(accepted(*constraint, tokenizer, answer), answer);
    const CallForm& form = *syntax.calls();
    if (syntax.channels() || form.begin.empty()) continue;
    const std::string mark(form.section_begin.empty() ? form.begin : form.section_begin);
    const std::string begun = text + mark;
    EXPECT_EQ(accepted(*constraint, tokenizer, begun + "?"), begun);
    EXPECT_EQ(accepted(*constraint, tokenizer, text + std::string(family.two_calls)),
              text + std::string(family.two_calls));
  }
  // Llama's begins with a brace.
  const Tokenizer tokenizer = bytes({"<|end|>"});
  const ChatSyntax llama = ChatSyntax::of_source("<|python_tag|> {\"name\": n, \"parameters\": p}");
  EXPECT_EQ(accepted(*answer_constraint(tokenizer, llama, {.tools = kTools}), tokenizer, "{\"answer\": 1}"), "{\"");
}

TEST(ChatGrammar, ReasoningComesFirst) {
  const std::string source = "<think></think>" + std::string(families()[0].source);
  const ChatSyntax syntax = ChatSyntax::of_source(source);
  const std::string call = "\n\n" + std::string(families()[0].two_calls);
  for (const std::vector<std::string>& special :
       {std::vector<std::string>{"<|end|>"}, std::vector<std::string>{"<|end|>", "<think>", "</think>"}}) {
    const Tokenizer tokenizer = bytes(special);
    for (const Mode mode : {Mode::required, Mode::automatic}) {
      AnswerForm form{.tools = kTools, .tool_choice = {mode}};
      const std::string thought = "<think>\nIs <tool_call> one?\n</think>";
      EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, thought + call), thought + call);
      EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, call), call);
      form.prompt = "<think>\n";
      const std::string rest = "Is <tool_call> one?\n</think>";
      EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, rest + call), rest + call);
    }
    AnswerForm form{.response = {ResponseFormat::Kind::json_schema, R"({"type": "integer"})"}};
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "<think>a</think>42"),
              "<think>a</think>42");
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "<think>a</think>\n\n42"),
              "<think>a</think>\n\n42");
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "42"), "42");
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "forty"), "");
    form.response = {ResponseFormat::Kind::regex, "a/b\\d"};
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "<think>a</think>a/b1"),
              "<think>a</think>a/b1");
    form.response = {ResponseFormat::Kind::lark, "start: \"x\" y\ny: \"y\"+"};
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "<think>a</think>xyy"),
              "<think>a</think>xyy");
    form.response = {ResponseFormat::Kind::json_object};
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "{\"a\": [1]}"), "{\"a\": [1]}");
    form.tools = kTools;
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, "{\"a\": [1]}"), "{\"a\": [1]}");
    EXPECT_EQ(accepted(*answer_constraint(tokenizer, syntax, form), tokenizer, call), call);
  }
}

TEST(ChatGrammar, RefusesWhatCannotBeKept) {
  const Tokenizer tokenizer = bytes({"<|end|>"});
  const auto refusal = [&](const char* source, const AnswerForm& form) -> std::string {
    try {
      (void)answer_constraint(tokenizer, ChatSyntax::of_source(source), form);
    } catch (const base::Error& error) {
      return error.where() + ": " + error.message() + " " + error.hint();
    }
    return "not refused";
  };
  const auto tool = [](const char* parameters) {
    return std::string(R"([{"type": "function", "function": {"name": "f", "parameters": )") + parameters + "}}]";
  };
  const char* const hermes = families()[0].source;
  const char* const coder = families()[1].source;
  const std::pair<std::string, const char*> cases[] = {
      {refusal("{{ messages }}", {.tools = kTools}), "tools: the model's chat template does not write calls"},
      {refusal(hermes, {.tools = tool(R"({"type": "object", "properties": {"x": {"type": "string", "minLength": 3,
                "maxLength": 1}}, "required": ["x"]})")}),
       "tools[0].function.parameters: at /properties/x: nothing fits it"},
      {refusal(hermes, {.tools = tool(R"({"type": "array"})")}),
       "tools[0].function.parameters: has the type \"array\""},
      {refusal(hermes, {.tools = "{}"}), "tools: is not a JSON array"},
      {refusal(hermes, {.tools = R"([{"type": "search"}])"}), "tools[0].type: is \"search\""},
      {refusal(hermes, {.tools = R"([{"type": "function", "function": {"name": "a b"}}])"}), "tools[0].function.name"},
      {refusal(hermes, {.tools = kTools, .tool_choice = {Mode::named, "never"}}),
       "tool_choice: names the function \"never\""},
      {refusal(coder, {.tools = tool(R"({"type": "object", "anyOf": [{}]})")}), "\"anyOf\" at the top cannot be kept"},
      {refusal(coder,
               {.tools = tool(R"({"type": "object", "properties": {"d": {"type": "string", "format": "date"}}})")}),
       "/properties/d: \"format\" of a string cannot be kept"},
      {refusal(hermes, {.response = {ResponseFormat::Kind::json_schema, "{\"type\": \"strin\"}"}}),
       "response_format: at the top: Invalid type"},
  };
  for (const auto& [said, expected] : cases) EXPECT_NE(said.find(expected), std::string::npos) << said;
}

}  // namespace
}  // namespace coterie::text

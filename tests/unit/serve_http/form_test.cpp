// Tools and structured output: what is asked of the scheduler, and how calls come back in each API.
#include <gtest/gtest.h>

#include "client.h"
#include "fake_backend.h"

namespace coterie::serve::test {
namespace {

const base::Json kHello = {{{"role", "user"}, {"content", "Hi"}}};
const base::Json kParameters = {
    {"type", "object"}, {"properties", {{"x", {{"type", "integer"}}}}}, {"required", {"x"}}};
const base::Json kTools = {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", kParameters}}}}};
constexpr char kCall[] = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";

/// A model whose template writes calls as Hermes and Qwen do.
struct Calling : Fixture {
  Calling() {
    model.chat_template.emplace(
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}{# <tool_call> {\"name\": , "
        "\"arguments\": "
        "} </tool_call> #}",
        "", "", "test");
    backend.says = kCall;
  }
};

base::Json ask_json(const Fixture& fixture, const std::string& path, const base::Json& body, int status = 200) {
  const Reply reply = ask(fixture.port(), post(path, body.dump()));
  EXPECT_EQ(reply.status, status) << reply.body;
  return base::Json::parse(reply.body, nullptr, false);
}

std::vector<base::Json> events(const Fixture& fixture, const std::string& path, base::Json body) {
  body["stream"] = true;
  const Reply reply = ask(fixture.port(), post(path, body.dump()));
  EXPECT_EQ(reply.status, 200) << reply.body;
  std::vector<base::Json> all;
  for (size_t at = 0; (at = reply.body.find("data: {", at)) != std::string::npos; ++at)
    all.push_back(base::Json::parse(reply.body.substr(at + 6, reply.body.find("\n\n", at) - at - 6)));
  return all;
}

TEST(Tools, ACallInChat) {
  const Calling fixture;
  const base::Json choice =
      ask_json(fixture, "/v1/chat/completions", {{"messages", kHello}, {"tools", kTools}})["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  const base::Json& call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"]["name"], "f");
  EXPECT_EQ(base::Json::parse(call["function"]["arguments"].get<std::string>()), (base::Json{{"x", 1}}));
  EXPECT_NE(fixture.backend.seen()[0].constraint, nullptr);
  std::string name, arguments, reason;
  for (const base::Json& chunk : events(fixture, "/v1/chat/completions", {{"messages", kHello}, {"tools", kTools}})) {
    const base::Json& part = chunk["choices"][0];
    if (part["delta"].contains("tool_calls")) {
      name += part["delta"]["tool_calls"][0]["function"].value("name", "");
      arguments += part["delta"]["tool_calls"][0]["function"].value("arguments", "");
    }
    if (part["finish_reason"].is_string()) reason = part["finish_reason"];
  }
  EXPECT_EQ(name, "f");
  EXPECT_EQ(base::Json::parse(arguments), (base::Json{{"x", 1}}));
  EXPECT_EQ(reason, "tool_calls");
}

TEST(Tools, ACallInMessagesAndResponses) {
  const Calling fixture;
  const base::Json message = ask_json(
      fixture, "/v1/messages",
      {{"messages", kHello}, {"max_tokens", 100}, {"tools", {{{"name", "f"}, {"input_schema", kParameters}}}}});
  EXPECT_EQ(message["stop_reason"], "tool_use");
  EXPECT_EQ(message["content"][0]["name"], "f");
  EXPECT_EQ(message["content"][0]["input"], (base::Json{{"x", 1}}));
  const base::Json response =
      ask_json(fixture, "/v1/responses",
               {{"input", "Hi"}, {"tools", {{{"type", "function"}, {"name", "f"}, {"parameters", kParameters}}}}});
  EXPECT_EQ(response["output"][0]["type"], "function_call");
  EXPECT_EQ(base::Json::parse(response["output"][0]["arguments"].get<std::string>()), (base::Json{{"x", 1}}));
}

TEST(Tools, WhatCannotBeKeptIsRefusedByName) {
  const Calling fixture;
  const auto fault = [&](const base::Json& more) {
    base::Json body = {{"messages", kHello}};
    body.update(more);
    return ask_json(fixture, "/v1/chat/completions", body, 400)["error"];
  };
  EXPECT_EQ(fault({{"tools", kTools}, {"tool_choice", "perhaps"}})["param"], "tool_choice");
  EXPECT_EQ(fault({{"tool_choice", "required"}})["param"], "tool_choice");
  base::Json bad = kTools;
  bad[0]["function"]["parameters"]["properties"]["x"]["type"] = "intger";
  EXPECT_NE(fault({{"tools", bad}})["message"].get<std::string>().find("/properties/x"), std::string::npos);
  const base::Json schema = {{"type", "object"}, {"properties", {{"y", {{"typ", "string"}}}}}};
  const base::Json format = {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", schema}}}};
  const base::Json found = fault({{"response_format", format}});
  EXPECT_EQ(found["param"], "response_format");
  EXPECT_NE(found["message"].get<std::string>().find("/properties/y"), std::string::npos);
  EXPECT_EQ(fault({{"response_format", {{"type", "xml"}}}})["param"], "response_format");
  EXPECT_EQ(fault({{"grammar", "root ::= \"x\""}})["param"], "grammar");
  const Fixture plain;  // its template knows no calls
  EXPECT_EQ(ask_json(plain, "/v1/chat/completions", {{"messages", kHello}, {"tools", kTools}}, 400)["error"]["param"],
            "tools");
  EXPECT_EQ(ask_json(plain, "/v1/chat/completions",
                     {{"messages", kHello}, {"tools", kTools}, {"tool_choice", "none"}})["choices"][0]["finish_reason"],
            "stop");
}

TEST(StructuredOutput, EachChoiceHasAConstraintOfItsOwn) {
  const Fixture fixture;
  const base::Json body = {{"messages", kHello}, {"n", 2}, {"response_format", {{"type", "json_object"}}}};
  ask_json(fixture, "/v1/chat/completions", body);
  ask_json(fixture, "/v1/completions", {{"prompt", "x"}, {"structured_outputs", {{"choice", {"yes", "no"}}}}});
  ask_json(fixture, "/completion", {{"prompt", "x"}, {"json_schema", {{"type", "integer"}}}});
  const std::vector<Request> seen = fixture.backend.seen();
  ASSERT_EQ(seen.size(), 4U);
  for (const Request& request : seen) EXPECT_NE(request.constraint, nullptr);
  EXPECT_NE(seen[0].constraint, seen[1].constraint);
  std::vector<uint32_t> bits((259 + 31) / 32);
  ASSERT_TRUE(seen[2].constraint->mask(bits));
  std::string allowed;
  for (int id = 0; id < 256; ++id)
    if (bits[static_cast<size_t>(id) / 32] >> (id % 32) & 1) allowed += static_cast<char>(id);
  EXPECT_EQ(allowed, "ny");
}

TEST(Reasoning, ItsTokensAreCounted) {
  Fixture fixture;
  fixture.model.chat_template.emplace("{{ messages[0].content }}<think>{# <think> </think> #}", "", "", "test");
  fixture.backend.says = "ab</think>cd";
  const auto counted = [&](const base::Json& usage) { return usage["completion_tokens_details"]["reasoning_tokens"]; };
  const base::Json chat = ask_json(fixture, "/v1/chat/completions", {{"messages", kHello}});
  EXPECT_EQ(chat["choices"][0]["message"]["reasoning_content"], "ab");
  EXPECT_EQ(chat["choices"][0]["message"]["content"], "cd");
  EXPECT_EQ(counted(chat["usage"]), 10);  // a, b and the eight bytes of the mark
  const base::Json all = ask_json(fixture, "/v1/chat/completions", {{"messages", kHello}, {"max_tokens", 2}});
  EXPECT_EQ(counted(all["usage"]), 2);
  const base::Json none =
      ask_json(fixture, "/v1/chat/completions", {{"messages", kHello}, {"reasoning_format", "none"}});
  EXPECT_EQ(counted(none["usage"]), 0);
  const base::Json response = ask_json(fixture, "/v1/responses", {{"input", "Hi"}});
  EXPECT_EQ(response["usage"]["output_tokens_details"]["reasoning_tokens"], 10);
}

TEST(Boundaries, AreTheEndsOfTurnsWhereAModelKeepsStates) {
  Fixture fixture;
  fixture.model.keeps_states = true;
  fixture.model.context = 2000;
  fixture.model.chat_template.emplace(
      "{% for m in messages %}<|user|>{{ m.content }}{% if m.role != 'system' %}<|end|>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}",
      "", "<|end|>", "test");
  base::Json messages = {{{"role", "system"}, {"content", std::string(100, 's')}}};
  for (int turn = 0; turn < 6; ++turn)
    messages.push_back(
        {{"role", turn % 2 == 0 ? "user" : "assistant"}, {"content", std::string(100, static_cast<char>('a' + turn))}});
  ask_json(fixture, "/v1/chat/completions", {{"messages", messages}});
  // The system prompt with the next mark, and the last four of the ends at 101 + 102 n.
  EXPECT_EQ(fixture.backend.seen()[0].boundaries, (std::vector<int64_t>{102, 407, 509, 611, 713}));
  ask_json(fixture, "/v1/messages", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"max_tokens", 1}});
  EXPECT_EQ(fixture.backend.seen()[1].boundaries, (std::vector<int64_t>{4}));
  fixture.model.keeps_states = false;
  ask_json(fixture, "/v1/chat/completions", {{"messages", messages}});
  EXPECT_TRUE(fixture.backend.seen()[2].boundaries.empty());
}

}  // namespace
}  // namespace coterie::serve::test

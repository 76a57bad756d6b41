#include <gtest/gtest.h>

#include <cmath>

#include "client.h"
#include "fake_backend.h"
#include "serve/api/answer.h"

namespace coterie::serve::test {
namespace {

base::Json ok(const Fixture& fixture, const std::string& path, const base::Json& body) {
  const Reply reply = ask(fixture.port(), post(path, body.dump()));
  EXPECT_EQ(reply.status, 200) << reply.body;
  return base::Json::parse(reply.body, nullptr, false);
}

base::Json error(const Fixture& fixture, const std::string& path, const std::string& body, int status) {
  const Reply reply = ask(fixture.port(), post(path, body));
  EXPECT_EQ(reply.status, status) << body << " → " << reply.body;
  return base::Json::parse(reply.body, nullptr, false)["error"];
}

/// The objects of a stream; pings and the last [DONE] left out.
std::vector<base::Json> events(const Fixture& fixture, const std::string& path, base::Json body) {
  body["stream"] = true;
  const Reply reply = ask(fixture.port(), post(path, body.dump()));
  EXPECT_EQ(reply.status, 200) << reply.body;
  std::vector<base::Json> all;
  for (size_t at = 0; (at = reply.body.find("data: ", at)) != std::string::npos;) {
    const size_t end = reply.body.find("\n\n", at);
    const std::string text = reply.body.substr(at + 6, end - at - 6);
    if (text != "[DONE]") all.push_back(base::Json::parse(text));
    at = end;
  }
  return all;
}

const base::Json kHello = {{{"role", "user"}, {"content", "Hi"}}};

TEST(Chat, AWholeAnswer) {
  const Fixture fixture;
  const base::Json json =
      ok(fixture, "/v1/chat/completions", {{"messages", kHello}, {"model", "fake"}, {"user", "me"}, {"store", false}});
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "fake");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["message"]["content"], "Hello");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4);  // <|user|> H i <|assistant|>
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  EXPECT_EQ(json["usage"]["total_tokens"], 10);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(fixture.backend.seen()[0].prompt, (std::vector<TokenId>{257, 'H', 'i', 258}));
}

TEST(Chat, AStreamBeginsWithTheRoleAndEndsWithUsage) {
  const Fixture fixture;
  const auto all =
      events(fixture, "/v1/chat/completions", {{"messages", kHello}, {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(all.size(), 1 + 5 + 1 + 1U);
  EXPECT_EQ(all[0]["choices"][0]["delta"], (base::Json{{"role", "assistant"}, {"content", nullptr}}));
  std::string text;
  for (const base::Json& chunk : all) {
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["id"], all[0]["id"]);
    EXPECT_TRUE(chunk.contains("usage"));
    if (!chunk["choices"].empty() && chunk["choices"][0]["delta"].value("content", base::Json()).is_string())
      text += chunk["choices"][0]["delta"]["content"];
  }
  EXPECT_EQ(text, "Hello");
  EXPECT_EQ(all[6]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(all[7]["choices"], base::Json::array());
  EXPECT_EQ(all[7]["usage"]["completion_tokens"], 6);
  for (const base::Json& chunk : events(fixture, "/v1/chat/completions", {{"messages", kHello}}))
    EXPECT_FALSE(chunk.contains("usage"));
}

TEST(Chat, LogprobsIdsAndChoices) {
  const Fixture fixture;
  const base::Json json = ok(fixture, "/v1/chat/completions",
                             {{"messages", kHello},
                              {"logprobs", true},
                              {"top_logprobs", 2},
                              {"n", 2},
                              {"seed", 3},
                              {"return_token_ids", true}});
  ASSERT_EQ(json["choices"].size(), 2U);
  const base::Json& content = json["choices"][1]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 5U);  // not the end token
  EXPECT_EQ(content[0]["token"], "H");
  EXPECT_EQ(content[0]["bytes"], base::Json::array({72}));
  EXPECT_EQ(content[0]["logprob"], -0.5);
  EXPECT_EQ(content[0]["top_logprobs"][1]["token"], "b");
  EXPECT_EQ(json["choices"][0]["token_ids"].back(), kEnd);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4);  // once
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  EXPECT_EQ(fixture.backend.seen()[1].sampler.seed, 4U);
}

TEST(Chat, RoutedExpertsAreANumpyArrayOfAllLayers) {
  const Fixture fixture;
  const base::Json json = ok(fixture, "/v1/chat/completions", {{"messages", kHello}, {"routed_experts", true}});
  // [2 positions, 3 layers, 2]: layer 1 has no router.
  std::string expected = "\x93NUMPY\x01";
  expected += '\0';
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 2), }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  expected += static_cast<char>(header.size());
  expected += '\0';
  expected += header + std::string("\0\1\0\0\2\3\3\2\0\0\1\0", 12);
  EXPECT_EQ(json["choices"][0]["routed_experts"], base64(expected));
}

TEST(Chat, WhatIsWrongIsNamed) {
  const Fixture fixture;
  const auto fault = [&](const std::string& body) { return error(fixture, "/v1/chat/completions", body, 400); };
  EXPECT_EQ(fault("{")["code"], "invalid_json");
  EXPECT_EQ(fault("{\"prompt\": \"a\", \"prompt\": \"b\"}")["code"], "invalid_json") << "which of them?";
  EXPECT_EQ(fault("[]")["type"], "invalid_request_error");
  EXPECT_EQ(fault("{\"messages\": \"\xff\"}")["code"], "invalid_json");
  EXPECT_EQ(fault("{}")["param"], "messages");
  EXPECT_EQ(fault(R"({"messages": []})")["param"], "messages");
  EXPECT_EQ(fault(R"({"messages": [{"content": "x"}]})")["param"], "messages[0]");
  EXPECT_EQ(fault(R"({"messages": [{"role": "user"}]})")["param"], "messages[0]");
  EXPECT_EQ(fault(R"({"messages": [{"role": "usr", "content": "x"}]})")["param"], "messages[0]");
  EXPECT_EQ(fault(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})")["param"], "messages[0]");
  EXPECT_EQ(fault(R"({"messages": [{"role": "user", "content": "x"}], "temperature": NaN})")["code"], "invalid_json");
  EXPECT_EQ(fault(R"({"messages": [{"role": "user", "content": "x"}], "tempratur": 1})")["param"], "tempratur");
  EXPECT_EQ(
      fault(
          R"({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "max_completion_tokens": 4})")["param"],
      "max_tokens");
  EXPECT_EQ(
      fault(R"({"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": true}})")["param"],
      "stream_options");
  EXPECT_EQ(error(fixture, "/v1/chat/completions", R"({"messages": [], "model": "other"})", 404)["code"],
            "model_not_found");
  EXPECT_TRUE(fixture.backend.seen().empty());
}

TEST(Chat, APromptThatDoesNotFitIsRefusedWithTheFigures) {
  const Fixture fixture;
  const base::Json json = {{"messages", {{{"role", "user"}, {"content", std::string(300, 'x')}}}}};
  const base::Json fault = error(fixture, "/v1/chat/completions", json.dump(), 400);
  EXPECT_EQ(fault["type"], "exceed_context_size_error");
  EXPECT_EQ(fault["n_prompt_tokens"], 302);
  EXPECT_EQ(fault["n_ctx"], 200);
}

TEST(Chat, ABusyServerSaysWhenToComeAgain) {
  Fixture fixture;
  fixture.backend.busy = true;
  Reply reply =
      ask(fixture.port(), post("/v1/chat/completions", base::Json{{"messages", kHello}, {"stream", true}}.dump()));
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.headers["retry-after"], "7");
  EXPECT_EQ(base::Json::parse(reply.body)["error"]["type"], "rate_limit_error");
}

TEST(Chat, ReasoningIsSplitOff) {
  Fixture fixture;
  fixture.model.chat_template.emplace("{{ messages[0].content }}{# </think> #}<think>\n", "", "", "test");
  fixture.backend.says = "Let me see.\n</think>\n\nHi!";
  const base::Json message = ok(fixture, "/v1/chat/completions", {{"messages", kHello}})["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "Let me see.");
  EXPECT_EQ(message["reasoning"], "Let me see.");
  EXPECT_EQ(message["content"], "Hi!");
  std::string thought, text;
  for (const base::Json& chunk : events(fixture, "/v1/chat/completions", {{"messages", kHello}})) {
    thought += chunk["choices"][0]["delta"].value("reasoning_content", "");
    if (const base::Json piece = chunk["choices"][0]["delta"].value("content", base::Json()); piece.is_string())
      text += piece;
  }
  EXPECT_EQ(thought, "Let me see.");
  EXPECT_EQ(text, "Hi!");
}

TEST(Chat, GoesOnWithTheLastMessage) {
  const Fixture fixture;
  ok(fixture, "/v1/chat/completions",
     {{"messages", {{{"role", "user"}, {"content", "a"}}, {{"role", "assistant"}, {"content", "bc"}}}},
      {"continue_final_message", true}});
  EXPECT_EQ(fixture.backend.seen()[0].prompt, (std::vector<TokenId>{257, 'a', 258, 'b', 'c'}));
}

TEST(Completions, PromptsAreTextsOrIdsOrLists) {
  const Fixture fixture;
  const auto prompts = [&](const base::Json& prompt) {
    return ok(fixture, "/v1/completions", {{"prompt", prompt}})["choices"].size();
  };
  EXPECT_EQ(prompts("ab"), 1U);
  EXPECT_EQ(prompts({"ab", "c"}), 2U);
  EXPECT_EQ(prompts({97, 98}), 1U);
  EXPECT_EQ(prompts({{97, 98}, {99}}), 2U);
  EXPECT_EQ(fixture.backend.seen().back().prompt, (std::vector<TokenId>{99}));
  EXPECT_EQ(error(fixture, "/v1/completions", R"({"prompt": [97, 259]})", 400)["param"], "prompt");
  EXPECT_EQ(error(fixture, "/v1/completions", R"({"prompt": [4294967393]})", 400)["param"], "prompt");
  EXPECT_EQ(error(fixture, "/v1/completions", R"({"prompt": ""})", 400)["param"], "prompt");
  EXPECT_EQ(error(fixture, "/v1/completions", R"({"prompt": {}})", 400)["param"], "prompt.prompt_string");
  EXPECT_EQ(fixture.backend.seen().back().max_tokens, 16);  // OpenAI's default
}

TEST(Completions, EchoWithLogprobsAsTheHarnessReadsIt) {
  const Fixture fixture;
  const base::Json choice = ok(
      fixture, "/v1/completions",
      {{"prompt", {97, 98, 99}}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}, {"temperature", 0}})["choices"][0];
  EXPECT_EQ(choice["text"], "abcH");
  EXPECT_EQ(choice["finish_reason"], "length");
  const base::Json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], (base::Json{"a", "b", "c", "H"}));
  EXPECT_EQ(logprobs["token_logprobs"], (base::Json{nullptr, -1.0, -1.0, -0.5}));
  EXPECT_EQ(logprobs["text_offset"], (base::Json{0, 1, 2, 3}));
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["top_logprobs"][1], (base::Json{{"a", -0.5}, {"b", -1.0}}));
  EXPECT_EQ(logprobs["top_logprobs"][3], (base::Json{{"a", -0.5}, {"H", -0.5}}));
  EXPECT_EQ(fixture.backend.seen()[0].prompt_logprobs, 1);
}

TEST(Completions, AStreamEchoesFirst) {
  const Fixture fixture;
  for (const bool scored : {false, true}) {
    base::Json body = {{"prompt", "ab"}, {"echo", true}};
    if (scored) body["logprobs"] = 0;
    std::string text;
    const auto all = events(fixture, "/v1/completions", body);
    for (const base::Json& chunk : all) text += chunk["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(text, "abHello");
    EXPECT_EQ(all.front()["choices"][0]["logprobs"].is_null(), !scored);
    EXPECT_EQ(all.back()["choices"][0]["finish_reason"], "stop");
  }
}

TEST(Native, SpeaksLlamaCppsForm) {
  const Fixture fixture;
  const base::Json json =
      ok(fixture, "/completion", {{"prompt", "ab"}, {"n_predict", 3}, {"n_probs", 1}, {"return_tokens", true}});
  EXPECT_EQ(json["content"], "Hel");
  EXPECT_EQ(json["stop"], true);
  EXPECT_EQ(json["stop_type"], "limit");
  EXPECT_EQ(json["tokens_predicted"], 3);
  EXPECT_EQ(json["tokens"], (base::Json{72, 101, 108}));
  EXPECT_EQ(json["completion_probabilities"].size(), 3U);
  EXPECT_EQ(json["timings"]["cache_n"], 1);
  EXPECT_EQ(ok(fixture, "/completion", {{"prompt", {"a", "b"}}}).size(), 2U);
  EXPECT_EQ(ok(fixture, "/completion", {{"prompt", {"a", 98}}})["prompt"], "ab");
  EXPECT_EQ(ok(fixture, "/completion", {{"prompt", {{"prompt_string", "c"}}}})["prompt"], "c");
  EXPECT_EQ(ok(fixture, "/completion",
               {{"prompt", "a"}, {"response_fields", {"content", "generation_settings/n_predict"}}, {"n_predict", 9}}),
            (base::Json{{"content", "Hello"}, {"generation_settings/n_predict", 9}}));
  const auto all = events(fixture, "/completion", {{"prompt", "a"}});
  ASSERT_EQ(all.size(), 7U);
  EXPECT_EQ(all[0]["content"], "H");
  EXPECT_EQ(all[0]["stop"], false);
  EXPECT_EQ(all[6]["stop_type"], "eos");
}

TEST(Responses, AWholeAnswerAndAStream) {
  const Fixture fixture;
  const base::Json body = {{"input", "Hi"}, {"instructions", "Be brief"}, {"max_output_tokens", 50}};
  const base::Json json = ok(fixture, "/v1/responses", body);
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["status"], "completed");
  EXPECT_EQ(json["output"][0]["content"][0]["text"], "Hello");
  EXPECT_EQ(json["usage"]["output_tokens"], 6);
  EXPECT_EQ(json["store"], false);
  std::vector<std::string> types;
  std::string text;
  int64_t number = 0;
  for (const base::Json& event : events(fixture, "/v1/responses", body)) {
    EXPECT_EQ(event["sequence_number"], number++);
    if (types.empty() || types.back() != event["type"]) types.push_back(event["type"]);
    if (event["type"] == "response.output_text.delta") text += event["delta"];
  }
  EXPECT_EQ(text, "Hello");
  EXPECT_EQ(types, (std::vector<std::string>{"response.created", "response.in_progress", "response.output_item.added",
                                             "response.content_part.added", "response.output_text.delta",
                                             "response.output_text.done", "response.content_part.done",
                                             "response.output_item.done", "response.completed"}));
  EXPECT_EQ(error(fixture, "/v1/responses", R"({"input": "x", "previous_response_id": "resp_1"})", 400)["param"],
            "previous_response_id");
}

TEST(Messages, AWholeAnswerAndAStream) {
  const Fixture fixture;
  const base::Json body = {{"messages", kHello}, {"max_tokens", 3}, {"system", "S"}};
  const base::Json json = ok(fixture, "/v1/messages", body);
  EXPECT_EQ(json["type"], "message");
  EXPECT_EQ(json["content"], (base::Json::array({{{"type", "text"}, {"text", "Hel"}}})));
  EXPECT_EQ(json["stop_reason"], "max_tokens");
  EXPECT_EQ(json["usage"]["output_tokens"], 3);
  std::vector<std::string> types;
  for (const base::Json& event : events(fixture, "/v1/messages", body)) types.push_back(event["type"]);
  EXPECT_EQ(types, (std::vector<std::string>{"message_start", "content_block_start", "content_block_delta",
                                             "content_block_delta", "content_block_delta", "content_block_stop",
                                             "message_delta", "message_stop"}));
  EXPECT_EQ(ok(fixture, "/v1/messages/count_tokens", {{"messages", kHello}}), (base::Json{{"input_tokens", 4}}));
  EXPECT_EQ(error(fixture, "/v1/messages", R"({"messages": [{"role": "user", "content": "x"}]})", 400)["type"],
            "invalid_request_error");
}

TEST(Endpoints, TokensAndTemplates) {
  const Fixture fixture;
  EXPECT_EQ(ok(fixture, "/tokenize", {{"content", "ab"}})["tokens"], (base::Json{97, 98}));
  EXPECT_EQ(ok(fixture, "/tokenize", {{"content", "é"}, {"with_pieces", true}})["tokens"][0],
            (base::Json{{"id", 195}, {"piece", {195}}}));
  EXPECT_EQ(ok(fixture, "/v1/chat/completions/input_tokens", {{"messages", kHello}})["input_tokens"], 4);
  EXPECT_EQ(ok(fixture, "/v1/responses/input_tokens", {{"input", "Hi"}})["input_tokens"], 4);
  EXPECT_EQ(ok(fixture, "/detokenize", {{"tokens", {97, 98}}})["content"], "ab");
  EXPECT_EQ(ok(fixture, "/apply-template", {{"messages", kHello}})["prompt"], "<|user|>Hi<|assistant|>");
  EXPECT_EQ(error(fixture, "/detokenize", R"({"tokens": [-1]})", 400)["param"], "tokens");
  EXPECT_EQ(error(fixture, "/tokenise", "{}", 404)["code"], "not_found");
  Reply reply = ask(fixture.port(), get("/tokenize"));
  EXPECT_EQ(reply.status, 405);
  EXPECT_EQ(reply.headers["allow"], "POST");
}

TEST(Endpoints, MetricsOpenapiPropsAndSlots) {
  const Fixture fixture;
  const std::string metrics = ask(fixture.port(), get("/metrics")).body;
  EXPECT_NE(metrics.find("coterie_generated_tokens_total 11\n"), std::string::npos) << metrics.substr(0, 500);
  EXPECT_NE(metrics.find("coterie_time_to_first_token_seconds_bucket{le=\"+Inf\"} 0\n"), std::string::npos);
  EXPECT_NE(metrics.find("coterie_expert_tokens_total{layer=\"2\",expert=\"3\"} 8\n"), std::string::npos);
  const base::Json openapi = base::Json::parse(ask(fixture.port(), get("/openapi.json")).body);
  EXPECT_TRUE(openapi["paths"].contains("/v1/chat/completions"));
  EXPECT_EQ(base::Json::parse(ask(fixture.port(), get("/slots")).body).size(), 16U);
  EXPECT_EQ(base::Json::parse(ask(fixture.port(), get("/props")).body)["model_alias"], "fake");
  EXPECT_EQ(ask(fixture.port(), get("/v1/models/fake")).status, 200);
  EXPECT_EQ(ask(fixture.port(), get("/v1/models/other")).status, 404);
}

TEST(Endpoints, ALogLineForEachRequestWithoutItsText) {
  Fixture fixture;
  Reply reply = ask(fixture.port(), post("/v1/completions", R"({"prompt": "secret"})", "X-Request-Id: my-id\r\n"));
  EXPECT_EQ(reply.headers["x-request-id"], "my-id");
  for (int i = 0; i < 100; ++i) {
    const std::lock_guard lock(fixture.log_mutex);
    if (!fixture.log.empty()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const std::lock_guard lock(fixture.log_mutex);
  ASSERT_EQ(fixture.log.size(), 1U);
  const base::Json line = base::Json::parse(fixture.log[0]);
  EXPECT_EQ(line["request"], "my-id");
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["prompt_tokens"], 6);
  EXPECT_EQ(fixture.log[0].find("secret"), std::string::npos);
}

TEST(Endpoints, LenientServersPassUnknownFieldsOver) {
  const Fixture fixture({}, {}, true);
  EXPECT_EQ(
      ok(fixture, "/v1/completions", {{"prompt", "a"}, {"unheard_of", 1}, {"model", "gpt-4"}})["choices"][0]["text"],
      "Hello");
}

TEST(Templates, TheServersVariablesHoldUnlessARequestSaysOtherwise) {
  Fixture fixture;
  fixture.model.template_variables = R"({"mood": "calm", "day": 1})";
  fixture.model.chat_template.emplace("{{ messages[0].content }} {{ mood }} {{ day }}", "", "", "test");
  base::Json body = {{"messages", kHello}};
  EXPECT_EQ(ok(fixture, "/apply-template", body)["prompt"], "Hi calm 1");
  body["chat_template_kwargs"] = {{"mood", "wild"}};
  EXPECT_EQ(ok(fixture, "/apply-template", body)["prompt"], "Hi wild 1");
  body["verbose"] = true;
  EXPECT_EQ(ok(fixture, "/v1/chat/completions", body)["__verbose"]["prompt"], "Hi wild 1");
}

TEST(Native, ProbabilitiesAfterTheSamplersAreAskedForAndSaidSo) {
  const Fixture fixture;
  const base::Json json = ok(fixture, "/completion", {{"prompt", "Hi"}, {"n_probs", 2}, {"post_sampling_probs", true}});
  EXPECT_TRUE(fixture.backend.seen()[0].sampled_logprobs);
  const base::Json& first = json["completion_probabilities"][0];
  EXPECT_FALSE(first.contains("logprob"));
  EXPECT_NEAR(first["prob"].get<double>(), std::exp(-0.5), 1e-6);
  EXPECT_EQ(first["top_probs"].size(), 2U);
  EXPECT_EQ(ok(fixture, "/completion", {{"prompt", "Hi"}, {"ignore_eos", true}})["generation_settings"]["logit_bias"],
            (base::Json{{{"token", kEnd}, {"bias", nullptr}}}));
}

TEST(Errors, OfTheServersOptionsAreToldInItsOwnWords) {
  FakeBackend backend;
  const ServedModel model = [] {
    ServedModel fake = fake_model();
    fake.chat_template.reset();
    return fake;
  }();
  ServiceOptions options;
  options.http.port = 0;
  options.metrics = false;
  options.wording = [](const std::string& text) { return "said: " + text; };
  Service service(model, backend, std::move(options));
  service.start();
  const Reply reply = ask(service.port(), post("/v1/chat/completions", base::Json{{"messages", kHello}}.dump()));
  EXPECT_EQ(reply.status, 400);
  const std::string message = base::Json::parse(reply.body)["error"]["message"];
  EXPECT_TRUE(message.starts_with("said: ")) << message;
  EXPECT_NE(message.find("`serve.chat_template`"), std::string::npos) << message;
  EXPECT_EQ(ask(service.port(), get("/metrics")).status, 501);
}

}  // namespace
}  // namespace coterie::serve::test

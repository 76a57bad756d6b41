#include <gtest/gtest.h>

#include "client.h"
#include "fake_backend.h"
#include "serve/api/expert_fields.h"
#include "serve/page.h"

// The page at /, what it asks the server for, and the field `coterie` of requests.
namespace coterie::serve::test {
namespace {

const base::Json kHello = {{{"role", "user"}, {"content", "Hi"}}};

base::Json json_at(const Fixture& fixture, const std::string& path) {
  const Reply reply = ask(fixture.port(), get(path));
  EXPECT_EQ(reply.status, 200) << reply.body;
  return base::Json::parse(reply.body, nullptr, false);
}

TEST(Page, BrowsersGetItAndProgramsGetWords) {
  GuardOptions guard;
  guard.keys = {"secret"};
  const Fixture fixture(guard);
  const Reply page = ask(fixture.port(), get("/", "Accept: text/html,*/*;q=0.8\r\n"));
  EXPECT_EQ(page.status, 200) << "without a key, which it asks for itself";
  EXPECT_EQ(page.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.body, std::string(serve::page()));
  const std::string& policy = page.headers.at("content-security-policy");
  EXPECT_TRUE(policy.starts_with("default-src 'none'; script-src 'sha256-")) << policy;
  EXPECT_NE(policy.find("connect-src 'self'"), std::string::npos);
  EXPECT_NE(policy.find("frame-ancestors 'none'"), std::string::npos);
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
  EXPECT_EQ(page.body.find("src=\"http"), std::string::npos);
  const Reply words = ask(fixture.port(), get("/", "Accept: */*\r\n"));
  EXPECT_EQ(words.headers.at("content-type"), "text/plain; charset=utf-8");
  EXPECT_EQ(ask(fixture.port(), get("/coterie/model")).status, 401);
}

TEST(Page, WhatItAsksFor) {
  const Fixture fixture;
  const base::Json model = json_at(fixture, "/coterie/model");
  EXPECT_EQ(model["name"], "fake");
  EXPECT_EQ(model["chat"], true);
  EXPECT_EQ(model["changeable"], false) << "nothing is known of its routers";
  EXPECT_EQ(model["routed_layers"], (base::Json{0, 2}));
  EXPECT_EQ(model["layers"].size(), 3U);
  const base::Json experts = json_at(fixture, "/coterie/experts");
  EXPECT_EQ(experts["layers"], (base::Json{0, 2}));
  EXPECT_EQ(experts["tokens"], (base::Json{{1, 2, 3, 4}, {5, 6, 7, 8}}));
  EXPECT_EQ(experts["places"], (base::Json{{0, 2, 5, 6}, {6, 6, 6, 5}}));
  EXPECT_EQ(experts["place_names"][6], "on the disk");
}

TEST(Page, AnEnsemblesLayersAreItsModels) {
  Fixture fixture;
  fixture.model.gated = {.names = {"sea", "sums"}, .first_layer = {0, 2}};
  fixture.model.gate = "token";
  const base::Json model = json_at(fixture, "/coterie/model");
  EXPECT_EQ(model["family"], "ensemble");
  EXPECT_EQ(model["models"], (base::Json{"sea", "sums"}));
  EXPECT_EQ(model["gate"], "token");
  EXPECT_EQ(model["layers"][1]["model"], 0);
  EXPECT_EQ(model["layers"][2]["model"], 1);
  EXPECT_EQ(model["layers"][2]["number"], 0);
}

TEST(Page, TheLastRequestsAreNobodys) {
  const Fixture fixture;
  for (int i = 0; i < 60; ++i)
    ask(fixture.port(), post("/v1/chat/completions", base::Json{{"messages", kHello}, {"user", "me"}}.dump()));
  ask(fixture.port(), post("/v1/completions", R"({"prompt": 3})"));
  const base::Json live = json_at(fixture, "/coterie/live");
  ASSERT_EQ(live["recent"].size(), 50U);
  EXPECT_EQ(live["recent"][0]["status"], 400) << "the last one first";
  EXPECT_EQ(live["recent"][1]["status"], 200);
  EXPECT_EQ(live["recent"][1]["completion_tokens"], 6);
  for (const char* name : {"peer", "client", "request"}) EXPECT_FALSE(live["recent"][1].contains(name));
  EXPECT_EQ(live["counters"]["generated_tokens"], 11);
}

base::Json routes_of(const base::Json& choice) { return choice["coterie"]["routes"][0]; }

TEST(CoterieField, ExpertsComeWithTheAnswerAndWithItsChunks) {
  const Fixture fixture;
  for (const std::string path : {"/v1/chat/completions", "/v1/completions"}) {
    base::Json body = {{"coterie", {{"experts", true}}}, {"max_tokens", 3}};
    path == "/v1/completions" ? body["prompt"] = "Hi" : body["messages"] = kHello;
    const Reply whole = ask(fixture.port(), post(path, body.dump()));
    ASSERT_EQ(whole.status, 200) << whole.body;
    const base::Json routes = routes_of(base::Json::parse(whole.body)["choices"][0]);
    EXPECT_EQ(routes["first"], 0);
    EXPECT_EQ(routes["positions"], 1);
    EXPECT_EQ(routes["experts"], "AAABAAIA//8=");  // 0 1 2 65535
    EXPECT_EQ(routes["weights"], "ADgANAA8AAA=");  // 0.5 0.25 1 0
    EXPECT_EQ(routes["entropy"], "ADwAOA==");      // 1 0.5
    body["stream"] = true;
    const Reply stream = ask(fixture.port(), post(path, body.dump()));
    size_t pieces = 0;
    for (size_t at = 0; (at = stream.body.find("\"routes\":", at)) != std::string::npos; ++at) ++pieces;
    EXPECT_EQ(pieces, 1U) << "told once: " << stream.body;
  }
  EXPECT_TRUE(fixture.backend.seen().front().tells_routes);
}

TEST(CoterieField, OfAnEnsembleTheModelsOfEachTokenCome) {
  Fixture fixture;
  fixture.model.gated = {.names = {"sea", "sums"}, .first_layer = {0, 3}};
  fixture.model.routed_layers.clear();
  fixture.backend.model_weights = {0.25F, 0.75F};
  const base::Json pair = {0.25, 0.75};
  for (const std::string path : {"/v1/chat/completions", "/v1/completions"}) {
    base::Json body = {{"coterie", {{"experts", true}}}, {"max_tokens", 3}};
    path == "/v1/completions" ? body["prompt"] = "Hi" : body["messages"] = kHello;
    const Reply whole = ask(fixture.port(), post(path, body.dump()));
    ASSERT_EQ(whole.status, 200) << whole.body;
    const base::Json told = base::Json::parse(whole.body)["choices"][0]["coterie"];
    EXPECT_EQ(told["models"], (base::Json{pair, pair, pair}));
    EXPECT_FALSE(told.contains("routes"));
    body["stream"] = true;
    const Reply stream = ask(fixture.port(), post(path, body.dump()));
    size_t pieces = 0;
    for (size_t at = 0; (at = stream.body.find("\"models\":[[0.25,0.75]]", at)) != std::string::npos; ++at) ++pieces;
    EXPECT_EQ(pieces, 3U) << "one a token: " << stream.body;
  }
}

TEST(CoterieField, WhatItChangesGoesToTheRequest) {
  Fixture fixture;
  models::ModelSpec spec;
  spec.family.model_type = "test";
  spec.blocks.resize(3);
  for (const size_t layer : {0U, 2U}) {
    layers::MoeSpec moe;
    moe.router.experts = 4, moe.router.experts_per_token = 2;
    spec.blocks[layer].ffn = moe;
  }
  fixture.model.spec = spec;
  const auto ask_for = [&](const base::Json& field) {
    return ask(fixture.port(),
               post("/v1/chat/completions", base::Json{{"messages", kHello}, {"coterie", field}}.dump()));
  };
  EXPECT_EQ(ask_for({{"silence", {"0:1", "2:0"}}, {"experts_per_token", 1}, {"router", "sample:0.5"}}).status, 200);
  const Request request = fixture.backend.seen().front();
  ASSERT_TRUE(request.routers);
  EXPECT_TRUE(request.routers_draw);
  EXPECT_EQ(request.routers_key.substr(0, 25), "silence 0:1 silence 2:0 e");
  ASSERT_NE(request.routers->rule(2), nullptr);
  EXPECT_EQ(request.routers->rule(2)->experts_per_token, 1);
  EXPECT_EQ(request.routers->rule(1), nullptr);
  const auto fault = [&](const base::Json& field) {
    const Reply reply = ask_for(field);
    EXPECT_EQ(reply.status, 400) << reply.body;
    return base::Json::parse(reply.body)["error"].value("message", "");
  };
  EXPECT_NE(fault({{"silence", {"1:0"}}}).find("layer 1 has no experts"), std::string::npos);
  EXPECT_NE(fault({{"silence", {"0:1", "0:2", "0:3"}}}).find("1 experts left"), std::string::npos);
  EXPECT_NE(fault({{"silence", {"zero"}}}).find("LAYER:EXPERT"), std::string::npos);
  EXPECT_NE(fault({{"experts_per_token", 3}}).find("takes 1 to 2"), std::string::npos);
  EXPECT_NE(fault({{"router", "capacity"}}).find("sample:T"), std::string::npos);
  EXPECT_NE(fault({{"router", "sample:-1"}}).find("sample:T"), std::string::npos);
  EXPECT_NE(fault({{"expert", true}}).find("coterie.expert"), std::string::npos);
  fixture.model.routed_layers.clear();
  EXPECT_NE(fault({{"experts", true}}).find("no layer"), std::string::npos);
}

}  // namespace
}  // namespace coterie::serve::test

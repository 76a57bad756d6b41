#include <gtest/gtest.h>

#include <filesystem>

#include "client.h"
#include "fake_backend.h"
#include "serve/http/exchange.h"
#include "support/temp_folder.h"

namespace coterie::serve::test {
namespace {

using namespace std::chrono_literals;

HttpLimits quick() {
  HttpLimits limits;
  limits.head_time = 300ms;
  limits.body_time = 300ms;
  limits.idle_time = 400ms;
  limits.write_time = 500ms;
  limits.body = 4096;
  return limits;
}

TEST(Http, AConnectionIsKeptForTheNextRequest) {
  const Fixture fixture;
  Client client(fixture.port());
  client.send(get("/health") + get("/v1/models"));
  EXPECT_EQ(read_reply(client).status, 200);
  const Reply second = read_reply(client);
  EXPECT_EQ(second.status, 200);
  EXPECT_NE(second.body.find("\"fake\""), std::string::npos);
  client.send(get("/health", "Connection: close\r\n"));
  EXPECT_EQ(read_reply(client).status, 200);
  EXPECT_TRUE(client.closed());
}

TEST(Http, HeadHasNoBody) {
  const Fixture fixture;
  Client client(fixture.port());
  client.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + get("/health"));
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_TRUE(head.starts_with("HTTP/1.1 200 OK\r\n")) << head;
  EXPECT_EQ(read_reply(client).status, 200);
}

TEST(Http, WhatIsNoRequestIsAnsweredInTheFormOfTheApi) {
  const Fixture fixture({}, quick());
  const auto status = [&](const std::string& bytes) { return ask(fixture.port(), bytes).status; };
  const Reply bad = ask(fixture.port(), "this is not HTTP\r\n\r\n");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(base::Json::parse(bad.body)["error"]["type"], "invalid_request_error");
  EXPECT_EQ(status("GET /" + std::string(20000, 'x') + " HTTP/1.1\r\n\r\n"), 431);
  EXPECT_EQ(status("GET /health HTTP/1.1\r\nX: " + std::string(20000, 'x') + "\r\n\r\n"), 431);
  EXPECT_EQ(status(post("/tokenize", std::string(5000, ' '))), 413);
  EXPECT_EQ(status("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                   "104857600\r\n\r\n"),
            413);
  EXPECT_EQ(status(post("/tokenize", "{}", "Expect: 200-ok\r\n")), 417);
  EXPECT_EQ(status("GET /health HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(status(get("/health")), 200);
}

TEST(Http, ARequestThatStopsInTheMiddleIsTimedOut) {
  const Fixture fixture({}, quick());
  EXPECT_EQ(ask(fixture.port(), "GET /health HTTP/1.1\r\nHo").status, 408);
  EXPECT_EQ(
      ask(fixture.port(),
          "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
          .status,
      408);
  Client silent(fixture.port());
  EXPECT_TRUE(silent.closed(3s));
  Client idle(fixture.port());
  idle.send(get("/health"));
  EXPECT_EQ(read_reply(idle).status, 200);
  EXPECT_TRUE(idle.closed(3s));
}

TEST(Http, BodiesByChunksAndAfterContinue) {
  const Fixture fixture;
  Client chunked(fixture.port());
  chunked.send(
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: "
      "chunked\r\n\r\n"
      "c\r\n{\"content\": \r\n5\r\n\"ab\"}\r\n0\r\n\r\n");
  EXPECT_EQ(base::Json::parse(read_reply(chunked).body)["tokens"], base::Json::array({97, 98}));
  Client waits(fixture.port());
  const std::string body = "{\"content\": \"c\"}";
  waits.send(
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: "
      "100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_TRUE(waits.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
  waits.send(body);
  EXPECT_EQ(read_reply(waits).status, 200);
}

TEST(Http, TheLongestIdleConnectionMakesRoom) {
  HttpLimits limits;
  limits.connections = 8;
  const Fixture fixture({}, limits);
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 40; ++i) idle.push_back(std::make_unique<Client>(fixture.port()));
  EXPECT_EQ(ask(fixture.port(), get("/health")).status, 200);
  EXPECT_TRUE(idle.front()->closed(2s));
}

TEST(Http, AClientThatEndsItsSendingIsStillAnswered) {
  Fixture fixture;
  Client client(fixture.port());
  client.send(post("/v1/completions", R"({"prompt": "a"})"));
  client.end_sending();
  EXPECT_EQ(read_reply(client).status, 200);
  EXPECT_FALSE(fixture.backend.cancelled(1, 10ms));
}

TEST(Http, AnOldClientGetsAStreamWithoutChunks) {
  const Fixture fixture;
  Client client(fixture.port());
  const std::string body = R"({"prompt": "a", "stream": true})";
  client.send("POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::string all = client.read_all();
  EXPECT_EQ(all.find("chunked"), std::string::npos);
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n")) << all;
}

TEST(Http, ASocketInTheFileSystem) {
  const TempFolder folder;
  const std::string path = folder / "socket";
  FakeBackend backend;
  const ServedModel model = fake_model();
  ServiceOptions options;
  options.http.hosts.clear();
  options.http.unix_path = path;
  {
    Service service(model, backend, options);
    service.start();
    Client client(path);
    client.send("GET /health HTTP/1.1\r\n\r\n");  // no Host to check
    EXPECT_EQ(read_reply(client).status, 200);
    EXPECT_THROW(Service(model, backend, options), base::Error);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  folder.write("file", "text");
  options.http.unix_path = folder / "file";
  EXPECT_THROW(Service(model, backend, options), base::Error);
}

TEST(Http, NoHeaderGoesOnInTheNextLine) {
  HttpResponse response;
  response.headers.emplace_back("X-Request-Id", "a\r\nSet-Cookie: b");
  EXPECT_EQ(serialized(response, {}).find("\r\nSet-Cookie"), std::string::npos);
}

TEST(Http, ValuesOfAQuery) {
  HttpRequest request;
  request.query = "a=1&b=x%20y+z&c";
  EXPECT_EQ(request.query_value("a"), "1");
  EXPECT_EQ(request.query_value("b"), "x y z");
  EXPECT_EQ(request.query_value("c"), "");
  EXPECT_FALSE(request.query_value("d"));
}

}  // namespace
}  // namespace coterie::serve::test

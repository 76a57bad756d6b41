#include "serve/api/guard.h"

#include <gtest/gtest.h>

#include "client.h"
#include "fake_backend.h"

namespace coterie::serve::test {
namespace {

int status(const Fixture& fixture, const std::string& path, const std::string& headers) {
  return ask(fixture.port(), "GET " + path + " HTTP/1.1\r\n" + headers + "\r\n").status;
}

TEST(Guard, HostIsAnAddressOrALocalOrAnAllowedName) {
  const Fixture fixture({.keys = {}, .hosts = {"llm.example"}, .origins = {}});
  EXPECT_EQ(status(fixture, "/health", "Host: 127.0.0.1:8080\r\n"), 200);
  EXPECT_EQ(status(fixture, "/health", "Host: [::1]:8080\r\n"), 200);
  EXPECT_EQ(status(fixture, "/health", "Host: LocalHost\r\n"), 200);
  EXPECT_EQ(status(fixture, "/health", "Host: llm.example:80\r\n"), 200);
  EXPECT_EQ(status(fixture, "/health", "Host: evil.example\r\n"), 403);
  EXPECT_EQ(status(fixture, "/health", "Host: 127.evil.example\r\n"), 403);
}

TEST(Guard, PagesOfOtherSitesMayNotAsk) {
  const Fixture fixture({.keys = {}, .hosts = {}, .origins = {"https://good.example"}});
  const std::string host = "Host: localhost:8080\r\n";
  EXPECT_EQ(status(fixture, "/health", host + "Origin: https://evil.example\r\n"), 403);
  EXPECT_EQ(status(fixture, "/health", host + "Origin: null\r\n"), 403);
  EXPECT_EQ(status(fixture, "/health", host + "Origin: http://127.evil.example\r\n"), 403);
  EXPECT_EQ(status(fixture, "/health", host + "Origin: http://localhost:8080\r\n"), 200);
  EXPECT_EQ(status(fixture, "/health", host + "Origin: http://localhost:3000\r\n"), 200);
  Reply reply =
      ask(fixture.port(), "OPTIONS /v1/chat/completions HTTP/1.1\r\n" + host + "Origin: https://good.example\r\n\r\n");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers["access-control-allow-origin"], "https://good.example");
  reply = ask(fixture.port(), "OPTIONS /v1/completions HTTP/1.1\r\n" + host + "Origin: https://evil.example\r\n\r\n");
  EXPECT_EQ(reply.headers.count("access-control-allow-origin"), 0U) << "its browser asks no further";
  reply = ask(fixture.port(), get("/health"));
  EXPECT_EQ(reply.headers.count("access-control-allow-origin"), 0U);
  EXPECT_NE(reply.headers["content-security-policy"].find("frame-ancestors 'none'"), std::string::npos);
}

TEST(Guard, Keys) {
  const Fixture fixture({.keys = {"sesame", "second"}, .hosts = {}, .origins = {}});
  const auto with = [&](const std::string& headers) { return ask(fixture.port(), get("/v1/models", headers)); };
  EXPECT_EQ(with("").status, 401);
  EXPECT_EQ(with("Authorization: Bearer wrong\r\n").status, 401);
  EXPECT_EQ(with("Authorization: Bearer sesame2\r\n").status, 401);
  EXPECT_EQ(with("Authorization: Bearer \r\n").status, 401);
  EXPECT_EQ(with("Authorization: bearer sesame\r\n").status, 200);
  EXPECT_EQ(with("X-Api-Key: second\r\n").status, 200);
  EXPECT_EQ(ask(fixture.port(), get("/health")).status, 200);
  EXPECT_EQ(ask(fixture.port(), get("/nowhere")).status, 401);
  const Reply anthropic = ask(fixture.port(), post("/v1/messages", "{}"));
  EXPECT_EQ(anthropic.status, 401);
  EXPECT_EQ(base::Json::parse(anthropic.body)["error"]["type"], "authentication_error");
  EXPECT_EQ(base::Json::parse(anthropic.body)["type"], "error");
}

TEST(Guard, TheBodyIsJson) {
  const Fixture fixture;
  const std::string form = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n";
  EXPECT_EQ(ask(fixture.port(), form + "Content-Type: text/plain\r\n\r\n{}").status, 415);
  EXPECT_EQ(ask(fixture.port(), form + "\r\n{}").status, 415);
  EXPECT_EQ(ask(fixture.port(), form + "Content-Type: application/json; charset=utf-8\r\n\r\n{}").status, 200);
}

}  // namespace
}  // namespace coterie::serve::test

#include <gtest/gtest.h>

#include "client.h"
#include "fake_backend.h"

namespace coterie::serve::test {
namespace {

using namespace std::chrono_literals;

std::string asks(const char* more = "") { return std::string(R"({"prompt": "a", "max_tokens": 100000)") + more + "}"; }

TEST(Disconnect, IsSeenInAStream) {
  Fixture fixture;
  fixture.backend.endless = true;
  fixture.backend.pace = 5ms;
  Client client(fixture.port());
  client.send(post("/v1/completions", asks(R"(, "stream": true)")));
  EXPECT_NE(client.read_until("\"text\":\"e\"").size(), 0U);
  client.close();
  EXPECT_TRUE(fixture.backend.cancelled(1, 1s));
}

TEST(Disconnect, IsSeenInAPlainRequestAndInOneThatWaits) {
  Fixture fixture;
  fixture.backend.holds = true;
  Client plain(fixture.port()), stream(fixture.port());
  plain.send(post("/v1/completions", asks()));
  stream.send(post("/v1/completions", asks(R"(, "stream": true)")));
  EXPECT_NE(stream.read_until("\r\n\r\n").find("text/event-stream"), std::string::npos);  // at once
  for (int i = 0; i < 100 && fixture.backend.seen().size() < 2; ++i) std::this_thread::sleep_for(10ms);
  plain.close();
  EXPECT_TRUE(fixture.backend.cancelled(1, 1s));
  stream.close();
  EXPECT_TRUE(fixture.backend.cancelled(2, 1s));
}

TEST(Stream, SilenceIsFilledWithPings) {
  Fixture fixture;
  fixture.backend.holds = true;
  Client client(fixture.port());
  client.send(post("/v1/completions", asks(R"(, "stream": true)")));
  const std::string ping = client.read_until(": ping {", 3s);
  EXPECT_TRUE(ping.ends_with(": ping {"));
  EXPECT_NE(client.read_until("}\n\n").find("\"state\":\"queued\""), std::string::npos);
  fixture.backend.release();
  EXPECT_TRUE(client.read_until("[DONE]").ends_with("[DONE]"));
}

TEST(Stream, ASlowReaderPausesAndIsEnded) {
  HttpLimits limits;
  limits.unsent = 20'000;
  limits.write_time = 300ms;
  Fixture fixture({}, limits);
  fixture.backend.endless = true;
  fixture.backend.pace = 2ms;
  Client client(fixture.port(), 4096);
  client.send(post("/v1/completions", asks(R"(, "stream": true, "logprobs": 20)")));
  EXPECT_TRUE(fixture.backend.cancelled(1, 8s));
  EXPECT_GE(fixture.backend.paused, 1);
}

TEST(Stream, AnErrorAfterTheFirstByteIsAnEvent) {
  Fixture fixture;
  fixture.backend.fails = true;
  const Reply reply = ask(fixture.port(), post("/v1/completions", asks(R"(, "stream": true)")));
  EXPECT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("data: {\"error\":{"), std::string::npos);
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  const Reply plain = ask(fixture.port(), post("/v1/completions", asks()));
  EXPECT_EQ(plain.status, 500);
  EXPECT_NE(plain.body.find("not finite"), std::string::npos);
}

TEST(Stop, WhatRunsIsFinishedAndNothingElseIsTaken) {
  Fixture fixture;
  fixture.backend.holds = true;
  Client client(fixture.port()), idle(fixture.port());
  client.send(post("/v1/completions", asks()));
  for (int i = 0; i < 100 && fixture.backend.seen().empty(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_FALSE(fixture.service->idle());
  fixture.service->drain();
  EXPECT_TRUE(idle.closed(2s));
  fixture.backend.release();
  EXPECT_EQ(read_reply(client).status, 200);
  for (int i = 0; i < 100 && !fixture.service->idle(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(fixture.service->idle());
}

TEST(Stop, AServiceThatEndsEndsItsConnections) {
  Fixture fixture;
  fixture.backend.endless = true;
  fixture.backend.pace = 5ms;
  Client client(fixture.port());
  client.send(post("/v1/completions", asks(R"(, "stream": true)")));
  EXPECT_NE(client.read_until("\"text\":\"e\"").size(), 0U);
  fixture.service.reset();
  EXPECT_TRUE(client.closed(2s));
  EXPECT_TRUE(fixture.backend.cancelled(1, 1s));
}

}  // namespace
}  // namespace coterie::serve::test

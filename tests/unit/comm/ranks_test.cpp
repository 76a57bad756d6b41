#include "comm/ranks.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "base/clock.h"
#include "comm/delayed.h"
#include "comm/threads.h"

namespace coterie::comm {
namespace {

/// Runs `body` on each of `size` ranks, a thread each.
void on_each(int size, const std::function<void(Ranks&)>& body, const Wire& wire = {}, const Patience& patience = {}) {
  std::vector<std::jthread> threads;
  for (std::unique_ptr<Communicator>& one : ranks_of_one_process(size)) {
    if (wire.latency > 0) one = delayed(std::move(one), wire);
    threads.emplace_back([&body, &patience, communicator = std::move(one)]() mutable {
      Ranks ranks(std::move(communicator), patience);
      body(ranks);
    });
  }
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const base::Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Ranks, GatherTextsByRank) {
  on_each(4, [](Ranks& ranks) {
    ranks.meet();
    const std::vector<std::string> all = ranks.all_gather(std::string(static_cast<size_t>(ranks.rank()), 'x'));
    ASSERT_EQ(all.size(), 4u);
    for (size_t r = 0; r < 4; ++r) EXPECT_EQ(all[r], std::string(r, 'x'));
    EXPECT_EQ(ranks.describe(2).find("rank 2 ("), 0u) << ranks.describe(2);
    EXPECT_EQ(ranks.traffic().messages, 6);
  });
}

TEST(Ranks, ASumHasOneOrderWhateverArrivesFirst) {
  const auto term = [](int rank, size_t i) {
    return 1e7f / static_cast<float>(1 + rank * 7 + static_cast<int>(i) * 3);
  };
  std::vector<float> expected(5);
  for (size_t i = 0; i < expected.size(); ++i) {
    expected[i] = term(0, i);
    for (int r = 1; r < 4; ++r) expected[i] += term(r, i);
  }
  for (const uint64_t seed : {0, 1, 2})
    on_each(4,
            [&](Ranks& ranks) {
              std::vector<float> values(5);
              for (size_t i = 0; i < values.size(); ++i) values[i] = term(ranks.rank(), i);
              ranks.ordered_sum(values);
              EXPECT_EQ(values, expected);
              std::vector<float> none;
              ranks.ordered_sum(none);
            },
            {.latency = seed == 0 ? 0 : 1e-3, .rate = 1e6, .seed = seed});
}

TEST(Ranks, AWaitEndsAndSaysWhoForWhom) {
  std::vector<std::string> said;
  on_each(3,
          [&](Ranks& ranks) {
            ranks.meet();
            if (ranks.rank() != 0) return;
            const std::string text = message_of([&] { ranks.receive(2, {Kind::outputs, 912, 7}); });
            EXPECT_NE(text.find("rank 2 ("), std::string::npos) << text;
            EXPECT_NE(text.find("has not answered: rank 0 ("), std::string::npos) << text;
            EXPECT_NE(text.find("waits for outputs of experts, layer 7 of step 912"), std::string::npos) << text;
            EXPECT_TRUE(ranks.lost());
          },
          {}, {0.02, 0.05, [&](const std::string& text) { said.push_back(text); }});
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said.front().find("rank 2"), std::string::npos);
}

TEST(Ranks, ARankThatLostTheThreadIsNamedWithItsPlace) {
  on_each(2, [](Ranks& ranks) {
    if (ranks.rank() == 1) return ranks.send(0, Writer(Kind::outputs, 9, 7));
    const std::string text = message_of([&] { ranks.receive(1, {Kind::outputs, 9, 8}); });
    EXPECT_NE(text.find("rank 1 is at layer 7 of step 9"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 0 is at layer 8 of step 9"), std::string::npos) << text;
    EXPECT_FALSE(ranks.lost());
  });
}

TEST(Ranks, AFailureArrivesAsTheErrorItWas) {
  on_each(2, [](Ranks& ranks) {
    if (ranks.rank() == 1)
      return ranks.send_failure(0, base::Error(base::ErrorKind::not_found, "model.gguf", "is not there", "look again"),
                                1);
    try {
      ranks.receive(1, {Kind::rows, 1, 2});
      ADD_FAILURE();
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::not_found);
      EXPECT_EQ(error.hint(), "look again");
      EXPECT_EQ(error.where(), "rank 1: model.gguf");
    }
  });
}

TEST(Ranks, ADelayIsLatencyAndBytesOverRate) {
  on_each(2,
          [](Ranks& ranks) {
            if (ranks.rank() == 1) {
              Writer message(Kind::rows, 1, 0);
              message.room<std::byte>(40'000);  // 20 ms at 2 MB/s
              return ranks.send(0, std::move(message));
            }
            const base::Stopwatch clock;
            ranks.receive(1, {Kind::rows, 1, 0});
            EXPECT_GE(clock.seconds(), 0.025);
            EXPECT_GE(ranks.waited(), 0.025);
          },
          {.latency = 8e-3, .rate = 2e6});
}

TEST(Ranks, MessagesThatAreNoneAreRefused) {
  EXPECT_NE(message_of([] { Message(1, Bytes(8)); }).find("rank 1 sent a message of 8 bytes"), std::string::npos);
  Bytes zeros(40);
  std::memset(zeros.data(), 0, zeros.size());
  EXPECT_NE(message_of([&] { Message(1, std::move(zeros)); }).find("not a message of Coterie"), std::string::npos);
  const auto bytes = [] {
    Writer writer(Kind::rows, 1, 2);
    writer.value<uint64_t>(3);
    return writer.take();
  };
  Message whole(1, bytes());
  EXPECT_EQ(whole.value<uint64_t>(), 3u);
  EXPECT_TRUE(whole.ended());
  EXPECT_NE(message_of([&] { whole.value<uint64_t>(); }).find("ends 8 bytes before"), std::string::npos);
  Bytes cut = bytes();
  cut.resize(cut.size() - 1);
  EXPECT_NE(message_of([&] { Message(1, std::move(cut)); }).find("its header says 8"), std::string::npos);
}

}  // namespace
}  // namespace coterie::comm

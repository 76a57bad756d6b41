#include "serve/prompt_order.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace coterie::serve {
namespace {

PromptCandidate of(std::string_view client, double remaining, double waited = 0, int64_t priority = 0,
                   bool begun = false) {
  return {client, priority, waited, remaining, begun};
}

TEST(PromptOrder, TakesTheShortestOfAClient) {
  const PromptOrder order(30);
  EXPECT_EQ(order.next({}), std::nullopt);
  const PromptCandidate all[] = {of("a", 9), of("a", 3), of("a", 5)};
  EXPECT_EQ(order.next(all), 1U);
}

TEST(PromptOrder, GoesOnWithWhatWasBegunUnlessAnotherIsShorter) {
  const PromptOrder order(30);
  const PromptCandidate longer[] = {of("a", 3, 0, 0, true), of("b", 4)};
  EXPECT_EQ(order.next(longer), 0U);
  const PromptCandidate shorter[] = {of("a", 3, 0, 0, true), of("b", 2)};
  EXPECT_EQ(order.next(shorter), 1U);
}

TEST(PromptOrder, LetsClientsTakeTurns) {
  PromptOrder order(30);
  // "flood" has four short prompts before the other's long one.
  std::vector<PromptCandidate> all(4, of("flood", 1));
  all.push_back(of("other", 8));
  std::string taken;
  while (!all.empty()) {
    const size_t next = order.next(all).value();
    taken += all[next].client[0];
    order.begins(all[next].client);
    all.erase(all.begin() + static_cast<int64_t>(next));
  }
  EXPECT_EQ(taken, "fofff");
}

TEST(PromptOrder, PriorityGoesFirstAndWaitingRaisesIt) {
  const PromptOrder order(30);
  const PromptCandidate urgent[] = {of("a", 1), of("b", 100, 0, 1)};
  EXPECT_EQ(order.next(urgent), 1U);
  const PromptCandidate waited[] = {of("a", 1, 61), of("b", 100, 0, 1)};
  EXPECT_EQ(order.next(waited), 0U);
}

// A stream of short prompts does not keep a long one waiting for ever.
TEST(PromptOrder, WaitingCountsAsSecondsThatAreNotLeft) {
  const PromptOrder order(1000);
  const PromptCandidate early[] = {of("a", 40, 10, 0, true), of("a", 5)};
  EXPECT_EQ(order.next(early), 1U);
  const PromptCandidate late[] = {of("a", 40, 36, 0, true), of("a", 5)};
  EXPECT_EQ(order.next(late), 0U);
}

}  // namespace
}  // namespace coterie::serve

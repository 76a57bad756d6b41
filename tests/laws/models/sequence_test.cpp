#include <rapidcheck.h>

#include "laws/models/bench.h"

// A sequence gives the same bits however it is fed.
namespace coterie::laws {
namespace {

class Sequence : public Law {};

constexpr int64_t kTokens = 37;  // two cache blocks and a piece

TEST_P(Sequence, DecodeEqualsPrefill) {
  const tiny::Model model = model_of(GetParam());
  Runner runner(GetParam(), *model.decoder);
  const std::vector<int32_t> ids = some_ids(kTokens, model.decoder->spec().vocabulary, 1);
  const std::vector<int64_t> one_by_one(kTokens, 1);
  expect_same_bits(runner.pieces(ids, one_by_one), runner.whole(ids), "decode and prefill");
}

TEST_P(Sequence, AnyCutOfThePrompt) {
  const tiny::Model model = model_of(GetParam());
  Runner runner(GetParam(), *model.decoder, 1);
  const std::vector<int32_t> ids = some_ids(kTokens, model.decoder->spec().vocabulary, 2);
  const std::vector<float> whole = runner.whole(ids);
  const bool held = rc::check("any cut of a prompt gives the bits of the whole", [&] {
    std::vector<int64_t> sizes;
    for (int64_t left = kTokens; left > 0; left -= sizes.back())
      sizes.push_back(*rc::gen::inRange<int64_t>(1, left + 1));
    const std::vector<float> cut = runner.pieces(ids, sizes);
    RC_ASSERT(cut == whole);
  });
  EXPECT_TRUE(held);
}

TEST_P(Sequence, AnyNumberOfThreads) {
  const tiny::Model model = model_of(GetParam());
  const std::vector<int32_t> ids = some_ids(kTokens, model.decoder->spec().vocabulary, 3);
  Runner one(GetParam(), *model.decoder, 1);
  const std::vector<float> expected = one.whole(ids);
  for (const int threads : {2, 3}) {
    Runner runner(GetParam(), *model.decoder, threads);
    expect_same_bits(runner.whole(ids), expected, std::to_string(threads) + " threads");
    const std::vector<int64_t> sizes = {20, 1, 1, 15};
    expect_same_bits(runner.pieces(ids, sizes), expected, std::to_string(threads) + " threads, in pieces");
  }
}

// A token that a rolled-back state saw must not be seen again.
TEST_P(Sequence, ForgettingIsAsIfItNeverWas) {
  const tiny::Model model = model_of(GetParam());
  Runner runner(GetParam(), *model.decoder);
  const int64_t vocabulary = model.decoder->spec().vocabulary;
  const std::vector<int32_t> prompt = some_ids(19, vocabulary, 4), wrong = some_ids(14, vocabulary, 5);
  const std::vector<int32_t> right = some_ids(6, vocabulary, 6);
  layers::ResidentState state = runner.state();
  layers::ResidentState* states[] = {&state};
  const auto feed = [&](const std::vector<int32_t>& ids) {
    const std::span<const int32_t> piece[] = {ids};
    return runner.step(piece, states);
  };
  feed(prompt);
  state.remember();
  feed(wrong);
  state.truncate(19);
  const std::vector<float> after = feed(right);
  std::vector<int32_t> both = prompt;
  both.insert(both.end(), right.begin(), right.end());
  const std::vector<float> whole = runner.whole(both);
  expect_same_bits(after, std::span(whole).subspan(static_cast<size_t>(19 * vocabulary)), "after going back");
}

INSTANTIATE_TEST_SUITE_P(Families, Sequence, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, Sequence, testing::ValuesIn(other_cases()), name_of);

}  // namespace
}  // namespace coterie::laws

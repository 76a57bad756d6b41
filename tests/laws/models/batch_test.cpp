#include "laws/models/bench.h"

// A sequence gives the same bits whoever it is batched with.
namespace coterie::laws {
namespace {

class BatchLaw : public Law {};

TEST_P(BatchLaw, ABatchEqualsOneByOne) {
  const tiny::Model model = model_of(GetParam());
  Runner runner(GetParam(), *model.decoder);
  const int64_t vocabulary = model.decoder->spec().vocabulary;
  // Prefill of one beside decode of others, at different positions, twice over.
  const std::vector<int64_t> first = {17, 1, 40, 3}, second = {1, 23, 1, 1};
  std::vector<layers::ResidentState> states;
  for (size_t i = 0; i < first.size(); ++i) states.push_back(runner.state());
  std::vector<layers::ResidentState*> pointers;
  for (layers::ResidentState& state : states) pointers.push_back(&state);
  std::vector<std::vector<int32_t>> ids;
  for (size_t i = 0; i < first.size(); ++i) ids.push_back(some_ids(first[i] + second[i], vocabulary, 10 + i));
  std::vector<std::span<const int32_t>> step1, step2;
  for (size_t i = 0; i < first.size(); ++i) {
    step1.push_back(std::span(ids[i]).first(static_cast<size_t>(first[i])));
    step2.push_back(std::span(ids[i]).subspan(static_cast<size_t>(first[i])));
  }
  const std::vector<float> batch1 = runner.step(step1, pointers), batch2 = runner.step(step2, pointers);
  size_t at1 = 0, at2 = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    const std::vector<float> alone = runner.whole(ids[i]);
    const auto n1 = static_cast<size_t>(first[i] * vocabulary), n2 = static_cast<size_t>(second[i] * vocabulary);
    expect_same_bits(std::span(batch1).subspan(at1, n1), std::span(alone).first(n1), "first step");
    expect_same_bits(std::span(batch2).subspan(at2, n2), std::span(alone).subspan(n1), "second step");
    at1 += n1, at2 += n2;
  }
}

TEST_P(BatchLaw, ANeighboursContentChangesNoBit) {
  const tiny::Model model = model_of(GetParam());
  Runner runner(GetParam(), *model.decoder);
  const int64_t vocabulary = model.decoder->spec().vocabulary;
  const std::vector<int32_t> mine = some_ids(21, vocabulary, 1);
  std::vector<float> expected;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    // The last neighbour repeats one token, so that all of its rows meet in few experts.
    const std::vector<int32_t> other = seed == 3 ? std::vector<int32_t>(30, 5) : some_ids(30, vocabulary, 100 + seed);
    layers::ResidentState a = runner.state(), b = runner.state();
    layers::ResidentState* states[] = {&b, &a};
    const std::span<const int32_t> ids[] = {other, mine};
    const std::vector<float> logits = runner.step(ids, states);
    const std::vector<float> found(logits.begin() + 30 * vocabulary, logits.end());
    if (expected.empty()) expected = found;
    expect_same_bits(found, expected, "beside neighbour " + std::to_string(seed));
  }
}

// Sampled routing is keyed by (key, position, layer): it does not see the batch either.
TEST_P(BatchLaw, SampledRoutersAreReproducible) {
  const tiny::Model base = model_of(GetParam());
  models::ModelSpec spec = base.decoder->spec();
  bool routed = false;
  // SparseMixer's weights are those of its own choice: it is not sampled (phimoe).
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      routed = routed || moe->router.selection != layers::RouterSpec::Selection::sparsemixer;
  if (!routed) return;
  models::apply({.strict = false, .experts_per_token = {}, .router_sample = 1.0f}, spec);
  const auto decoder = models::bind_decoder(spec, *base.source);
  Runner runner(GetParam(), *decoder);
  const std::vector<int32_t> ids = some_ids(24, spec.vocabulary, 1);
  const std::vector<int64_t> cut = {10, 1, 13};
  const std::vector<float> whole = runner.whole(ids);
  expect_same_bits(runner.pieces(ids, cut), whole, "sampled, cut");
  Runner greedy(GetParam(), *base.decoder);
  EXPECT_NE(greedy.whole(ids), whole) << "sampling chose the best experts throughout";
}

INSTANTIATE_TEST_SUITE_P(Families, BatchLaw, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, BatchLaw, testing::ValuesIn(other_cases()), name_of);

}  // namespace
}  // namespace coterie::laws

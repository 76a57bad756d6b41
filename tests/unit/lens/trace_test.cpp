#include "lens/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "families/family.h"
#include "kernels/table.h"
#include "layers/resident_state.h"
#include "lens/silence.h"
#include "lens/study.h"
#include "runtime/engine.h"
#include "support/places.h"
#include "support/temp_folder.h"
#include "tiny_model.h"

namespace coterie::lens {
namespace {

using layers::RouterSpec;

runtime::Engine small() {
  runtime::EngineOptions options;
  options.threads = 2;
  return runtime::Engine(families::open_model(tests::source_folder() + "/../models/coterie-small.gguf"), options);
}

std::vector<int32_t> some(int64_t count, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(rng.below(4000)));
  return ids;
}

std::vector<float> logits_of(runtime::Engine& engine, std::span<const int32_t> ids, int64_t step,
                             layers::Observer* observer, const layers::RouterHook* hook,
                             const std::function<void(std::span<const int32_t>, int64_t)>& after = {}) {
  std::vector<float> result;
  runtime::KvCache cache = engine.make_cache();
  while (cache.length() < std::ssize(ids)) {
    const int64_t first = cache.length();
    const auto piece =
        ids.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(step, std::ssize(ids) - first)));
    const models::SequenceStep one{.ids = piece,
                                   .state = &cache,
                                   .logits = models::SequenceStep::Logits::all,
                                   .length = std::ssize(ids),
                                   .routers = hook};
    const tensor::Matrix logits = engine.evaluate({&one, 1}, {.observer = observer});
    result.insert(result.end(), logits.data, logits.data + logits.rows * logits.cols);
    if (after) after(piece, first);
  }
  return result;
}

struct Traces : testing::Test {
  TempFolder folder;
  runtime::Engine engine = small();
  std::vector<std::vector<int32_t>> sequences = {some(70, 1), some(33, 2)};

  std::vector<float> write(const std::filesystem::path& path, int64_t step) {
    TraceWriter writer(path, router_shape(engine.spec()), 103, {{"text", "none"}});
    std::vector<float> all;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const std::vector<float> logits = logits_of(
          engine, sequences[s], step, &writer.observer(), nullptr,
          [&](std::span<const int32_t> ids, int64_t first) { writer.add(ids, static_cast<int64_t>(s), first); });
      all.insert(all.end(), logits.begin(), logits.end());
    }
    writer.commit();
    return all;
  }
};

TEST_F(Traces, SayWhatTheEnginePlannedAndChangeNoBit) {
  const std::vector<float> traced = write(folder / "t.safetensors", 512);
  std::vector<float> plain;
  ChoiceRecorder recorder(router_shape(engine.spec()));
  Choices seen;
  for (const std::vector<int32_t>& ids : sequences) {
    const std::vector<float> logits = logits_of(engine, ids, 512, nullptr, nullptr);
    plain.insert(plain.end(), logits.begin(), logits.end());
    logits_of(engine, ids, 512, &recorder, nullptr);
  }
  // recorder goes on from step to step until it is cleared
  EXPECT_EQ(traced, plain);
  const Trace trace(folder / "t.safetensors");
  EXPECT_EQ(trace.tokens(), 103);
  EXPECT_EQ(trace.sequence_begin, (std::vector<int64_t>{0, 70, 103}));
  EXPECT_TRUE(std::equal(trace.ids.begin(), trace.ids.begin() + 70, sequences[0].begin()));
  const Choices& choices = recorder.choices();
  EXPECT_TRUE(std::equal(trace.experts.begin(), trace.experts.end(), choices.experts.begin(), choices.experts.end()));
  EXPECT_TRUE(std::equal(trace.weights.begin(), trace.weights.end(), choices.weights.begin(), choices.weights.end()));
  EXPECT_TRUE(std::equal(trace.entropy.begin(), trace.entropy.end(), choices.entropy.begin(), choices.entropy.end()));
  // K experts a token, whose weights sum to 1 in this model.
  const auto choices_of = static_cast<size_t>(trace.shape.choices);
  for (size_t i = 0; i < trace.weights.size(); i += choices_of)
    EXPECT_NEAR(std::accumulate(&trace.weights[i], &trace.weights[i] + choices_of, 0.0), 1, 1e-5);
  // Token by token it is the same file.
  write(folder / "one.safetensors", 1);
  std::ifstream a(folder / "t.safetensors", std::ios::binary), b(folder / "one.safetensors", std::ios::binary);
  EXPECT_TRUE(std::equal(std::istreambuf_iterator<char>(a), {}, std::istreambuf_iterator<char>(b), {}));
}

TEST_F(Traces, ReplayedGiveTheSameLogitsToTheBit) {
  const std::vector<float> traced = write(folder / "t.safetensors", 512);
  const Trace trace(folder / "t.safetensors");
  Replay replay(trace, router_shape(engine.spec()));
  std::vector<float> replayed;
  for (size_t s = 0; s < sequences.size(); ++s) {
    replay.begin(static_cast<int64_t>(s));
    const std::vector<float> logits = logits_of(engine, sequences[s], 16, nullptr, &replay);
    replayed.insert(replayed.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(replayed, traced);
  // Of the other sequence they are other logits: it is the trace that decides.
  replay.begin(1);
  const std::vector<int32_t> first(sequences[0].begin(), sequences[0].begin() + 33);
  const std::vector<float> other = logits_of(engine, first, 64, nullptr, &replay);
  EXPECT_FALSE(std::equal(other.begin(), other.end(), traced.begin()));
}

TEST_F(Traces, AreRefusedWhenTheyLie) {
  write(folder / "t.safetensors", 512);
  std::ifstream in(folder / "t.safetensors", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  const auto with = [&](const std::function<void(std::string&)>& change) {
    std::string changed = whole;
    change(changed);
    std::ofstream(folder / "bad.safetensors", std::ios::binary) << changed;
    EXPECT_THROW(Trace{folder / "bad.safetensors"}, base::Error);
  };
  // The last two bytes are an expert's number, which lies behind all others.
  const auto beyond = static_cast<char>(router_shape(engine.spec()).experts.back());
  with([&](std::string& s) { s[s.size() - 2] = beyond; });
  with([](std::string& s) { s.resize(s.size() - 2); });
  with([](std::string& s) { s.replace(s.find("\"experts\""), 9, "\"experty\""); });
  std::filesystem::remove(folder / "bad.safetensors");
  {
    TraceWriter writer(folder / "half.safetensors", router_shape(engine.spec()), 103, {});
    EXPECT_THROW(writer.commit(), base::Error);
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "half.safetensors"));
  const tiny::Model other = tiny::make("mixtral");
  const Trace trace(folder / "t.safetensors");
  EXPECT_THROW(Replay(trace, router_shape(other.decoder->spec())), base::Error);
  EXPECT_THROW(router_shape(tiny::make("llama").decoder->spec()), base::Error);
}

TEST(ScoreEntropy, IsThatOfTheShares) {
  base::Rng rng(1);
  for (const int64_t width : {2, 7, 16, 64, 257})
    for (const float spread : {0.01f, 1.0f, 30.0f}) {
      std::vector<float> logits;
      for (int64_t e = 0; e < width; ++e) logits.push_back(spread * rng.normal());
      double top = *std::max_element(logits.begin(), logits.end()), sum = 0, along = 0;
      for (const float x : logits) sum += std::exp(x - top), along += std::exp(x - top) * (x - top);
      EXPECT_NEAR(score_entropy(RouterSpec::Score::softmax, logits), std::log(sum) - along / sum, 2e-5);
      double all = 0, entropy = 0;
      for (const float x : logits) all += 1 / (1 + std::exp(-static_cast<double>(x)));
      for (const float x : logits) {
        const double p = 1 / (1 + std::exp(-static_cast<double>(x))) / all;
        entropy -= p > 0 ? p * std::log(p) : 0;
      }
      EXPECT_NEAR(score_entropy(RouterSpec::Score::sigmoid, logits), entropy, 2e-5);
    }
  const std::vector<float> silenced = {0, -INFINITY, 0};
  EXPECT_NEAR(score_entropy(RouterSpec::Score::softmax, silenced), std::log(2), 1e-6);
  EXPECT_NEAR(score_entropy(RouterSpec::Score::sigmoid, silenced), std::log(2), 1e-6);
  EXPECT_NEAR(score_entropy(RouterSpec::Score::sqrt_softplus, silenced), std::log(2), 1e-6);
}

TEST(Silenced, ExpertsAreChecked) {
  const runtime::Engine engine = small();
  const models::ModelSpec& spec = engine.spec();
  const RouterShape shape = router_shape(spec);
  const int64_t first = shape.layers.front(), last = shape.layers.back(), width = shape.experts.front();
  EXPECT_NO_THROW(Silence(spec, {{first, {0, width - 1}}, {last, {3}}}));
  EXPECT_THROW(Silence(spec, {{std::ssize(spec.blocks), {0}}}), base::Error);
  EXPECT_THROW(Silence(spec, {{first, {width}}}), base::Error);
  std::set<int64_t> most;
  for (int64_t e = 0; e < width - shape.choices; ++e) most.insert(e);
  EXPECT_NO_THROW(Silence(spec, {{first, most}}));
  most.insert(width - shape.choices);
  EXPECT_THROW(Silence(spec, {{first, most}}), base::Error) << "one less is left than a token takes";
  ExpertSet experts;
  read_experts("3:7", "--silence", experts);
  read_experts("3:0,12", "--silence", experts);
  EXPECT_EQ(experts, (ExpertSet{{3, {0, 7, 12}}}));
  for (const char* bad : {"", "3", "3:", ":3", "3:x", "3:1,", "-1:2", "3:1:2"})
    EXPECT_THROW(read_experts(bad, "--silence", experts), base::Error) << bad;
}

/// A model whose first layer sends token id to expert id % E: embeddings point there, and router rows read it.
TEST(Study, OfAModelWhoseRouterRowsTakeOneClassEach) {
  base::Json config = tiny::configs().at("mixtral");
  config["num_experts_per_tok"] = 1;
  const models::ModelSpec spec = families::read_config(config, "tiny", true);
  const auto& moe = std::get<layers::MoeSpec>(spec.blocks.front().ffn);
  const int64_t experts = moe.router.experts;
  std::vector<checkpoint::MemoryTensor> tensors = tiny::weights(spec, 1);
  const auto floats = [&](const std::string& name) {
    checkpoint::MemoryTensor& t = tiny::find(tensors, name);
    return std::pair(reinterpret_cast<float*>(t.bytes.data()), t.shape.back());
  };
  const auto [embedding, width] = floats("model.embed_tokens.weight");
  for (int64_t id = 0; id < spec.vocabulary; ++id)
    for (int64_t e = 0; e < experts; ++e) embedding[id * width + e] = id % experts == e ? 1000.0f : 0.0f;
  const auto [router, cols] = floats("model.layers.0.block_sparse_moe.gate.weight");
  std::fill_n(router, experts * cols, 0.0f);
  for (int64_t e = 0; e < experts; ++e) router[e * cols + e] = 10;
  const auto [norm, n] = floats("model.layers.0.post_attention_layernorm.weight");
  std::fill_n(norm, n, 1.0f);
  tiny::Model model = tiny::bind(spec, std::move(tensors));

  Corpus corpus;
  corpus.shape = router_shape(spec);
  base::Rng rng(3);
  threads::Pool pool(2);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  ChoiceRecorder recorder(corpus.shape);
  corpus.documents = {0};
  for (int64_t d = 0; d < 12; ++d) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < 60; ++t)
      ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint32_t>(spec.vocabulary))));
    layers::ResidentState state(models::cache_block_bytes(spec, tensor::DType::f32), tensor::DType::f32,
                                models::state_floats(spec));
    state.reserve(60);
    const models::SequenceStep step{.ids = ids, .state = &state, .logits = models::SequenceStep::Logits::none};
    model.decoder->forward(context, {&step, 1}, {.observer = &recorder});
    arena.reset();
    for (int64_t t = 0; t < 60; ++t) {
      corpus.ids.push_back(ids[static_cast<size_t>(t)]), corpus.position.push_back(static_cast<int32_t>(t));
      corpus.tag.push_back(static_cast<int32_t>(ids[static_cast<size_t>(t)] % experts));
    }
    corpus.documents.push_back(std::ssize(corpus.ids));
    corpus.names.push_back(std::to_string(d)), corpus.genres.push_back(d % 2 ? "odd" : "even");
  }
  for (int64_t e = 0; e < experts; ++e) corpus.tags.push_back("class " + std::to_string(e));
  corpus.choices = recorder.choices();
  corpus.text_of = [](int32_t id) { return std::to_string(id); };
  const base::Json study = lens::study(corpus, pool, {.permutations = 20, .seed = 1, .least = 1});
  const base::Json& told = study["layers"][0]["information"];
  EXPECT_NEAR(told["part of speech"]["nats"].get<double>(), told["part of speech"]["entropy"].get<double>(), 1e-9);
  EXPECT_NEAR(told["token"]["nats"].get<double>(), told["part of speech"]["entropy"].get<double>(), 1e-9)
      << "of a token's id the expert tells its class";
  EXPECT_LT(std::abs(told["genre"]["normalised"].get<double>()), 0.05);
  EXPECT_LT(std::abs(told["position"]["normalised"].get<double>()), 0.05);
  // Class c goes to expert c, and nowhere else.
  for (size_t c = 0; c < static_cast<size_t>(experts); ++c)
    for (size_t e = 0; e < static_cast<size_t>(experts); ++e)
      EXPECT_EQ(study["layers"][0]["classes"]["part of speech"][c][e].get<double>(), c == e ? 1 : 0);
  EXPECT_EQ(study["layers"][0]["vocabulary"]["specialisation"].get<double>(), 1);
  EXPECT_EQ(agreement(corpus.shape, corpus.choices, corpus.choices),
            std::vector<double>(static_cast<size_t>(corpus.shape.count()), 1.0));
}

}  // namespace
}  // namespace coterie::lens

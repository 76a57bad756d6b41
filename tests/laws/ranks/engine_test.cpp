#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "base/rng.h"
#include "comm/error_text.h"
#include "comm/threads.h"
#include "runtime/generation.h"
#include "runtime/ranks/agreement.h"
#include "runtime/ranks/layer_cuts.h"
#include "runtime/ranks/model_ranks.h"
#include "runtime/speculation/speculator.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

// Engines over ranks, as the program runs them: sequences that grow, share their beginning, join and leave have the
// tokens that one rank gives.
namespace coterie::runtime {
namespace {

EngineOptions options_of() {
  EngineOptions options;
  options.threads = 1;
  options.step_tokens = 128;
  return options;
}

families::Model part_of(const std::filesystem::path& path, int rank, int ranks, Split split) {
  families::OpenOptions options;
  if (split == Split::experts)
    options.owns_expert = [placement = comm::Placement{ranks}, rank](int64_t, int64_t expert, int64_t experts) {
      return placement.owns(rank, expert, experts);
    };
  return families::open_model(path, options);
}

class RanksEngine : public testing::TestWithParam<Split> {
 protected:
  static constexpr int kRanks = 3;
  const ModelRanks::Options how{GetParam(), 0, {}};
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("coterie-ranks-" + std::to_string(::getpid()) +
                                                                         "-" + std::string(name(GetParam())) + ".gguf");
  std::unique_ptr<Engine> one, many;
  std::unique_ptr<ModelRanks> model;

  void SetUp() override {
    test::write_tiny_gguf(path, 512, tensor::DType::q8_0);
    one = std::make_unique<Engine>(families::open_model(path), options_of());
    for (auto& communicator : comm::ranks_of_one_process(kRanks))
      ranks_.push_back(std::make_unique<comm::Ranks>(std::move(communicator), comm::Patience{30, 60, {}}));
    for (int r = 1; r < kRanks; ++r)
      others_.emplace_back([this, r] {
        families::Model part = part_of(path, r, kRanks, GetParam());
        const EngineOptions options = options_of_rank(*part.decoder, r);
        Engine engine(std::move(part), options);
        ModelRanks served(*ranks_[static_cast<size_t>(r)], *engine.model().decoder, how);
        engine.move_all_weights();
        engine.serve(served);
      });
    families::Model part = part_of(path, 0, kRanks, GetParam());
    model = std::make_unique<ModelRanks>(*ranks_.front(), *part.decoder, how);
    EngineOptions options = options_of_rank(*part.decoder, 0);
    options.ranks = model.get();
    many = std::make_unique<Engine>(std::move(part), options);
    many->move_all_weights();
  }
  void TearDown() override {
    stop_others(*ranks_.front());
    others_.clear();
    std::filesystem::remove(path);
  }

  EngineOptions options_of_rank(const models::Decoder& decoder, int rank) const {
    EngineOptions options = options_of();
    options.part_of_a_model = true;
    if (GetParam() == Split::rows) options.own.rows = {rank, kRanks, how.least_weights};
    if (GetParam() == Split::layers) {
      const LayerSpan span = cut_layers(decoder, kRanks)[static_cast<size_t>(rank)];
      options.own.first_layer = span.first, options.own.end_layer = span.end, options.own.outside = rank == 0;
    }
    return options;
  }

  std::vector<std::unique_ptr<comm::Ranks>> ranks_;
  std::vector<std::jthread> others_;
};
INSTANTIATE_TEST_SUITE_P(Splits, RanksEngine, testing::Values(Split::experts, Split::rows, Split::layers),
                         [](const auto& split) { return std::string(name(split.param)); });

std::vector<TokenId> ids_of(int64_t length, uint64_t seed) {
  base::Rng rng(seed);
  std::vector<TokenId> ids(static_cast<size_t>(length));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(250));
  return ids;
}

GenerationOptions greedy(int64_t tokens) {
  GenerationOptions options;
  options.sampler.temperature = 0;
  options.max_tokens = tokens;
  options.ignore_end = true;
  return options;
}

std::vector<TokenId> tokens_of(const Generation& generation) {
  return {generation.generated().begin(), generation.generated().end()};
}

/// A conversation of two turns over one cache; the second prompt leaves out the end of what was said.
std::vector<TokenId> two_turns(Engine& engine) {
  TokenCache cache{engine.make_cache(), {}};
  std::vector<TokenId> said = ids_of(200, 1), all;
  for (const int64_t more : {0, 150}) {
    const std::vector<TokenId> next = ids_of(more, 2);
    said.insert(said.end(), next.begin(), next.end());
    Generation generation(engine, std::move(cache), said, greedy(9));
    run(engine, generation, cache);
    const std::vector<TokenId> answer = tokens_of(generation);
    all.insert(all.end(), answer.begin(), answer.end());
    said.insert(said.end(), answer.begin(), answer.end() - 3);
  }
  return all;
}

TEST_P(RanksEngine, SayTheSameInEveryTurn) {
  EXPECT_EQ(two_turns(*many), two_turns(*one));
  EXPECT_EQ(model->divided_steps(), GetParam() == Split::experts ? 2u : 0u);
  EXPECT_GT(model->steps(), model->divided_steps());
}

/// Sequences of which one shares another's beginning, one joins late, and one leaves early.
std::vector<std::vector<TokenId>> together(Engine& engine) {
  Generation first(engine, ids_of(130, 3), greedy(12)), short_one(engine, ids_of(5, 4), greedy(3));
  std::vector<Generation*> all = {&first, &short_one};
  for (int i = 0; i < 3; ++i) step(engine, all);
  Generation forked = first.fork(greedy(8)), late(engine, ids_of(140, 5), greedy(10));
  all.push_back(&forked), all.push_back(&late);
  const auto finished = [](const Generation* one) { return one->finished(); };
  while (!std::all_of(all.begin(), all.end(), finished)) step(engine, all);
  std::vector<std::vector<TokenId>> said;
  for (const Generation* generation : all) said.push_back(tokens_of(*generation));
  return said;
}

TEST_P(RanksEngine, SayTheSameToSequencesThatJoinAndLeave) {
  EXPECT_EQ(together(*many), together(*one));
  EXPECT_EQ(model->divided_steps() >= 2, GetParam() == Split::experts);
}

/// Says what comes half of the time.
class HalfRight final : public Drafter {
 public:
  explicit HalfRight(std::vector<TokenId> text) : text_(std::move(text)) {}
  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler&) override {
    Draft draft;
    for (size_t at = tokens.size(); std::ssize(draft.tokens) < most && at < text_.size(); ++at)
      draft.tokens.push_back(at % 4 == 3 ? 0 : text_[at]);
    return draft;
  }
  bool is_free() const override { return true; }

 private:
  std::vector<TokenId> text_;
};

// Sequences go back after every draft: what other ranks have of them goes on from there.
TEST_P(RanksEngine, SayTheSameWithDraftsThatAreTakenBack) {
  const auto said = [](Engine& engine, std::vector<TokenId> drafted) {
    StepSeconds costs;
    Speculator speculator(std::make_unique<HalfRight>(std::move(drafted)), 3, costs);
    speculator.always(3);
    GenerationOptions options = greedy(24);
    options.speculator = &speculator;
    Generation generation(engine, ids_of(70, 8), options);
    run(engine, generation);
    EXPECT_GT(speculator.statistics().drafted, speculator.statistics().accepted);
    EXPECT_GT(speculator.statistics().accepted, 0);
    return tokens_of(generation);
  };
  Generation plain(*one, ids_of(70, 8), greedy(24));
  run(*one, plain);
  std::vector<TokenId> whole = ids_of(70, 8);
  const std::vector<TokenId> answer = tokens_of(plain);
  whole.insert(whole.end(), answer.begin(), answer.end());
  EXPECT_EQ(said(*many, whole), answer);
}

// The weights that a rank reads are repacked, and no others: the tokens of the other cases were of such.
TEST_P(RanksEngine, RepackTheirOwnWeights) {
  one->move_all_weights();
  constexpr auto kRepacked = static_cast<size_t>(Where::repacked);
  ASSERT_EQ(one->bytes().all()[kRepacked] > 0, many->bytes().all()[kRepacked] > 0);
  EXPECT_EQ(two_turns(*many), two_turns(*one));
}

// Wherever they lie: in the file, repacked or decoded.
TEST_P(RanksEngine, HoldTheDenseWeightsAndTheirOwnExperts) {
  constexpr auto kExperts = static_cast<size_t>(models::Place::experts);
  const WeightBytes whole = weight_bytes(*one->model().decoder);
  const int64_t dense = whole.all_held() - whole.held[kExperts];
  int64_t own = whole.held[kExperts];
  if (GetParam() == Split::experts) {
    const auto& moe = std::get<layers::MoeSpec>(one->spec().blocks.back().ffn);
    const comm::Placement placement{kRanks};
    own = own * placement.end(0, moe.router.experts) / moe.router.experts;
    ASSERT_LT(own, whole.held[kExperts]);
  }
  int64_t held = 0;
  for (const int64_t bytes : many->bytes().all()) held += bytes;
  EXPECT_LE(static_cast<double>(held), 1.05 * static_cast<double>(dense + own));
  EXPECT_GT(held, own);
}

// What a sequence has on other ranks is there when another is made of it, and not sent again where it goes on.
TEST_P(RanksEngine, SendOnlyWhatIsNew) {
  Generation generation(*many, ids_of(300, 9), greedy(12));
  while (generation.statistics().generated_tokens < 4) {
    std::vector<Generation*> all = {&generation};
    step(*many, all);
  }
  const int64_t before = ranks_.front()->traffic().payload_bytes;
  run(*many, generation);
  const int64_t a_token = (ranks_.front()->traffic().payload_bytes - before) / 8;
  EXPECT_LT(a_token, 300 * many->cache().position_bytes() / 4);
}

TEST_P(RanksEngine, RefuseObserversOfWhatOthersCompute) {
  struct Wants final : layers::Observer {
    bool wants_products() const override { return true; }
  } wants;
  KvCache cache = many->make_cache();
  const std::vector<TokenId> ids = ids_of(3, 6);
  const models::SequenceStep step{.ids = ids, .state = &cache};
  expect_error(base::ErrorKind::unsupported, {"other ranks"}, [&] {
    many->evaluate({&step, 1}, {.observer = &wants});
  });
}

/// Each rank's conclusion, or its error.
std::vector<std::string> agreed(const std::function<void(int rank, Introduction&)>& change) {
  std::vector<std::string> results(3);
  {
    std::vector<std::jthread> threads;
    int rank = 0;
    for (auto& communicator : comm::ranks_of_one_process(3))
      threads.emplace_back([&, rank = rank++, one = std::move(communicator)]() mutable {
        comm::Ranks ranks(std::move(one), {10, 20, {}});
        Introduction own{.options = "model.gguf", .files = "f00d", .error = {}, .isas = "avx512 avx2 scalar"};
        change(rank, own);
        try {
          results[static_cast<size_t>(rank)] = agree(ranks, own);
        } catch (const base::Error& error) {
          results[static_cast<size_t>(rank)] = error.what();
        }
      });
  }
  return results;
}

TEST(Agreement, IsOnTheBestInstructionSetThatAllHave) {
  for (const std::string& isa : agreed([](int, Introduction&) {})) EXPECT_EQ(isa, "avx512");
  for (const std::string& isa : agreed([](int rank, Introduction&own) {
         if (rank == 2) own.isas = "avx2 scalar";
       }))
    EXPECT_EQ(isa, "avx2");
}

TEST(Agreement, NamesWhoHasOtherFilesOrOptions) {
  for (const std::string& text : agreed([](int rank, Introduction&own) {
         if (rank == 1) own.files = "beef";
       }))
    EXPECT_NE(text.find("rank 1: has opened a model with the fingerprint \"beef\", rank 0 \"f00d\""), std::string::npos)
        << text;
  for (const std::string& text : agreed([](int rank, Introduction&own) {
         if (rank == 2) own.options = "other.gguf";
       }))
    EXPECT_NE(text.find("rank 2: was started with \"other.gguf\""), std::string::npos) << text;
}

TEST(Agreement, ReportsTheFirstErrorByName) {
  const std::vector<std::string> texts = agreed([](int rank, Introduction& own) {
    if (rank > 0) own.error = comm::error_text(base::Error(base::ErrorKind::not_found, "m.gguf", "is not there"));
  });
  EXPECT_NE(texts[0].find("rank 1: m.gguf: is not there"), std::string::npos) << texts[0];
  EXPECT_EQ(texts[1].find("rank 1"), std::string::npos) << "its own error needs no name: " << texts[1];
}

}  // namespace
}  // namespace coterie::runtime

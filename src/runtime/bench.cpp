#include "runtime/bench.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/function_ref.h"
#include "base/median.h"
#include "base/memory.h"
#include "base/plural.h"
#include "base/rng.h"
#include "lens/experts_read.h"
#include "lens/route_feed.h"
#include "models/account.h"
#include "runtime/memory_plan.h"
#include "runtime/speculation/speculator.h"
#include "runtime/weight_bytes.h"

namespace coterie::runtime {

namespace {

using models::Place;
using Logits = models::SequenceStep::Logits;

int64_t draft_states(const Engine& engine, const BenchOptions& options) {
  return options.batch * options.drafted * engine.cache().state.bytes();
}

void check(const Engine& engine, const BenchOptions& options) {
  const auto at_least = [](std::string_view option, int64_t value, int64_t least) {
    if (value < least) base::fail(base::ErrorKind::bad_input, option, "is {}, expected at least {}", value, least);
  };
  at_least("bench.prompt", options.prompt, 0);
  at_least("bench.generate", options.generate, 0);
  at_least("bench.depth", options.depth, 0);
  at_least("bench.batch", options.batch, 1);
  at_least("bench.repeat", options.repeat, 1);
  at_least("bench.drafted", options.drafted, 0);
  if (!(options.acceptance >= 0 && options.acceptance <= 1))
    base::fail(base::ErrorKind::bad_input, "bench.acceptance", "is {}, expected 0 to 1", options.acceptance);
  if (options.drafted > 0) {
    require_speculable(*engine.model().decoder);
    if (options.generate == 0)
      base::fail(base::ErrorKind::bad_input, "bench.drafted", "is {} beside `bench.generate` 0: drafts are of decoding",
                 options.drafted);
    if (const int64_t copies = draft_states(engine, options); copies > 0)
      base::require_memory(copies, "copies of the recurrent states for drafted tokens",
                           "fewer drafted tokens need less");
  }
  if (options.prompt + options.generate == 0)
    base::fail(base::ErrorKind::bad_input, "bench", "`bench.prompt` 0 and `bench.generate` 0 leave nothing to measure");
  const bool by_prompt = options.prompt >= options.generate;
  const int64_t added = by_prompt ? options.prompt : options.generate, context = engine.context_size();
  if (options.depth > context - added) {
    const std::string tokens =
        by_prompt ? base::plural(added, "token") + " of prompt" : base::plural(added, "token") + " generated";
    throw base::Error(base::ErrorKind::bad_input,
                      options.depth > 0 ? "bench.depth"
                      : by_prompt       ? "bench.prompt"
                                        : "bench.generate",
                      options.depth > 0
                          ? fmt::format("{} and {} do not fit in the context of {}", options.depth, tokens, context)
                          : fmt::format("{} do not fit in the context of {}", tokens, context),
                      "ask for fewer, or for a longer `context` where the model has one");
  }
  const int64_t longest = options.depth + added + options.drafted;
  constexpr int64_t kMost = int64_t{1} << 40;  // of tokens: far above any memory, far below overflow
  if (options.batch > kMost / (longest + ops::kCacheBlock))
    base::fail(base::ErrorKind::bad_input, "bench.batch", "{} sequences of {} tokens are more than any machine holds",
               options.batch, longest);
  if (longest > context)
    base::fail(base::ErrorKind::bad_input, "bench.drafted",
               "{} drafted after {} tokens do not fit in the context of {}", options.drafted, options.depth + added,
               context);
  const int64_t whole_pages = (longest + ops::kCacheBlock - 1) / ops::kCacheBlock * ops::kCacheBlock;
  engine.require_cache(options.batch * whole_pages);
  // Decoding computes a row of logits for each sequence of the batch.
  if (options.generate > 0)
    base::require_memory(scratch_bytes(engine.spec(), options.batch * (1 + options.drafted),
                                       options.batch * (1 + options.drafted), engine.threads()),
                         fmt::format("a decode step of {}", base::plural(options.batch, "sequence")),
                         "a smaller `bench.batch` needs less");
}

/// Tokens a second, from the slowest round to the fastest, of `tokens` tokens a round.
Spread spread_of(double tokens, const std::vector<double>& seconds) {
  const auto [fastest, slowest] = std::minmax_element(seconds.begin(), seconds.end());
  return {tokens / *slowest, tokens / *fastest};
}

// Multiply-adds of attention for a token that sees `seen` positions, two operations each.
double attention_flops(const models::ModelSpec& spec, double seen) {
  double flops = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* attention = models::attention_of(spec, block)) {
      const double positions = attention->window > 0 ? std::min(seen, static_cast<double>(attention->window)) : seen;
      flops += 2 * positions * static_cast<double>(attention->heads * (attention->head_dim + attention->value_dim));
    } else if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer)) {
      flops += 2 * seen * static_cast<double>(latent->heads * (2 * latent->kv_rank + latent->rope_dim));
    }
  return flops;
}

// Operations a token of a prompt of `prompt` tokens, of which only the last is multiplied by the head.
double matmul_flops(const models::ModelSpec& spec, int64_t prompt) {
  const models::Account account = models::account(spec);
  const auto active = [&](Place place) { return static_cast<double>(account.active[static_cast<size_t>(place)]); };
  const double head = active(spec.tied_embeddings ? Place::input_embeddings : Place::output_embeddings);
  const double others = static_cast<double>(account.total_active()) - active(Place::input_embeddings) -
                        active(Place::output_embeddings) - active(Place::norms);
  return 2 * (others + head / static_cast<double>(prompt));
}

// A measurement of more than kLong seconds is foretold, once kSlow seconds of it have shown how fast it goes.
constexpr double kSlow = 3, kLong = 60;

class Run {
 public:
  Run(Engine& engine, const BenchOptions& options) : engine_(engine), options_(options), rng_(options.seed) {
    for (int64_t i = 0; i < options.batch; ++i) caches_.push_back(engine.make_cache());
    if (!options.routes) return;
    const lens::RouterShape routers = lens::router_shape(engine.spec());
    for (int64_t i = 0; i < options.batch; ++i) {
      feeds_.emplace_back(*options.routes, routers, options.recall);
      fed_.push_back(i * options.routes->tokens() / options.batch);
    }
  }

  /// Called once, with the sequences that are done and the seconds they took, when a round takes long.
  std::function<void(int64_t done, double seconds)> on_slow;

  void fill(int64_t depth) {
    for (size_t i = 0; i < caches_.size(); ++i) {
      KvCache& cache = caches_[i];
      cache.truncate(std::min(depth, cache.length()));
      while (cache.length() < depth) {
        const auto ids = random_ids(std::min(engine_.step_tokens(), depth - cache.length()));
        const models::SequenceStep step{
            .ids = ids, .state = &cache, .logits = Logits::none, .routers = routers_of(i, std::ssize(ids))};
        engine_.evaluate({&step, 1});
      }
      cache.remember();
    }
  }

  double prefill() {
    fill(options_.depth);
    const base::Stopwatch clock;
    int64_t done = 0;
    for (size_t i = 0; i < caches_.size(); ++i) {
      if (on_slow && done > 0 && clock.seconds() > kSlow) std::exchange(on_slow, {})(done, clock.seconds());
      ++done;
      for (int64_t left = options_.prompt; left > 0;) {
        const auto ids = random_ids(std::min(engine_.prompt_tokens(), left));
        left -= static_cast<int64_t>(ids.size());
        const models::SequenceStep step{.ids = ids,
                                        .state = &caches_[i],
                                        .logits = left == 0 ? Logits::last : Logits::none,
                                        .routers = routers_of(i, std::ssize(ids))};
        engine_.evaluate({&step, 1});
      }
    }
    return clock.seconds();
  }

  double decode(layers::Observer* observer) {
    fill(options_.depth);
    const base::Stopwatch clock;
    for (int64_t step = 0; step < options_.generate; ++step) {
      const auto ids = random_ids(options_.batch);
      std::vector<models::SequenceStep> steps;
      for (size_t i = 0; i < caches_.size(); ++i)
        steps.push_back({.ids = std::span(ids).subspan(i, 1), .state = &caches_[i], .routers = routers_of(i, 1)});
      engine_.evaluate(steps, {.observer = observer});
    }
    return clock.seconds();
  }

  /// Seconds and tokens of steps that draft `drafted` tokens of each sequence, until each has the tokens asked for.
  std::pair<double, int64_t> speculate(int64_t drafted, int64_t& steps) {
    fill(options_.depth);
    base::Rng chance(options_.seed, 1);  // the same each round
    std::vector<int64_t> made(caches_.size());
    const base::Stopwatch clock;
    for (steps = 0; *std::min_element(made.begin(), made.end()) < options_.generate; ++steps) {
      const int64_t rows = 1 + drafted;
      const auto ids = random_ids(options_.batch * rows);
      std::vector<models::SequenceStep> batch;
      for (size_t i = 0; i < caches_.size(); ++i) {
        caches_[i].make_room(rows);
        caches_[i].try_rows(rows);
        batch.push_back({.ids = std::span(ids).subspan(i * static_cast<size_t>(rows), static_cast<size_t>(rows)),
                         .state = &caches_[i],
                         .logits = Logits::all,
                         .routers = routers_of(i, rows)});
      }
      engine_.evaluate(batch);
      for (size_t i = 0; i < caches_.size(); ++i) {
        int64_t accepted = 0;
        while (accepted < drafted && chance.uniform_double() < options_.acceptance) ++accepted;
        caches_[i].settle(caches_[i].length() - drafted + accepted);
        if (!fed_.empty()) fed_[i] -= drafted - accepted;
        made[i] += 1 + accepted;
      }
    }
    int64_t all = 0;
    for (const int64_t tokens : made) all += tokens;
    return {clock.seconds(), all};
  }

 private:
  /// For the next `count` tokens of a sequence.
  const layers::RouterHook* routers_of(size_t sequence, int64_t count) {
    if (feeds_.empty()) return nullptr;
    feeds_[sequence].start(caches_[sequence].length(), fed_[sequence]);
    fed_[sequence] += count;
    return &feeds_[sequence];
  }

  std::vector<int32_t> random_ids(int64_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng_.below(static_cast<uint32_t>(engine_.spec().vocabulary)));
    return ids;
  }

  Engine& engine_;
  const BenchOptions& options_;
  base::Rng rng_;
  std::vector<KvCache> caches_;
  std::vector<lens::RouteFeed> feeds_;  // one a sequence, or none
  std::vector<int64_t> fed_;            // tokens of the routes that each has been given
};

/// Seconds of each round that counts. The first does not: pages come in, scratch grows, and weights are moved after
/// it.
std::vector<double> rounds(Engine& engine, const BenchOptions& options, std::string_view what,
                           base::FunctionRef<double()> round) {
  std::vector<double> seconds;
  for (int64_t i = 0; i <= options.repeat; ++i) {
    if (options.on_progress) options.on_progress(fmt::format("{}, round {} of {}", what, i, options.repeat));
    const double taken = round();
    if (i > 0) seconds.push_back(taken);
    if (i == 0) engine.move_all_weights();
  }
  return seconds;
}

void account_decode(const Engine& engine, const BenchOptions& options, double expert_share, BenchResult& result) {
  result.weight_bytes_per_step = weight_bytes(*engine.model().decoder).touched_with(expert_share);
  const int64_t mean_length = options.depth + (options.generate + 1) / 2;
  // Keys and values are read; recurrent states are read and written.
  result.cache_bytes_per_step =
      options.batch * (mean_length * engine.cache().position_bytes() + 2 * engine.cache().state.bytes());
  result.bytes_per_token = static_cast<double>(result.weight_bytes_per_step + result.cache_bytes_per_step) /
                           static_cast<double>(options.batch);
}

}  // namespace

double SpeculatedDecode::gain(double acceptance, double plain) const {
  return step_seconds > 0 ? tokens_of_step(drafted, acceptance) * plain / step_seconds : 0;
}

double bandwidth_share(const BenchResult& result, const MachineLimits& machine) {
  if (machine.read_bytes_per_second <= 0) return 0;
  return result.bytes_per_token * result.decode_tokens_per_second / machine.read_bytes_per_second;
}

double flops_share(const BenchResult& result, const MachineLimits& machine) {
  const double peak = result.products == Engine::Products::tiles  ? machine.tile_ops
                      : result.products == Engine::Products::int8 ? machine.int8_ops
                                                                  : machine.f32_flops;
  return peak > 0 ? result.flops_per_token * result.prefill_tokens_per_second / peak : 0;
}

BenchResult bench(Engine& engine, const BenchOptions& options) {
  check(engine, options);
  Run run(engine, options);
  const auto rounds_of = static_cast<double>(options.repeat + 1);
  run.on_slow = [&](int64_t done, double seconds) {
    const double whole = seconds / static_cast<double>(done) * static_cast<double>(options.batch) * rounds_of;
    if (options.on_long && whole > kLong) options.on_long(whole);
  };
  BenchResult result;
  result.draft_states = draft_states(engine, options);
  if (options.prompt > 0) {
    const std::vector<double> seconds = rounds(engine, options, "prefill", [&] { return run.prefill(); });
    const double tokens = static_cast<double>(options.batch * options.prompt);
    result.prefill_seconds = base::median(seconds);
    result.prefill_tokens_per_second = tokens / result.prefill_seconds;
    result.prefill_spread = spread_of(tokens, seconds);
    result.flops_per_token = matmul_flops(engine.spec(), options.prompt) +
                             attention_flops(engine.spec(), static_cast<double>(options.depth) +
                                                                static_cast<double>(options.prompt + 1) / 2);
    result.products = engine.products();
  }
  if (options.generate > 0) {
    lens::ExpertsRead experts;
    const std::vector<double> seconds = rounds(engine, options, "decode", [&] { return run.decode(&experts); });
    const double tokens = static_cast<double>(options.batch * options.generate);
    result.decode_seconds = base::median(seconds);
    result.decode_tokens_per_second = tokens / result.decode_seconds;
    result.decode_spread = spread_of(tokens, seconds);
    account_decode(engine, options, experts.share(), result);
    result.plain_step_seconds = result.decode_seconds / static_cast<double>(options.generate);
  }
  for (int64_t drafted = 1; drafted <= options.drafted; ++drafted) {
    std::vector<double> of_step, rates;
    for (int64_t i = 0; i < options.repeat; ++i) {
      if (options.on_progress)
        options.on_progress(fmt::format("drafts of {}, round {} of {}", drafted, i + 1, options.repeat));
      int64_t steps = 0;
      const auto [taken, tokens] = run.speculate(drafted, steps);
      of_step.push_back(taken / static_cast<double>(steps));
      rates.push_back(static_cast<double>(tokens) / taken);
    }
    result.speculated.push_back({drafted, base::median(of_step), base::median(rates)});
  }
  result.peak_resident_bytes = base::peak_resident_memory();
  return result;
}

}  // namespace coterie::runtime

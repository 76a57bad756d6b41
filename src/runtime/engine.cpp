#include "runtime/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "kernels/table.h"
#include "quant/codec.h"
#include "runtime/memory_plan.h"
#include "runtime/ranks/model_ranks.h"
#include "runtime/walk.h"
#include "runtime/weight_bytes.h"

namespace coterie::runtime {

namespace {

constexpr double kNow = std::numeric_limits<double>::infinity();  // of advance()

int64_t checked_context(const models::Decoder& decoder, int64_t context) {
  const models::ModelSpec& spec = decoder.spec();
  if (context < 0) base::fail(base::ErrorKind::bad_input, "context", "is {}, expected at least 1", context);
  if (spec.context > 0 && context > spec.context && !models::grows_with_length(decoder))
    throw base::Error(
        base::ErrorKind::bad_input, "context",
        fmt::format("{} positions, but the model was made for {}", context, spec.context),
        "its positions beyond that were never trained; `rope.scaling` yarn (or linear, dynamic) stretches "
        "those that were");
  return context > 0 ? context : spec.context;
}

int64_t checked_cache_bytes(const EngineOptions& options) {
  if (options.cache_bytes < 0)
    base::fail(base::ErrorKind::bad_input, "cache bytes", "are {}, expected at least 0", options.cache_bytes);
  return options.cache_bytes;
}

tensor::DType cache_type(const EngineOptions& options) {
  if (options.cache_type) return *options.cache_type;
  return options.precision == ops::Precision::f32 ? tensor::DType::f32 : tensor::DType::f16;
}

CacheShape shape_of(const models::ModelSpec& spec, const EngineOptions& options) {
  if (options.snapshot_interval < 1 || options.snapshots < 0)
    base::fail(base::ErrorKind::bad_input, "snapshots", "{} of them, every {} positions", options.snapshots,
               options.snapshot_interval);
  CacheShape shape = cache_shape(spec, cache_type(options));
  shape.state.interval = options.snapshot_interval, shape.state.most = options.snapshots;
  shape.state.drafted = options.drafted;
  return shape;
}

}  // namespace

Engine::Engine(families::Model model, const EngineOptions& options)
    : model_(std::move(model)),
      options_(options),
      context_size_(checked_context(*model_.decoder, options.context)),
      pool_(options.threads),
      context_{pool_, kernels::select(), arena_, options.precision},
      cache_shape_(std::make_shared<CacheShape>(shape_of(spec(), options))),
      pages_(std::make_shared<PagePool>(cache_shape_->page_bytes(), checked_cache_bytes(options_))) {
  release_freed_memory();
  if (options_.step_tokens < 1)
    base::fail(base::ErrorKind::bad_input, "step tokens", "is {}, expected at least 1", options_.step_tokens);
  const int64_t step = std::min(options_.step_tokens, context_size_);
  const int64_t scratch = scratch_bytes(spec(), step, 1, threads());
  // A context that nobody asked for is the model's limit, not a promise: its cache grows as far as it can.
  const int64_t cache = options.context > 0 ? cache_bytes(*cache_shape_, options.context) : 0;
  base::require_memory(scratch + cache,
                       cache > 0
                           ? fmt::format("scratch of {} tokens and KV cache of {} positions", step, options.context)
                           : fmt::format("scratch of {} tokens", step),
                       "a smaller `context` needs less");
  const int64_t positions = options.context > 0 ? context_size_
                                                : planned_positions(memory_budget(options.memory).bytes,
                                                                    cache_shape_->position_bytes(), context_size_);
  bytes_ = std::make_unique<ModelBytes>(
      model_, pool_, context_.kernels.matmul,
      ModelBytes::Options{
          .move = options_.move_weights,
          .repack = options_.precision == ops::Precision::fast,
          .part_of_a_model = options_.part_of_a_model,
          .own = options_.own,
          .memory = options_.memory,
          .one_of_several = options_.one_of_several,
          .expert_memory = options_.expert_memory,
          .cache = options_.cache_bytes > 0 ? options_.cache_bytes : cache_bytes(*cache_shape_, positions),
          .scratch = scratch,
          .step_tokens = step,
          .positions = positions,
          .reader = options_.disk_reader,
          .look_ahead = options_.look_ahead,
          .make_reader = options_.make_reader});
  if (const std::string note = bytes_->note(); options_.on_note && !note.empty()) options_.on_note(note);
  prompt_tokens_ = std::min(bytes_->prompt_tokens(), context_size_);
  if (bytes_->store() && options_.cache_bytes == 0 && options_.context == 0 && options_.expert_memory == 0) {
    // The rest of the memory is the experts': a context that nobody asked for is as long as was planned for.
    context_size_ = positions;
    pages_ = std::make_shared<PagePool>(cache_shape_->page_bytes(), cache_bytes(*cache_shape_, positions));
  }
  // Smaller models are read from the caches, where the ways of walking weights do not differ: nothing is measured for
  // them.
  constexpr int64_t kLarge = 64 << 20;
  if (const auto forced = forced_walk())
    context_.read_ahead = *forced;
  else if (bytes_->repacks() && !bytes_->store() && model_.source->file_bytes() >= kLarge)
    context_.read_ahead = walk_of_this_machine(pool_, context_.kernels).read_ahead;
}

Engine::~Engine() = default;

const text::Tokenizer& Engine::tokenizer() const {
  if (!model_.tokenizer)
    throw base::Error(base::ErrorKind::unsupported, model_.no_tokenizer.empty() ? model_.name : "",
                      model_.no_tokenizer.empty() ? "the model came without a tokenizer" : model_.no_tokenizer,
                      "text needs the tokenizer the model was trained with: tokenizer.json beside its config.json");
  return *model_.tokenizer;
}

KvCache Engine::make_cache() const { return KvCache(cache_shape_, pages_); }

void Engine::check_ids(std::span<const int32_t> ids) const {
  const int64_t vocabulary = spec().vocabulary;
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocabulary)
      base::fail(base::ErrorKind::bad_input, "token ids", "id {} at position {} is outside of the vocabulary of {}",
                 ids[i], i, vocabulary);
}

void Engine::require_cache(int64_t positions) const {
  pages_->require((positions + ops::kCacheBlock - 1) / ops::kCacheBlock);
}

tensor::Matrix Engine::evaluate(std::span<const models::SequenceStep> given, const layers::PassOptions& pass) {
  if (options_.ranks && pass.observer && (pass.observer->wants_products() || pass.observer->wants_expert_outputs()))
    throw base::Error(base::ErrorKind::unsupported, "experts",
                      "what each expert reads and gives cannot be observed where other ranks compute some of them",
                      "run it on one rank");
  std::vector<models::SequenceStep> steps(given.begin(), given.end());
  std::vector<char> left(steps.size());
  std::vector<std::function<bool(int64_t)>> leaves(steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const int64_t length = steps[i].state->length() + std::ssize(steps[i].ids);
    if (length > context_size_)
      base::fail(base::ErrorKind::bad_input, "context", "{} positions do not fit in a context of {}", length,
                 context_size_);
    if (!given[i].leaves) continue;
    leaves[i] = [&, i](int64_t layer) { return left[i] = left[i] || (*given[i].leaves)(layer); };
    steps[i].leaves = &leaves[i];
  }
  for (const models::SequenceStep& step : steps) step.state->make_room(std::ssize(step.ids));

  layers::PassOptions with = pass;
  if (ExpertStore* const store = bytes_->store(); store && !with.experts) {
    ExpertStore::Step of;
    for (const models::SequenceStep& step : steps) {
      const int64_t begin = of.tokens;
      of.tokens += std::ssize(step.ids);
      of.prompt |= std::ssize(step.ids) >= kPromptTokens;
      if (step.logits != models::SequenceStep::Logits::none)
        of.warm.emplace_back(std::max(begin, of.tokens - kWarmTokens), of.tokens);
    }
    if (of.tokens > options_.step_tokens) of.rows_at_once = options_.step_tokens;
    store->begin_step(std::move(of));
    with.experts = store;
  }
  arena_.reset();
  const base::Stopwatch clock;
  tensor::Matrix logits;
  try {
    logits = options_.ranks ? options_.ranks->forward(context_, steps, with)
                            : model_.decoder->forward(context_, steps, with);
  } catch (...) {
    for (const models::SequenceStep& step : steps) step.state->abandon();
    throw;
  }
  if (with.experts == bytes_->store() && with.experts) bytes_->store()->end_step();
  for (size_t i = 0; i < steps.size(); ++i)
    left[i] ? steps[i].state->abandon() : steps[i].state->advance(std::ssize(steps[i].ids));
  // A quarter as long again as the step took, until all is moved.
  bytes_->advance(clock.seconds() / 4);
  return logits;
}

void Engine::serve(ModelRanks& ranks) {
  ranks.serve(
      context_, [this](double seconds) { bytes_->advance(seconds / 4); },
      [this](double seconds) { bytes_->advance(seconds, true); });
}

void Engine::move_all_weights() {
  if (options_.ranks) options_.ranks->move_others(kNow);
  bytes_->advance(kNow, true);
}

bool Engine::move_weights(double seconds) {
  if (options_.ranks) options_.ranks->move_others(seconds);
  return bytes_->advance(seconds, true);
}

Engine::Products Engine::products() const {
  int64_t blocks = 0, tiles = 0, all = 0;
  for (const checkpoint::TensorInfo& tensor : model_.source->tensors()) {
    const int64_t bytes = static_cast<int64_t>(tensor.bytes.size());
    all += bytes;
    if (!tensor::is_block(tensor.dtype) || quant::is_scaled(tensor.dtype)) continue;
    blocks += bytes;
    if (context_.kernels.matmul.fast[static_cast<size_t>(tensor.dtype)].tiles_from > 0) tiles += bytes;
  }
  if (context_.precision != ops::Precision::fast || 2 * blocks <= all) return Products::f32;
  return 2 * tiles > all ? Products::tiles : Products::int8;
}

}  // namespace coterie::runtime

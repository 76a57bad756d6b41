#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "families/open.h"
#include "ops/context.h"
#include "runtime/kv_cache.h"
#include "runtime/model_bytes.h"
#include "runtime/own_weights.h"
#include "tensor/arena.h"
#include "threads/pool.h"

namespace coterie::runtime {

class ModelRanks;

struct EngineOptions {
  int threads = 0;  // 0 = one for each physical core this process may use
  ops::Precision precision = ops::Precision::fast;
  std::optional<tensor::DType> cache_type;  // none: f16, or f32 under Precision::f32
  int64_t context = 0;                      // positions a sequence may have; 0 = as many as the model was made for
  int64_t step_tokens = 512;                // tokens that one step evaluates at most
  int64_t cache_bytes = 0;                  // of the pages of all sequences' caches; 0 = what the machine has
  // While there is memory to spare, weights are repacked for the kernels, and what cannot be moves to large pages.
  bool move_weights = true;
  // Bytes that the process may have resident; 0 = what the machine, or its cgroup, has. Where the weights are more,
  // routed experts are read from the disk as they are needed (expert_store/expert_store.h).
  int64_t memory = 0;
  // The process runs other models too, each with a `memory` of its own: what it holds for them is none of this one's.
  bool one_of_several = false;
  // Above 0: experts are read as they are needed into so much memory, whether or not they would fit.
  int64_t expert_memory = 0;
  DiskReader disk_reader = DiskReader::threads;
  // Whether they are read before the layer that wants them is reached, as its router guesses; changes no result.
  LookAhead look_ahead = LookAhead::automatic;
  std::function<std::unique_ptr<BlockReader>(const FileTable& files)> make_reader = {};  // for tests
  // Is told, once, what whoever waits for the model should know: that and how experts are read from the disk.
  std::function<void(const std::string& note)> on_note = {};
  // For models with recurrent states: positions between snapshots of them, and how many a sequence keeps. They are
  // what going back to an earlier position costs nothing by.
  int64_t snapshot_interval = 1024, snapshots = 8;
  // Tokens that a step may draft of a sequence (Speculator): such models keep a copy of their states for each.
  int64_t drafted = 0;
  // Evaluates steps over several ranks, in the place of the decoder; must outlive the engine. Null: there are no
  // others.
  ModelRanks* ranks = nullptr;
  // Whether experts of the model are bound on other ranks alone: no more is repacked than what is here.
  bool part_of_a_model = false;
  // Which weights this process reads, where several ranks divide them: Split::rows, Split::layers.
  OwnWeights own = {};
};

/// A model with what running it needs: threads, kernels, scratch and the pool of cache pages. Used by one thread at a
/// time; several engines may live in one process.
class Engine {
 public:
  /// Throws bad_input for a context the model was not made for, out_of_memory when scratch, or the cache of an
  /// explicitly chosen context, does not fit.
  Engine(families::Model model, const EngineOptions& options);
  ~Engine();

  const families::Model& model() const { return model_; }
  const models::ModelSpec& spec() const { return model_.decoder->spec(); }
  /// Throws unsupported when the model came without one.
  const text::Tokenizer& tokenizer() const;
  int64_t context_size() const { return context_size_; }
  int64_t step_tokens() const { return options_.step_tokens; }
  /// Tokens of a prompt that a step of one sequence may have, where nobody looks on: step_tokens(), or more where
  /// experts are read as they are needed and there is room for what a layer reads. Then each block takes all of them,
  /// step_tokens() at a time, before the next begins, so that a missing expert is read once.
  int64_t prompt_tokens() const { return std::max(prompt_tokens_, options_.step_tokens); }
  int threads() const { return pool_.threads(); }
  std::string_view isa() const { return context_.kernels.isa; }
  const CacheShape& cache() const { return *cache_shape_; }
  ops::Context& context() { return context_; }

  KvCache make_cache() const;
  const std::shared_ptr<PagePool>& pages() const { return pages_; }
  const std::shared_ptr<const CacheShape>& shared_cache_shape() const { return cache_shape_; }
  /// Throws bad_input, naming the position, for an id outside of the vocabulary.
  void check_ids(std::span<const int32_t> ids) const;
  /// Throws out_of_memory when caches of `positions` positions in all could not be made now.
  void require_cache(int64_t positions) const;

  /// One step of a batch: all of `steps`, whose states are caches of this engine, go through the model together; the
  /// caches grow and advance, those of sequences that leave are abandoned. Returns the logits asked for, one row each,
  /// in order; they live until the next step. Refuses ids outside of the vocabulary and sequences longer than the
  /// context before anything is computed.
  tensor::Matrix evaluate(std::span<const models::SequenceStep> steps, const layers::PassOptions& pass = {});

  /// What every rank but the first does: its part of rank 0's steps, until that says that there are no more.
  void serve(ModelRanks& ranks);

  /// Repacks and moves what is left of the weights now, instead of bit by bit after each step. For whoever wants the
  /// speed of a model that has run for a while.
  void move_all_weights();
  /// The same for about so many seconds, while nothing is evaluated. False once nothing is left.
  bool move_weights(double seconds);

  /// Where the weights are, and what reads them from the disk.
  ModelBytes& bytes() { return *bytes_; }
  const ModelBytes& bytes() const { return *bytes_; }

  /// What most of a prompt's products are: those of the formats that most bytes of the weights are in.
  enum class Products { f32, int8, tiles };
  Products products() const;

 private:
  families::Model model_;
  EngineOptions options_;
  int64_t context_size_;
  int64_t prompt_tokens_ = 0;  // 0: as many as any step
  threads::Pool pool_;
  tensor::Arena arena_;
  ops::Context context_;
  std::shared_ptr<const CacheShape> cache_shape_;
  std::shared_ptr<PagePool> pages_;
  std::unique_ptr<ModelBytes> bytes_;  // what the decoder reads
};

}  // namespace coterie::runtime

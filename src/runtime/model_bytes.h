#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "families/open.h"
#include "kernels/matmul.h"
#include "runtime/expert_store/dense_weights.h"
#include "runtime/expert_store/expert_store.h"
#include "runtime/expert_store/stream_plan.h"
#include "runtime/large_pages.h"
#include "runtime/own_weights.h"
#include "runtime/repacked_weights.h"
#include "runtime/weight_bytes.h"
#include "threads/pool.h"

namespace coterie::runtime {

/// How experts are read from the disk: by threads past the page cache, by io_uring, or through the page cache.
enum class DiskReader { threads, uring, buffered };

/// In which memory weights lie at the moment.
enum class Where {
  mapped,       // in the file, as the system's page cache has it
  large_pages,  // copied from there to large pages, at the same address
  repacked,     // copied from there in the order of the kernels
  read,         // read past the page cache, in the order of the kernels where they have one
  decoded,      // put together or decoded when the model was opened
  slot,         // an expert that is in memory now, until another takes its place
  disk,         // an expert that is not
};
inline constexpr int kWheres = 7;
std::string_view name(Where where);

/// The one owner of where a model's bytes live: it moves them while the model runs, reads from the disk what does not
/// fit, and says where each weight is. No result depends on any of it.
class ModelBytes {
 public:
  struct Options {
    bool move = true;                // repack and move what there is room for
    bool repack = true;              // the kernels of the run's precision read repacked rows
    bool part_of_a_model = false;    // experts are bound on other ranks alone: no more is repacked than what is here
    OwnWeights own = {};             // those that are read here
    int64_t memory = 0;              // a budget for the process; 0: what there is
    bool one_of_several = false;     // what the process holds besides is estimated, since other models are in it
    int64_t expert_memory = 0;       // above 0: experts are read as they are needed into so much memory, whatever fits
    int64_t cache = 0, scratch = 0;  // what the process needs besides
    int64_t step_tokens = 512, positions = 0;  // of a step, and of a sequence at most
    DiskReader reader = DiskReader::threads;
    LookAhead look_ahead = LookAhead::automatic;
    /// For tests: instead of one that reads the files.
    std::function<std::unique_ptr<BlockReader>(const FileTable& files)> make_reader = {};
  };

  /// `model` and `pool` must outlive it. Where the weights and what the options name do not fit the budget, experts go
  /// to the disk (store()). Throws out_of_memory where not even that fits, unsupported where experts lie in no file as
  /// they are read, io.
  ModelBytes(families::Model& model, threads::Pool& pool, const kernels::MatmulKernels& kernels,
             const Options& options);
  ~ModelBytes();

  /// Where experts are read from; null: all weights are bound to the model.
  ExpertStore* store() { return store_.get(); }
  const ExpertStore* store() const { return store_.get(); }
  /// Tokens of a prompt that blocks may take one after the other (Engine::prompt_tokens); 0: a step's.
  int64_t prompt_tokens() const { return prompt_tokens_; }
  /// What reading experts has cost so far, and how they are read; none where all weights are bound to the model.
  std::optional<StreamReport> stream_report();
  /// For whoever waits for the model, once it is made: how experts are read, or that all is read again and again; empty
  /// where all fits.
  std::string note() const;
  /// Bytes a second that the disk gave while the other weights were read; 0 where nothing was read, or too little.
  double disk_rate() const { return disk_rate_; }

  /// Repacks and moves for about so long; `read`: also what is not in memory yet. False once nothing is left to do.
  /// Must not run beside a job of the pool.
  bool advance(double seconds, bool read = false);
  bool repacks() const { return repacked_.has_value() || (dense_ && dense_->repacked_bytes() > 0); }

  /// What there is of weights, and what a token reads of them, wherever they lie.
  WeightBytes weights() const { return weight_bytes(*model_.decoder); }
  /// Bytes by where they lie, of one layer (-1: of what belongs to none), routed experts included.
  using Bytes = std::array<int64_t, kWheres>;
  struct Layer {
    int64_t layer = -1;
    Bytes bytes{};
    std::vector<Where> experts;  // of each routed expert
  };
  std::vector<Layer> layers() const;
  Bytes all() const;

 private:
  class Surveyor;
  void stream(const Options& options, const kernels::MatmulKernels& kernels);

  families::Model& model_;
  threads::Pool& pool_;
  // What the decoder reads:
  std::optional<RepackedWeights> repacked_;
  std::optional<LargePages> large_pages_;
  bool moved_ = false;  // nothing is left to be repacked or moved
  bool part_of_a_model_ = false;
  // or
  FileTable files_;
  std::unique_ptr<DenseWeights> dense_;
  std::unique_ptr<ExpertStore> store_;
  double disk_rate_ = 0;
  int64_t prompt_tokens_ = 0;
};

}  // namespace coterie::runtime

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "tensor/dtype.h"
#include "tensor/view.h"

namespace coterie::layers {

class RouterHook;

/// What one sequence carries from step to step. Layers see only this; runtime decides where it lives and how it grows.
/// Around a step whoever runs it calls make_room() before, and advance() or abandon() after.
class SequenceState {
 public:
  virtual ~SequenceState() = default;
  /// Positions evaluated so far.
  virtual int64_t length() const = 0;
  /// A number for what has been evaluated, for those who keep a copy of it elsewhere: while it stays the same,
  /// positions have been added and nothing else. 0: there is none.
  virtual uint64_t lineage() const { return 0; }
  /// What it had in common with the last lineage that positions were added to before this one: a sequence that has gone
  /// back is that one's first `positions`, its recurrent states excepted.
  struct Origin {
    uint64_t lineage = 0;  // 0: there is none
    int64_t positions = 0;
  };
  virtual Origin origin() const { return {}; }
  /// What others keep of it: the blocks and states of layers that are evaluated elsewhere.
  class Elsewhere {
   public:
    virtual ~Elsewhere() = default;
    /// Puts them into the state's blocks() and recurrent(). Throws what waiting for the others throws.
    virtual void fetch(SequenceState& state) = 0;
  };
  /// After a step: from now on that is to be fetched before anything but a step reads what the sequence holds. Gone
  /// with the sequence.
  virtual void keep_elsewhere(std::shared_ptr<Elsewhere> other) { (void)other; }
  /// Element type of the cache blocks: f32, f16, bf16 or q8_0.
  virtual tensor::DType cache_dtype() const = 0;
  /// Cache blocks of this layer's attention (ops::CacheLayout), enough for length() and the rows about to be added.
  virtual std::span<std::byte* const> blocks(int64_t layer) = 0;
  /// This layer's recurrent state (ssm/recurrent.h), the same size at every length: zeros before the first token,
  /// then what the tokens up to length() have left. Evaluating rows overwrites it with their result, so going back
  /// takes a copy.
  virtual std::span<float> recurrent(int64_t layer) = 0;
  /// Where this layer's recurrent state after row `row` of the step under way goes besides, as large as recurrent(),
  /// so that the sequence can go back to that row; empty: nowhere. For none of a step's rows or for all but its last.
  virtual std::span<float> recurrent_after(int64_t layer, int64_t row) {
    (void)layer, (void)row;
    return {};
  }

  /// Makes room for `rows` more positions after length(). Throws out_of_memory before it allocates what would not fit.
  virtual void make_room(int64_t rows) = 0;
  /// After a step that has evaluated `rows` more positions, for which there was room.
  virtual void advance(int64_t rows) = 0;
  /// After a step that was not finished: recurrent states of some layers have moved on, those of others did not, so
  /// they go back to the last copy of them, and length() with them. Keys and values alone stay as they were.
  virtual void abandon() = 0;
};

/// One sequence's part in a step: `ids` are evaluated at positions state->length() …
struct SequenceStep {
  std::span<const int32_t> ids = {};
  SequenceState* state = nullptr;
  enum class Logits { none, last, all } logits = Logits::last;
  uint64_t random_key = 0;  // of draws a router makes for this sequence (Selection::sample)
  // Positions the prompt that these tokens are a piece of will reach; 0 = these tokens end it. Only dynamic RoPE
  // scaling looks at it: with it a prompt cut in pieces gives the bits of the whole.
  int64_t length = 0;
  // For Decoder::loss, one for each id: the id that is to be predicted after it, -1 where nothing is scored.
  std::span<const int32_t> targets = {};
  // For an ensemble: the weights [N] of its models for this sequence, instead of its gate's.
  std::span<const double> model_weights = {};
  // Gets what the final norm makes of each row, or, where the model's head for multi-token prediction reads that, what
  // it is before the norm, [ids.size(), D]; without rows: nobody wants it.
  tensor::Matrix normed = {};
  // For a prediction head (prediction.h): that of the token before each of these, [N, D].
  tensor::ConstMatrix before = {};
  // Changes what routers decide for this sequence alone (moe/router_hook.h); null: nothing does.
  const RouterHook* routers = nullptr;
  // Asked before each layer, by the thread that runs the step; null: never. Once it answers true the sequence leaves
  // the step: its rows are computed no further where that can be, its rows of logits keep their places and mean
  // nothing, its state is to be abandoned. The others' bits stay as they are.
  const std::function<bool(int64_t layer)>* leaves = nullptr;
};

/// Where the rows of one sequence lie in a batch: its tokens at positions first_position … first_position + rows - 1.
struct SequenceRows {
  // Its length is set, to at least first_position + rows.
  SequenceStep step = {};
  int64_t first_row = 0, rows = 0;
  int64_t first_position = 0;
};

}  // namespace coterie::layers

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "checkpoint/tensor_source.h"
#include "layers/moe/router_hook.h"
#include "lens/choices.h"

namespace coterie::lens {

/// A file of what routers decided, token by token: safetensors with
///   ids       I32 [N]        the tokens, in the order in which they were read
///   sequence  I32 [N]        which sequence each belongs to, 0, 1, …, one after the other
///   position  I32 [N]        where in its sequence it stands, 0, 1, …
///   layers    I32 [L]        the blocks that have a router
///   width     I32 [L]        how many experts each of them has
///   experts   I16 [N, L, K]  whom each token went to, best first; -1 behind the last
///   weights   F32 [N, L, K]  what their outputs were multiplied by; 0 behind the last
///   entropy   F32 [N, L]     of the router's scores as shares of their sum, in nats
/// and "format": "coterie.trace.1" in its metadata. docs/guides/lens.md reads one.
class TraceWriter {
 public:
  /// `tokens`: N, which is known before the first. Under a temporary name until commit(), and removed without it.
  TraceWriter(const std::filesystem::path& path, RouterShape shape, int64_t tokens,
              const std::map<std::string, std::string>& metadata);

  /// Whom to give a pass as its observer.
  layers::Observer& observer() { return recorder_; }
  /// After a step that has evaluated `ids` of one sequence from position `first` on: takes what was observed of it, and
  /// writes some hundred tokens at once, so that an answer's single ones cost no calls of the system each.
  void add(std::span<const int32_t> ids, int64_t sequence, int64_t first);
  /// Throws internal when fewer than N tokens were added.
  void commit();
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kTokensKept = 256;
  template <typename T>
  void put(const std::string& name, int64_t row, std::span<const T> values);
  void write();

  ChoiceRecorder recorder_;
  std::vector<int32_t> ids_, sequence_, position_;  // of tokens that are not written yet
  int64_t all_, written_ = 0, bytes_ = 0;
  std::map<std::string, int64_t> begins_;  // of each tensor in the file
  base::AtomicFile file_;
};

/// Such a file, mapped.
class Trace {
 public:
  /// Throws bad_input, naming the tensor, for a file that is not a trace or contradicts itself.
  explicit Trace(const std::filesystem::path& path);

  RouterShape shape;                    // without scores, which a trace does not say
  std::span<const int32_t> ids;         // [N]
  std::span<const int32_t> sequence;    // [N]
  std::span<const int16_t> experts;     // [N, L, K]
  std::span<const float> weights;       // [N, L, K]
  std::span<const float> entropy;       // [N, L]
  std::vector<int64_t> sequence_begin;  // [sequences + 1]
  int64_t tokens() const { return std::ssize(ids); }
  int64_t sequences() const { return std::ssize(sequence_begin) - 1; }

 private:
  std::unique_ptr<checkpoint::TensorSource> source_;
};

/// Feeds the choices of one sequence of a trace back: routers decide what was decided then, weights to the bit.
class Replay final : public layers::RouterHook {
 public:
  /// Throws bad_input when the model's routers are not those of the trace.
  Replay(const Trace& trace, const RouterShape& model);
  void begin(int64_t sequence) { first_ = trace_.sequence_begin[static_cast<size_t>(sequence)]; }
  void choices(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids,
               std::span<float> weights) const override;

 private:
  const Trace& trace_;
  std::map<int64_t, int64_t> index_;  // of a block among the trace's layers
  int64_t first_ = 0;
};

}  // namespace coterie::lens

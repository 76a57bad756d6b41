#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "runtime/expert_store/expert_layout.h"

namespace coterie::runtime::test {

/// Reads experts from copies in memory, in an order of its own: what is asked for comes late, shuffled by a seed, and
/// what lies around it comes as rubbish.
class FakeReader final : public BlockReader {
 public:
  static constexpr int64_t kUnit = 64;

  FakeReader(const ExpertLayout& layout, uint64_t seed) : rng_(seed, 5) {
    for (const ExpertLayout::Layer& layer : layout.layers)
      for (const StoredExpert& expert : layer.experts)
        for (const ExpertPart& part : expert.parts)
          copies_.emplace(part.offset, std::vector<std::byte>(part.mapped, part.mapped + part.bytes));
  }
  void shuffle(uint64_t seed) { rng_ = base::Rng(seed, 5); }

  std::string_view name() const override { return "fake"; }
  bool direct() const override { return true; }
  int64_t unit() const override { return kUnit; }
  bool changed(int32_t) const override { return false; }

  void submit(std::span<const ReadPiece> pieces) override {
    for (const ReadPiece& piece : pieces) {
      base::require(
          piece.offset % kUnit == 0 && piece.bytes % kUnit == 0 && reinterpret_cast<uintptr_t>(piece.to) % kUnit == 0,
          "fake reader", "a piece at {} of {}", piece.offset, piece.bytes);
      // Nothing is read before it is waited for: who computes with it too early gets this.
      std::memset(piece.to, 0xff, static_cast<size_t>(piece.bytes));
      waiting_.push_back(piece);
      ++pieces_read;
    }
  }
  /// Any time later, and only some of it begins at all before it is taken back.
  void submit_ahead(std::span<const ReadPiece> pieces) override {
    for (const ReadPiece& piece : pieces)
      if (rng_.below(2) == 0)
        submit({&piece, 1});
      else
        ahead_.push_back(piece);
  }
  std::vector<uint64_t> withdraw() override {
    std::vector<uint64_t> tags;
    for (const ReadPiece& piece : ahead_) tags.push_back(piece.tag);
    ahead_.clear();
    return tags;
  }
  double busy_seconds() const override { return 0; }
  std::optional<ReadDone> poll() override {
    if (waiting_.empty() || rng_.below(3) != 0) return std::nullopt;
    return wait();
  }
  ReadDone wait() override {
    base::require(!waiting_.empty(), "fake reader", "nothing is under way");
    const size_t which = rng_.below(static_cast<uint32_t>(waiting_.size()));
    const ReadPiece piece = waiting_[which];
    waiting_.erase(waiting_.begin() + static_cast<int64_t>(which));
    const int64_t end = piece.offset + piece.bytes;
    auto copy = copies_.upper_bound(end);
    while (copy != copies_.begin()) {
      --copy;
      const int64_t begin = copy->first, last = begin + std::ssize(copy->second);
      if (last <= piece.offset - kLongest) break;
      const int64_t from = std::max(begin, piece.offset), to = std::min(last, end);
      if (from < to)
        std::memcpy(piece.to + (from - piece.offset), copy->second.data() + (from - begin),
                    static_cast<size_t>(to - from));
    }
    ReadDone done{.tag = piece.tag, .bytes = piece.bytes, .error = 0};
    if (fault) fault(piece, done);
    return done;
  }

  std::function<void(const ReadPiece& piece, ReadDone& done)> fault;
  int64_t pieces_read = 0;

 private:
  static constexpr int64_t kLongest = 1 << 24;  // of an expert's part, in a test
  std::map<int64_t, std::vector<std::byte>> copies_;
  std::vector<ReadPiece> waiting_, ahead_;
  base::Rng rng_;
};

/// A source that says of any memory that it lies in a file, at its address.
class PlacedSource final : public checkpoint::TensorSource {
 public:
  explicit PlacedSource(const checkpoint::TensorSource& source) : source_(source) {}
  checkpoint::Format format() const override { return source_.format(); }
  std::string where() const override { return source_.where(); }
  std::span<const checkpoint::TensorInfo> tensors() const override { return source_.tensors(); }
  const checkpoint::TensorInfo* find(std::string_view name) const override { return source_.find(name); }
  const checkpoint::Metadata& metadata() const override { return source_.metadata(); }
  int64_t file_bytes() const override { return source_.file_bytes(); }
  std::optional<checkpoint::FilePlace> place_of(std::span<const std::byte> bytes) const override {
    return checkpoint::FilePlace{"memory", reinterpret_cast<intptr_t>(bytes.data())};
  }

 private:
  const checkpoint::TensorSource& source_;
};

}  // namespace coterie::runtime::test

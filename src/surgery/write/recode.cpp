#include "surgery/write/recode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "quant/codec.h"

namespace coterie::surgery {

namespace {

using checkpoint::TensorToWrite;
using tensor::DType;
using Write = std::function<void(std::span<const std::byte>)>;

constexpr int64_t kPieceValues = 4 << 20;

/// Collects the bytes of rows until there is a piece of them, and writes that in the other format.
class Recoder {
 public:
  Recoder(DType from, DType to, int64_t rows, int64_t cols, const Change& change, threads::Pool& pool,
          const Write& write)
      : from_(from), to_(to), cols_(cols), change_(change), pool_(pool), write_(write) {
    from_bytes_ = tensor::row_bytes(from, cols), to_bytes_ = tensor::row_bytes(to, cols);
    const int64_t unit = std::max<int64_t>(change.head, 1);
    rows_ = std::max<int64_t>(kPieceValues / std::max<int64_t>(cols, 1) / unit, 1) * unit;
    if (change.swaps() && !change.columns) rows_ = std::max<int64_t>(rows, 1);  // they come from anywhere
    piece_.reserve(static_cast<size_t>(rows_ * from_bytes_));
  }

  void push(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const size_t room = static_cast<size_t>(rows_ * from_bytes_) - piece_.size();
      const std::span<const std::byte> part = bytes.first(std::min(room, bytes.size()));
      piece_.insert(piece_.end(), part.begin(), part.end());
      bytes = bytes.subspan(part.size());
      if (part.size() == room) flush();
    }
  }

  void flush() {
    const auto rows = static_cast<int64_t>(piece_.size()) / from_bytes_;
    base::require(
        rows * from_bytes_ == static_cast<int64_t>(piece_.size()) && rows % std::max<int64_t>(change_.head, 1) == 0,
        "recode", "{} bytes do not divide into whole rows", piece_.size());
    out_.resize(static_cast<size_t>(rows * to_bytes_));
    losses_.assign(loss ? static_cast<size_t>(rows) : 0, {});
    pool_.split(rows, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> values(static_cast<size_t>(cols_)), stored(loss ? values.size() : 0), swapped;
      for (int64_t r = begin; r < end; ++r) {
        quant::decode(from_, piece_.data() + source_row(r) * from_bytes_, values.data(), cols_);
        if (change_.swaps() && change_.columns) {
          swapped = values;
          for (int64_t c = 0; c < cols_; ++c)
            values[static_cast<size_t>(c)] = swapped[static_cast<size_t>(change_.swapped(c))];
        }
        if (change_.add != 0)
          for (float& v : values) v += change_.add;
        if (change_.minus_exp)
          for (float& v : values) v = -std::exp(v);
        if (change_.negate)
          for (float& v : values) v = -v;
        quant::encode(to_, values.data(), out_.data() + r * to_bytes_, cols_, weights_of(done_ + r));
        if (!loss) continue;
        quant::decode(to_, out_.data() + r * to_bytes_, stored.data(), cols_);
        losses_[static_cast<size_t>(r)] = difference(values, stored);
      }
    });
    for (const Loss& row : losses_) loss->add(row);
    write_(out_);
    piece_.clear();
    done_ += rows;
  }

  ColumnWeights weights;
  int64_t item_rows = 1;  // of each matrix that has its own weights
  Loss* loss = nullptr;

 private:
  int64_t source_row(int64_t row) const {
    if (change_.swaps() && !change_.columns) return change_.swapped(row);
    if (change_.head == 0) return row;
    const int64_t first = row / change_.head * change_.head, i = row - first;
    if (i >= change_.permuted) return row;
    if (change_.back) return first + (i < change_.permuted / 2 ? 2 * i : 2 * (i - change_.permuted / 2) + 1);
    return first + (i % 2 == 0 ? i / 2 : change_.permuted / 2 + i / 2);
  }

  std::span<const float> weights_of(int64_t row) const {
    if (weights.values.empty()) return {};
    const auto cols = static_cast<size_t>(cols_);
    const auto of_item = weights.values.subspan(static_cast<size_t>(row / item_rows) * cols, cols);
    const bool seen = std::any_of(of_item.begin(), of_item.end(), [](float weight) { return weight > 0; });
    return seen ? of_item : std::span<const float>();
  }

  static Loss difference(const std::vector<float>& values, const std::vector<float>& stored) {
    Loss row;
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = values[i], rest = value - static_cast<double>(stored[i]);
      row.squared_error += rest * rest, row.squares += value * value;
    }
    return row;
  }

  DType from_, to_;
  int64_t cols_, from_bytes_ = 0, to_bytes_ = 0, rows_ = 0;
  Change change_;
  threads::Pool& pool_;
  const Write& write_;
  std::vector<std::byte> piece_, out_;
  std::vector<Loss> losses_;
  int64_t done_ = 0;  // rows before this piece
};

}  // namespace

double Loss::relative() const { return squares > 0 ? std::sqrt(squared_error / squares) : 0; }

TensorToWrite recoded(TensorToWrite from, DType to, const Change& change, threads::Pool& pool, ColumnWeights weights,
                      Loss* loss) {
  if (from.dtype == to && change.none()) return from;
  // Each value of a vector is a row, so that those of heads can be put in another order.
  const bool by_value = from.shape.size() < 2 && (change.head > 0 || (change.swaps() && !change.columns));
  const int64_t cols = by_value ? 1 : from.shape.back();
  const int64_t rows = cols > 0 ? tensor::element_count(from.shape) / cols : 0;
  base::require(weights.values.empty() ||
                    (rows % weights.items == 0 && static_cast<int64_t>(weights.values.size()) == weights.items * cols),
                "recode", "{}: {} weights of importance for {} times {} columns", from.name, weights.values.size(),
                weights.items, cols);
  TensorToWrite result{from.name, to, from.shape, {}};
  result.produce = [from = std::move(from), to, cols, rows, change, &pool, weights, loss](const Write& write) {
    Recoder recoder(from.dtype, to, rows, cols, change, pool, write);
    recoder.weights = weights, recoder.item_rows = std::max<int64_t>(rows / weights.items, 1), recoder.loss = loss;
    try {
      from.produce([&](std::span<const std::byte> bytes) { recoder.push(bytes); });
      recoder.flush();
    } catch (const base::Error& error) {
      // A full disk, or Ctrl-C, has nothing to do with the tensor.
      if (error.kind() == base::ErrorKind::io || error.kind() == base::ErrorKind::interrupted) throw;
      throw error.within(from.name);
    }
  };
  return result;
}

}  // namespace coterie::surgery

#include "runtime/expert_store/dense_weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "runtime/weight_moves.h"

namespace coterie::runtime {

using tensor::Weight;

namespace {

constexpr int64_t kPieceBytes = 1 << 20;  // of a read: several are under way
constexpr int64_t kGap = 64;              // matrices begin at cache lines

int64_t align(int64_t bytes) { return (bytes + kGap - 1) / kGap * kGap; }

}  // namespace

class DenseWeights::Collector final : public layers::TensorReader {
 public:
  Collector(const checkpoint::TensorSource& source, const kernels::MatmulKernels* kernels, FileTable& files)
      : source_(source), kernels_(kernels), files_(files) {}

  void matrix(const Tensor& tensor, int64_t, int64_t, const Weight& slot) override { add(tensor, {slot}, false); }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<Weight>& slots) override {
    if (tensor.place != layers::Place::experts) add(tensor, slots, true);
  }

  std::vector<Item> result;

 private:
  void add(const Tensor& tensor, std::vector<Weight> weights, bool stack) {
    Item item{.from = std::move(weights), .to = {}, .offset = {}, .stack = stack, .repack = can_repack(tensor)};
    if (item.from.empty()) return;
    for (const Weight& weight : item.from) {
      if (!weight || weight.rows == 0 || weight.cols == 0) return;
      const std::span<const std::byte> bytes = extent(weight);
      const auto place = source_.place_of(bytes);
      if (!place) return;  // decoded or put together: in memory already
      item.file = files_.add(*place, bytes);
      item.offset.push_back(place->offset);
      item.repack = item.repack && fits_panels(tensor, weight);
    }
    // Tied: one matrix under two names is read once.
    for (const Item& known : result)
      if (known.stack == stack && known.from.front().data == item.from.front().data &&
          known.from.front().rows == item.from.front().rows &&
          known.from.front().row_stride == item.from.front().row_stride)
        return;
    result.push_back(std::move(item));
  }
  // As RepackedWeights: routers and embeddings are read row by row too.
  bool can_repack(const Tensor& tensor) const {
    return kernels_ && kernels_->repack && tensor.place != layers::Place::input_embeddings &&
           tensor.place != layers::Place::router;
  }
  bool fits_panels(const Tensor& tensor, const Weight& weight) const {
    const kernels::RepackedOrder order = kernels_->fast[static_cast<size_t>(weight.dtype)].repacked;
    return order.count > 0 && tensor::row_bytes(weight.dtype, weight.cols) % order.block_bytes == 0 &&
           weight.rows % tensor.parts == 0 && weight.rows / tensor.parts % kernels_->panel_rows == 0;
  }

  const checkpoint::TensorSource& source_;
  const kernels::MatmulKernels* kernels_;
  FileTable& files_;
};

DenseWeights::DenseWeights(models::Decoder& decoder, const checkpoint::TensorSource& source,
                           const kernels::MatmulKernels* kernels, FileTable& files)
    : decoder_(decoder), source_(source), kernels_(kernels), files_(files) {
  Collector collector(source, kernels, files);
  decoder.read(collector);
  items_ = std::move(collector.result);
  for (const Item& item : items_)
    for (const Weight& weight : item.from) {
      bytes_ += align(weight.bytes());
      if (item.repack) repacked_bytes_ += weight.bytes();
    }
}

std::vector<DenseWeights::Chunk> DenseWeights::chunks() const {
  std::vector<Chunk> result;
  for (const Item& item : items_)
    for (size_t i = 0; i < item.from.size(); ++i) {
      const Weight& weight = item.from[i];
      int64_t rows = std::max<int64_t>(1, kStaging / 2 / weight.row_stride);
      if (item.repack) rows = std::max(rows / kernels_->panel_rows, int64_t{1}) * kernels_->panel_rows;
      for (int64_t begin = 0; begin < weight.rows; begin += rows)
        result.push_back({&item, i, begin, std::min(begin + rows, weight.rows)});
    }
  return result;
}

/// Memory that a chunk is read into, and what is under way of it.
struct DenseWeights::Staging {
  tensor::Buffer<std::byte> memory;
  std::byte* first = nullptr;  // at a multiple of the unit
  std::vector<ReadPiece> pieces;
  int64_t begin = 0, need_end = 0;  // in the file: of what is read, and of what is wanted of it
  size_t under_way = 0;

  void begin_read(const Chunk& chunk, BlockReader& reader, uint64_t tag) {
    const Weight& weight = chunk.item->from[chunk.weight];
    const int64_t unit = reader.unit(), row = tensor::row_bytes(weight.dtype, weight.cols);
    const int64_t offset = chunk.item->offset[chunk.weight] + chunk.begin * weight.row_stride;
    need_end = offset + (chunk.end - chunk.begin - 1) * weight.row_stride + row;
    begin = offset / unit * unit;
    const int64_t end = (need_end + unit - 1) / unit * unit;
    if (memory.size() < end - begin + unit) {
      memory = tensor::Buffer<std::byte>(std::max(kStaging / 2, end - begin) + 2 * unit);
      const auto address = reinterpret_cast<uintptr_t>(memory.data());
      first = memory.data() + (unit - static_cast<int64_t>(address % static_cast<uint64_t>(unit))) % unit;
    }
    pieces.clear();
    for (int64_t at = begin; at < end; at += kPieceBytes)
      pieces.push_back({.file = chunk.item->file,
                        .offset = at,
                        .bytes = std::min(kPieceBytes, end - at),
                        .to = first + (at - begin),
                        .tag = tag << 32 | pieces.size()});
    under_way = pieces.size();
    reader.submit(pieces);
  }
};

void DenseWeights::place(const Chunk& chunk, const std::byte* bytes, threads::Pool& pool) const {
  const Weight& from = chunk.item->from[chunk.weight];
  const Weight& to = chunk.item->to[chunk.weight];
  const int64_t row = tensor::row_bytes(from.dtype, from.cols), rows = chunk.end - chunk.begin;
  auto* const out = const_cast<std::byte*>(to.data);  // of memory_
  const int64_t step = chunk.item->repack ? kernels_->panel_rows : 16;
  pool.each((rows + step - 1) / step, [&](int64_t task, int) {
    const int64_t begin = task * step, end = std::min(begin + step, rows);
    const std::byte* const read = bytes + begin * from.row_stride;
    std::byte* const written = out + (chunk.begin + begin) * row;
    if (chunk.item->repack) {
      kernels_->repack(read, from.row_stride, row, kernels_->fast[static_cast<size_t>(from.dtype)].repacked, written);
    } else {
      for (int64_t r = 0; r < end - begin; ++r)
        std::memcpy(written + r * row, read + r * from.row_stride, static_cast<size_t>(row));
    }
  });
}

DenseWeights::Rate DenseWeights::load(BlockReader& reader, threads::Pool& pool) {
  memory_ = tensor::Buffer<std::byte>(bytes_);
  std::byte* at = memory_.data();
  for (Item& item : items_) {
    item.to.clear();
    for (const Weight& weight : item.from) {
      item.to.emplace_back(at, weight.dtype, weight.rows, weight.cols).repacked = item.repack;
      at += align(weight.bytes());
    }
  }
  const std::vector<Chunk> all = chunks();
  Staging stagings[2];
  Rate rate;
  const base::Stopwatch clock;
  std::optional<base::Error> error;
  size_t begun = 0;
  const auto begin_next = [&] {
    if (begun < all.size() && !error) stagings[begun % 2].begin_read(all[begun], reader, begun), ++begun;
  };
  begin_next(), begin_next();
  for (size_t i = 0; i < begun; ++i) {
    Staging& staging = stagings[i % 2];
    while (staging.under_way > 0) {
      const ReadDone done = reader.wait();
      Staging& of = stagings[(done.tag >> 32) % 2];
      --of.under_way;
      const Chunk& chunk = all[done.tag >> 32];
      const ReadPiece& piece = of.pieces[done.tag & 0xffffffff];
      const int64_t needed = std::min(piece.offset + piece.bytes, of.need_end) - piece.offset;
      if ((done.error != 0 || done.bytes < needed) && !error) {
        const Weight& weight = chunk.item->from[chunk.weight];
        error = read_error(source_, files_, piece, done, needed, weight.data + chunk.begin * weight.row_stride, "");
      }
      rate.bytes += std::max<int64_t>(done.bytes, 0);
    }
    if (error) continue;  // what is under way must end first
    const Weight& weight = all[i].item->from[all[i].weight];
    const int64_t offset = all[i].item->offset[all[i].weight] + all[i].begin * weight.row_stride;
    place(all[i], staging.first + (offset - staging.begin), pool);
    begin_next();
  }
  if (error) throw *error;
  rate.seconds = clock.seconds();
  WeightMoves there;
  for (const Item& item : items_) there.add(item.from, item.to, item.stack);
  decoder_.rebind(there);
  return rate;
}

}  // namespace coterie::runtime

#include "runtime/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/error.h"

namespace coterie::runtime {

CacheShape cache_shape(const models::ModelSpec& spec, tensor::DType dtype) {
  if (!kernels::is_cache_type(dtype))
    throw base::Error(base::ErrorKind::unsupported, "cache_type",
                      fmt::format("a KV cache of {} is not supported", tensor::name(dtype)), "f32, f16, bf16 or q8_0");
  CacheShape shape{dtype, {0}, {}};
  for (int64_t bytes : models::cache_block_bytes(spec, dtype)) shape.offset.push_back(shape.offset.back() + bytes);
  for (const int64_t floats : models::state_floats(spec)) shape.state.offset.push_back(shape.state.floats() + floats);
  return shape;
}

int64_t cache_bytes(const CacheShape& shape, int64_t positions) {
  return (positions + ops::kCacheBlock - 1) / ops::kCacheBlock * shape.page_bytes() +
         (1 + shape.state.drafted + std::min(shape.state.most, positions / shape.state.interval + 2)) *
             shape.state.bytes();
}

KvCache::KvCache(std::shared_ptr<const CacheShape> shape, std::shared_ptr<PagePool> pool)
    : KvCache(shape, std::move(pool), RecurrentStates(shape->state)) {}

KvCache::KvCache(std::shared_ptr<const CacheShape> shape, std::shared_ptr<PagePool> pool, RecurrentStates states)
    : shape_(std::move(shape)),
      pool_(std::move(pool)),
      blocks_(static_cast<size_t>(shape_->layers())),
      states_(std::move(states)) {
  base::require(pool_->page_bytes() >= shape_->page_bytes(), "KV cache", "the pool's pages hold {} bytes, not {}",
                pool_->page_bytes(), shape_->page_bytes());
}

KvCache& KvCache::operator=(KvCache&& other) noexcept {
  if (this == &other) return *this;
  give_back(0);
  shape_ = std::move(other.shape_), pool_ = std::move(other.pool_);
  pages_ = std::move(other.pages_), blocks_ = std::move(other.blocks_);
  states_ = std::move(other.states_);
  length_ = std::exchange(other.length_, 0);
  tried_ = std::exchange(other.tried_, 0);
  lineage_ = std::exchange(other.lineage_, next_lineage());
  advanced_ = std::exchange(other.advanced_, false);
  origin_ = std::exchange(other.origin_, {});
  elsewhere_ = std::move(other.elsewhere_);
  return *this;
}

uint64_t KvCache::next_lineage() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

/// Another lineage, which has the first `kept` positions of this one.
void KvCache::begin_lineage(int64_t kept) {
  origin_ = advanced_ ? Origin{lineage_, kept} : Origin{origin_.lineage, std::min(origin_.positions, kept)};
  lineage_ = next_lineage(), advanced_ = false;
}

KvCache::~KvCache() { give_back(0); }

std::span<std::byte* const> KvCache::blocks(int64_t layer) {
  base::require(layer >= 0 && layer < static_cast<int64_t>(blocks_.size()), "KV cache", "layer {} of {}", layer,
                blocks_.size());
  return blocks_[static_cast<size_t>(layer)];
}

KvCache KvCache::fork() const {
  fetch();
  KvCache other(shape_, pool_, states_);
  for (const PagePool::Page& page : pages_) {
    if (std::ssize(other.pages_) * ops::kCacheBlock >= length_) break;  // reserved, not written
    other.pages_.push_back(page);
    pool_->share(page);
  }
  other.point_at(0);
  other.length_ = length_;
  return other;
}

void KvCache::adopt(std::span<const PagePool::Page> pages, int64_t positions,
                    std::shared_ptr<tensor::Buffer<float>> state) {
  const bool whole = positions % ops::kCacheBlock == 0 &&
                     (shape_->page_bytes() == 0 || std::ssize(pages) * ops::kCacheBlock == positions);
  base::require(whole && positions > length_, "KV cache", "{} positions of {} pages for a sequence of {}", positions,
                pages.size(), length_);
  const size_t kept = std::min(pages_.size(), static_cast<size_t>(length_ / ops::kCacheBlock));
  begin_lineage(static_cast<int64_t>(kept) * ops::kCacheBlock);
  give_back(kept);
  for (size_t page = kept; page < pages.size(); ++page) {
    pool_->share(pages[page]);
    pages_.push_back(pages[page]);
  }
  point_at(kept);
  if (has_states()) states_.adopt(positions, std::move(state));
  length_ = positions;
}

void KvCache::replace_page(size_t number, const PagePool::Page& same) {
  if (pages_[number].bytes == same.bytes) return;
  pool_->share(same);
  pool_->give(pages_[number]);
  pages_[number] = same;
  for (size_t layer = 0; layer < blocks_.size(); ++layer) blocks_[layer][number] = same.bytes + shape_->offset[layer];
}

void KvCache::point_at(size_t first) {
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    blocks_[layer].resize(first);
    for (size_t page = first; page < pages_.size(); ++page)
      blocks_[layer].push_back(pages_[page].bytes + shape_->offset[layer]);
  }
}

void KvCache::reserve(int64_t positions) {
  if (shape_->page_bytes() == 0) return;
  const int64_t wanted = (positions + ops::kCacheBlock - 1) / ops::kCacheBlock;
  // The page that the next position lies in has been written in part, perhaps by a sequence that this is a fork of.
  const auto next = static_cast<size_t>(length_ / ops::kCacheBlock);
  if (positions > length_ && next < pages_.size()) {
    const PagePool::Page own = pool_->own(pages_[next]);
    if (own.bytes != pages_[next].bytes) pages_[next] = own, point_at(next);
  }
  const size_t had = pages_.size();
  if (wanted <= std::ssize(pages_)) return;
  pool_->take(wanted - std::ssize(pages_), pages_);
  point_at(had);
}

int64_t KvCache::own_bytes() const {
  int64_t bytes = states_.own_bytes();
  for (const PagePool::Page& page : pages_)
    if (pool_->holders(page) == 1) bytes += pool_->page_bytes();
  return bytes;
}

void KvCache::advance(int64_t rows) {
  const bool held =
      shape_->page_bytes() == 0 || length_ + rows <= static_cast<int64_t>(pages_.size()) * ops::kCacheBlock;
  base::require(rows >= 0 && held, "KV cache", "{} positions were added to {}, but {} pages are held", rows, length_,
                pages_.size());
  length_ += rows;
  if (rows > 0) advanced_ = true;
  if (tried_ == 0 && has_states() && length_ % shape_->state.interval == 0) remember();
}

void KvCache::try_rows(int64_t rows) {
  states_.keep_after(rows - 1);
  tried_ = rows;
}

std::span<float> KvCache::recurrent_after(int64_t layer, int64_t row) {
  if (row >= states_.kept()) return {};
  return states_.after(row, layer);
}

void KvCache::settle(int64_t length) {
  base::require(length > length_ - tried_ && length <= length_, "KV cache",
                "goes back to {} positions of {}, of which the last {} may be wrong", length, length_, tried_);
  if (has_states()) states_.settle(length == length_ ? -1 : tried_ - 1 - (length_ - length));
  tried_ = 0;
  if (length < length_) begin_lineage(length);
  length_ = length;
  give_back(static_cast<size_t>((length + ops::kCacheBlock - 1) / ops::kCacheBlock));
  if (has_states() && length_ % shape_->state.interval == 0) remember();
}

int64_t KvCache::until_snapshot() const {
  if (!has_states()) return INT64_MAX;
  return shape_->state.interval - length_ % shape_->state.interval;
}

int64_t KvCache::truncate(int64_t length) {
  base::require(length >= 0 && length <= length_, "KV cache", "cut to {} positions of {}", length, length_);
  tried_ = 0;
  if (has_states()) states_.settle(-1);
  if (has_states() && length < length_) length = states_.restore(length);
  if (length < length_) begin_lineage(length);
  length_ = length;
  give_back(static_cast<size_t>((length + ops::kCacheBlock - 1) / ops::kCacheBlock));
  return length_;
}

void KvCache::abandon() {
  tried_ = 0;
  if (!has_states()) return;
  states_.settle(-1);
  length_ = states_.restore(length_);
  begin_lineage(length_);
  give_back(static_cast<size_t>((length_ + ops::kCacheBlock - 1) / ops::kCacheBlock));
}

void KvCache::give_back(size_t pages_kept) noexcept {
  for (size_t page = pages_kept; page < pages_.size(); ++page) pool_->give(pages_[page]);
  if (pages_kept < pages_.size()) {
    pages_.resize(pages_kept);
    for (auto& blocks : blocks_) blocks.resize(pages_kept);
  }
}

}  // namespace coterie::runtime

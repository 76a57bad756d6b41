#include "checkpoint/random_source.h"

#include <sys/mman.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/memory.h"
#include "base/rng.h"
#include "checkpoint/memory_source.h"
#include "checkpoint/parsed_file.h"
#include "checkpoint/random_values.h"
#include "tensor/buffer.h"
#include "threads/pool.h"

namespace coterie::checkpoint {

namespace {

/// Fresh pages, in large ones where the system has them: touching gigabytes of small pages costs as much as filling
/// them.
class Pages {
 public:
  explicit Pages(int64_t size) : size_(static_cast<size_t>(size)) {
    if (size_ == 0) return;
    void* data = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
      base::fail(base::ErrorKind::out_of_memory, "random weights", "{} cannot be mapped: {}", base::human_bytes(size),
                 std::strerror(errno));
    data_ = static_cast<std::byte*>(data);
    ::madvise(data, size_, MADV_HUGEPAGE);  // a refusal costs speed only
  }
  Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  ~Pages() {
    if (data_) ::munmap(data_, size_);
  }
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// FNV-1a: only has to tell names apart; Philox does the mixing.
uint64_t hash(std::string_view name) {
  uint64_t value = 0xcbf29ce484222325;
  for (const char c : name) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return value;
}

struct Piece {
  std::span<std::byte> bytes;
  const RandomFill* fill;
  uint64_t key, number;
};

void spread_rows(const RandomTensor& tensor, uint64_t seed, std::byte* bytes) {
  auto* values = reinterpret_cast<float*>(bytes);
  base::Rng rng(seed, hash(tensor.name));
  for (int64_t r = 0; r < tensor.shape[0]; ++r) {
    const float factor = std::exp(tensor.row_spread * rng.normal());
    for (int64_t c = 0; c < tensor.shape[1]; ++c) *values++ *= factor;
  }
}

constexpr int64_t kPieceBytes = 1 << 18;  // stays in the second-level cache between the codes and the heads

}  // namespace

std::unique_ptr<TensorSource> random_source(std::vector<RandomTensor> tensors, Metadata metadata, uint64_t seed,
                                            int threads) {
  std::vector<int64_t> sizes, offsets;
  int64_t total = 0;
  for (const RandomTensor& tensor : tensors) {
    const std::string place = "random weights: " + tensor.name;
    if (!std::isfinite(tensor.scale) || tensor.scale < 0 || !std::isfinite(tensor.offset))
      base::fail(base::ErrorKind::bad_input, place, "scale {} and offset {}: expected finite numbers, scale >= 0",
                 tensor.scale, tensor.offset);
    if (tensor.offset != 0 && tensor::is_block(tensor.dtype))
      base::fail(base::ErrorKind::unsupported, place, "{} values are drawn around 0, not around {}",
                 tensor::name(tensor.dtype), tensor.offset);
    if (tensor.row_spread != 0 && (tensor.dtype != tensor::DType::f32 || tensor.shape.size() != 2))
      base::fail(base::ErrorKind::unsupported, place, "rows of {} are not scaled, only those of an f32 matrix",
                 tensor::name(tensor.dtype));
    sizes.push_back(checked_bytes(tensor.dtype, tensor.shape, place));
    offsets.push_back(total);
    const int64_t padded = (sizes.back() + tensor::kAlignment - 1) / tensor::kAlignment * tensor::kAlignment;
    if (__builtin_add_overflow(total, padded, &total))
      base::fail(base::ErrorKind::bad_input, place, "all tensors together have more bytes than 2^63");
  }
  base::require_memory(total, "random weights", "ask for fewer layers or a smaller format");

  Pages pages(total);
  std::vector<RandomFill> fills;
  fills.reserve(tensors.size());
  std::vector<TensorInfo> infos;
  std::vector<Piece> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const RandomTensor& tensor = tensors[i];
    fills.push_back(random_fill(tensor.dtype, tensor.scale, tensor.offset));
    const auto mixed = base::Philox::block(seed, hash(tensor.name), static_cast<uint64_t>(tensor.dtype));
    const uint64_t key = (uint64_t{mixed[0]} << 32) | mixed[1];
    const int64_t block = tensor::info(tensor.dtype).block_bytes, step = kPieceBytes / block * block;
    const std::span<std::byte> bytes(pages.data() + offsets[i], static_cast<size_t>(sizes[i]));
    for (int64_t begin = 0; begin < sizes[i]; begin += step)
      pieces.push_back(
          {bytes.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(step, sizes[i] - begin))),
           &fills.back(), key, static_cast<uint64_t>(begin / step)});
    infos.push_back({tensor.name, tensor.dtype, tensor.shape, bytes});
  }
  threads::Pool pool(threads);
  pool.each(static_cast<int64_t>(pieces.size()), [&](int64_t task, int) {
    const Piece& piece = pieces[static_cast<size_t>(task)];
    RandomStream stream(piece.key, piece.number);
    (*piece.fill)(stream, piece.bytes);
  });
  for (size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].row_spread != 0) spread_rows(tensors[i], seed, pages.data() + offsets[i]);
  return std::make_unique<MemorySource<Pages>>(std::move(pages), std::move(infos), std::move(metadata), Format::memory,
                                               "random weights");
}

}  // namespace coterie::checkpoint

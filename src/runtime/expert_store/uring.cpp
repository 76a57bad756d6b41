#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "base/error.h"
#include "runtime/expert_store/thread_reader.h"
#include "runtime/expert_store/uring_reader.h"

namespace coterie::runtime {

namespace {

constexpr unsigned kDepth = 32;  // pieces that the disk has at once; the others wait here

class UringReader final : public BlockReader {
 public:
  /// `ring` has been set up.
  UringReader(StoredFiles files, const io_uring& ring) : files_(std::move(files)), ring_(ring), under_way_(kDepth) {
    for (unsigned i = 0; i < kDepth; ++i) free_.push_back(i);
  }
  ~UringReader() override {
    waiting_.clear(), ahead_.clear();
    while (free_.size() < kDepth) take(true);
    ::io_uring_queue_exit(&ring_);
  }

  std::string_view name() const override { return "uring"; }
  bool direct() const override { return files_.direct(); }
  int64_t unit() const override { return files_.unit(); }
  bool changed(int32_t file) const override { return files_.changed(file); }

  void submit(std::span<const ReadPiece> pieces) override {
    for (const ReadPiece& piece : pieces) waiting_.push_back({piece, 0});
    busy_.begin(std::ssize(pieces));
    fill();
  }
  /// They begin when something else is begun or ends, which is noticed when somebody asks.
  void submit_ahead(std::span<const ReadPiece> pieces) override {
    for (const ReadPiece& piece : pieces) ahead_.push_back({piece, 0});
    fill();
  }
  std::vector<uint64_t> withdraw() override {
    std::vector<uint64_t> tags;
    for (const Job& job : ahead_) tags.push_back(job.piece.tag);
    ahead_.clear();
    return tags;
  }
  double busy_seconds() const override { return busy_.seconds(); }
  std::optional<ReadDone> poll() override {
    while (done_.empty() && take(false)) {
    }
    return next();
  }
  ReadDone wait() override {
    while (done_.empty()) take(true);
    return *next();
  }

 private:
  struct Job {
    ReadPiece piece;
    int64_t bytes;  // that are there
  };

  std::optional<ReadDone> next() {
    if (done_.empty()) return std::nullopt;
    const ReadDone done = done_.front();
    done_.pop_front();
    return done;
  }

  void fill() {
    bool any = false;
    const auto ahead = [&] { return !ahead_.empty() && std::ssize(free_) > kDepth - kAheadBelow; };
    while (!free_.empty() && (!waiting_.empty() || ahead())) {
      io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
      if (!entry) break;
      const unsigned number = free_.back();
      free_.pop_back();
      std::deque<Job>& from = waiting_.empty() ? ahead_ : waiting_;
      if (waiting_.empty()) busy_.begin(1);
      Job& job = under_way_[number] = from.front();
      from.pop_front();
      ::io_uring_prep_read(entry, files_.descriptor(job.piece.file), job.piece.to + job.bytes,
                           static_cast<unsigned>(job.piece.bytes - job.bytes),
                           static_cast<uint64_t>(job.piece.offset + job.bytes));
      ::io_uring_sqe_set_data64(entry, number);
      any = true;
    }
    while (any) {
      const int result = ::io_uring_submit(&ring_);
      if (result == -EINTR || result == -EAGAIN || result == -EBUSY) continue;
      if (result < 0)
        base::fail(base::ErrorKind::io, "io_uring", "a read could not be begun: {}", std::strerror(-result));
      break;
    }
  }

  /// One completion, waited for or not; false when there was none.
  bool take(bool wait) {
    io_uring_cqe* entry = nullptr;
    int result = 0;
    do {
      result = wait ? ::io_uring_wait_cqe(&ring_, &entry) : ::io_uring_peek_cqe(&ring_, &entry);
    } while (result == -EINTR);
    if (result == -EAGAIN && !wait) return false;
    if (result < 0) base::fail(base::ErrorKind::io, "io_uring", "waiting for a read: {}", std::strerror(-result));
    const auto number = static_cast<unsigned>(::io_uring_cqe_get_data64(entry));
    const int got = entry->res;
    ::io_uring_cqe_seen(&ring_, entry);
    Job job = under_way_[number];
    free_.push_back(number);
    if (got > 0) job.bytes += got;
    const bool again = got == -EINTR || got == -EAGAIN ||
                       (got > 0 && job.bytes < job.piece.bytes && (!direct() || job.bytes % unit() == 0));
    if (again) {
      waiting_.push_front(job);
    } else {
      done_.push_back({job.piece.tag, job.bytes, got < 0 ? -got : 0});
      busy_.end();
    }
    fill();
    return true;
  }

  const StoredFiles files_;
  io_uring ring_;
  std::deque<Job> waiting_, ahead_;
  BusyTime busy_;
  std::vector<Job> under_way_;
  std::vector<unsigned> free_;  // of under_way_
  std::deque<ReadDone> done_;
};

}  // namespace

std::unique_ptr<BlockReader> make_uring_reader(StoredFiles files) {
  io_uring ring{};
  if (!files.direct() || ::io_uring_queue_init(kDepth, &ring, 0) < 0) return make_thread_reader(std::move(files));
  return std::make_unique<UringReader>(std::move(files), ring);
}

}  // namespace coterie::runtime

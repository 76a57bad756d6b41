#include "runtime/expert_store/thread_reader.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace coterie::runtime {

namespace {

class ThreadReader final : public BlockReader {
 public:
  ThreadReader(StoredFiles files, int threads) : files_(std::move(files)) {
    base::require(threads >= 1, "thread reader", "{} threads", threads);
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~ThreadReader() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
      waiting_.clear(), ahead_.clear();
    }
    to_do_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::string_view name() const override { return "threads"; }
  bool direct() const override { return files_.direct(); }
  int64_t unit() const override { return files_.unit(); }

  void submit(std::span<const ReadPiece> pieces) override {
    {
      const std::lock_guard lock(mutex_);
      waiting_.insert(waiting_.end(), pieces.begin(), pieces.end());
      busy_.begin(std::ssize(pieces));
    }
    pieces.size() == 1 ? to_do_.notify_one() : to_do_.notify_all();
  }
  void submit_ahead(std::span<const ReadPiece> pieces) override {
    {
      const std::lock_guard lock(mutex_);
      ahead_.insert(ahead_.end(), pieces.begin(), pieces.end());
    }
    to_do_.notify_all();
  }
  std::vector<uint64_t> withdraw() override {
    const std::lock_guard lock(mutex_);
    std::vector<uint64_t> tags;
    for (const ReadPiece& piece : ahead_) tags.push_back(piece.tag);
    ahead_.clear();
    return tags;
  }
  std::optional<ReadDone> poll() override {
    const std::lock_guard lock(mutex_);
    return done_.empty() ? std::nullopt : std::optional(take());
  }
  ReadDone wait() override {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return !done_.empty(); });
    return take();
  }
  bool changed(int32_t file) const override { return files_.changed(file); }
  double busy_seconds() const override {
    const std::lock_guard lock(mutex_);
    return busy_.seconds();
  }

 private:
  ReadDone take() {
    const ReadDone done = done_.front();
    done_.pop_front();
    return done;
  }
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      // Whoever has ended a read looks here first, so none of those ahead is forgotten.
      to_do_.wait(lock, [&] { return ending_ || !waiting_.empty() || (!ahead_.empty() && under_way_ < kAheadBelow); });
      if (ending_) return;
      const bool ahead = waiting_.empty();
      std::deque<ReadPiece>& from = ahead ? ahead_ : waiting_;
      const ReadPiece piece = from.front();
      from.pop_front();
      if (ahead) busy_.begin(1);
      ++under_way_;
      lock.unlock();
      const ReadDone done = files_.read(piece);
      if (!files_.direct()) files_.forget(piece);
      lock.lock();
      --under_way_;
      busy_.end();
      done_.push_back(done);
      finished_.notify_one();
    }
  }

  const StoredFiles files_;
  mutable std::mutex mutex_;
  std::condition_variable to_do_, finished_;
  std::deque<ReadPiece> waiting_, ahead_;
  std::deque<ReadDone> done_;
  int64_t under_way_ = 0;
  BusyTime busy_;
  bool ending_ = false;
  std::vector<std::thread> threads_;  // the last, so that they end before what they use
};

}  // namespace

std::unique_ptr<BlockReader> make_thread_reader(StoredFiles files, int threads) {
  return std::make_unique<ThreadReader>(std::move(files), threads);
}

}  // namespace coterie::runtime

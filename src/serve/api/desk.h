#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace coterie::serve {

/// One or two threads for what takes longer than a ping may wait: JSON, templates, tokenizing, grammars.
class Desk {
 public:
  explicit Desk(int threads, size_t most);
  /// Does what is left, then ends.
  ~Desk();
  Desk(const Desk&) = delete;
  Desk& operator=(const Desk&) = delete;

  /// False where `most` are waiting already: `work` is then not done.
  bool post(std::function<void()> work);
  /// The same, without a limit: for the ends of answers that have begun.
  void always(std::function<void()> work);

 private:
  void run();

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> waiting_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace coterie::serve

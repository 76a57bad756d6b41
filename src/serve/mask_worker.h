#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "serve/request.h"

namespace coterie::serve {

/// What a sequence's constraint lets through next, [ceil(V / 32)] words.
struct TokenMask {
  std::vector<uint32_t> bits;
  bool restricted = false;
  std::exception_ptr error;
};

/// Computes masks on a thread of its own, while the step runs whose logits they are for. The thread begins with the
/// first constraint.
class MaskWorker {
 public:
  ~MaskWorker();

  struct Job {
    TokenConstraint* constraint;
    TokenMask* mask;
  };
  /// Begins to compute; wait() must be called before the next.
  void start(std::vector<Job> jobs);
  /// Until all masks are there.
  void wait();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job> jobs_;
  bool busy_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace coterie::serve

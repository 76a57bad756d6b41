#pragma once

#include <cstdint>
#include <memory>

#include "base/function_ref.h"

namespace coterie::threads {

/// A fixed set of workers that start together and wait together. The caller is worker 0. Between jobs the others spin
/// for a short time, then sleep. Passed down, never a singleton: two engines can live in one process.
///
/// Nothing that is computed may depend on the number of workers: a kernel reduces an output inside one task.
class Pool {
 public:
  /// `threads` >= 1, the caller included; 0 = one for each physical core this process may run on.
  explicit Pool(int threads = 0);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;

  /// Runs body(worker) once on every worker and returns when all have returned. If any throws, the first exception is
  /// rethrown here after all have returned. Not reentrant: body must not start another job on this pool.
  void run(base::FunctionRef<void(int worker)> body);

  /// Runs body(begin, end, worker) over [0, count) in one contiguous chunk a worker, chunk bounds multiples of `grain`.
  /// For even work: the split is fixed, so a worker meets the same data (and pages) in each call.
  void split(int64_t count, int64_t grain, base::FunctionRef<void(int64_t begin, int64_t end, int worker)> body);

  /// Runs body(task, worker) for each task in [0, count), handed out one at a time in ascending order. For ragged
  /// work: put the large tasks first.
  void each(int64_t count, base::FunctionRef<void(int64_t task, int worker)> body);

  /// Inside run(): waits until every worker has arrived. All of them must call it equally often, so a body that uses it
  /// must not throw: the others would wait for ever.
  void barrier();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie::threads

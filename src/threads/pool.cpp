#include "threads/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "threads/topology.h"

namespace coterie::threads {

namespace {

// A job of a decode step follows the last within microseconds: spinning that long saves a futex wake-up (about 50 us
// on a virtual machine). Past that the worker sleeps, so that an idle engine costs nothing.
constexpr int kSpins = 20000;
// Whoever waits for workers that are busy spins for a shorter time and then offers its processor again and again:
// next to an idle processor that returns at once, and where workers outnumber processors it lets them run. (With 50
// times kSpins, the pool's tests with 8 workers on 2 loaded cores took 190 s; so, 10 s. November 2026, EPYC.)
constexpr int kBusySpins = 2000;

inline void relax() { __builtin_ia32_pause(); }

template <typename Done>
void wait_busy(int spins, Done done) {
  for (int spin = 0; !done(); ++spin)
    if (spin < spins)
      relax();
    else
      std::this_thread::yield();
}

void pin_to(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);  // a refusal costs speed, not correctness
}

}  // namespace

struct Pool::State {
  int threads = 1;
  int idle_spins = kSpins, busy_spins = kBusySpins;  // 0 where workers outnumber processors: a spin only delays others
  std::vector<std::thread> workers;

  // The job: workers wait for `generation` to move, run `body`, and count down `running`.
  std::atomic<uint64_t> generation = 0;
  std::atomic<int> running = 0;
  std::atomic<bool> stopping = false;
  base::FunctionRef<void(int)>* body = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> sleepers = 0;

  std::mutex error_mutex;
  std::exception_ptr error;

  // A barrier inside a job.
  std::atomic<int> arrived = 0;
  std::atomic<uint64_t> phase = 0;

  // Whether a job runs. Kept on one thread and in jobs of one piece as well, or a job inside a job would be an error
  // on some machines only.
  bool inside = false;
  struct Inside {
    explicit Inside(State& state) : state_(state) {
      base::require(!state_.inside, "threads::Pool", "a job was started from inside a job");
      state_.inside = true;
    }
    ~Inside() { state_.inside = false; }
    State& state_;
  };

  void execute(int worker) {
    try {
      (*body)(worker);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen) {
        if (++spins < idle_spins) {
          relax();
          continue;
        }
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return generation.load() != seen; });
        sleepers.fetch_sub(1);
      }
      ++seen;
      if (stopping.load()) return;
      execute(worker);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void start() {
    generation.fetch_add(1);
    if (sleepers.load() > 0) {
      std::lock_guard lock(mutex);
      wake.notify_all();
    }
  }
};

Pool::Pool(int threads) : state_(std::make_unique<State>()) {
  const Topology topology = Topology::read();
  if (threads < 0) base::fail(base::ErrorKind::bad_input, "threads", "expected a positive number, found {}", threads);
  state_->threads = threads == 0 ? topology.default_threads() : threads;
  // Pinning pays while every worker can have a core of its own; with more workers than processors the kernel must be
  // free to move them. The caller's thread is never pinned: it belongs to the caller.
  if (state_->threads > static_cast<int>(topology.order.size())) state_->idle_spins = state_->busy_spins = 0;
  const bool pin = state_->threads <= static_cast<int>(topology.order.size()) && topology.quota == 0;
  for (int worker = 1; worker < state_->threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
    if (pin) pin_to(state_->workers.back(), topology.order[static_cast<size_t>(worker)]);
  }
}

Pool::~Pool() {
  state_->stopping = true;
  {
    std::lock_guard lock(state_->mutex);
    state_->generation.fetch_add(1);
  }
  state_->wake.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int Pool::threads() const { return state_->threads; }

void Pool::run(base::FunctionRef<void(int)> body) {
  State& s = *state_;
  const State::Inside guard(s);
  s.body = &body;
  s.running.store(s.threads - 1);
  if (s.threads > 1) s.start();
  s.execute(0);
  wait_busy(s.busy_spins, [&] { return s.running.load(std::memory_order_acquire) == 0; });
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

void Pool::split(int64_t count, int64_t grain, base::FunctionRef<void(int64_t, int64_t, int)> body) {
  if (count <= 0) return;
  const int64_t pieces = (count + grain - 1) / grain;
  if (state_->threads == 1 || pieces == 1) {
    const State::Inside guard(*state_);
    body(0, count, 0);
    return;
  }
  run([&](int worker) {
    const int64_t begin = pieces * worker / state_->threads * grain;
    const int64_t end = std::min(count, pieces * (worker + 1) / state_->threads * grain);
    if (begin < end) body(begin, end, worker);
  });
}

void Pool::each(int64_t count, base::FunctionRef<void(int64_t, int)> body) {
  if (count <= 0) return;
  if (state_->threads == 1 || count == 1) {
    const State::Inside guard(*state_);
    for (int64_t task = 0; task < count; ++task) body(task, 0);
    return;
  }
  std::atomic<int64_t> ticket = 0;
  run([&](int worker) {
    for (int64_t task; (task = ticket.fetch_add(1, std::memory_order_relaxed)) < count;) body(task, worker);
  });
}

void Pool::barrier() {
  State& s = *state_;
  const uint64_t phase = s.phase.load(std::memory_order_acquire);
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == s.threads) {
    s.arrived.store(0, std::memory_order_relaxed);
    s.phase.store(phase + 1, std::memory_order_release);
    return;
  }
  wait_busy(s.busy_spins, [&] { return s.phase.load(std::memory_order_acquire) != phase; });
}

}  // namespace coterie::threads

#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fake_model.h"
#include "serve/api/service.h"

namespace coterie::serve::test {

/// In the place of an engine: answers every request with a text, a token a byte.
class FakeBackend final : public Backend {
 public:
  ~FakeBackend() override;

  std::string says = "Hello";
  bool holds = false;    // says nothing until release() or cancel()
  bool endless = false;  // says it again and again until cancel()
  std::chrono::milliseconds pace{0};
  bool busy = false;                 // refuses
  bool fails = false;                // fails after its first token
  std::vector<float> model_weights;  // of every token, where routes are asked for

  std::vector<RequestId> submit(std::vector<Submission> requests) override;
  void cancel(RequestId id) override;
  void pause(RequestId id) override;
  void resume(RequestId id) override;
  void drain() override { stopping_ = true; }
  bool idle() const override { return running_ == 0; }
  Snapshot snapshot() const override;
  SchedulerOptions options() const override { return {}; }

  void release();
  std::vector<Request> seen() const;
  /// Whether `count` requests have been cancelled within the time.
  bool cancelled(int count, std::chrono::milliseconds most = std::chrono::seconds(5));

  std::atomic<int> paused{0}, resumed{0};

 private:
  void run(RequestId id, Submission submission);
  bool is_cancelled(RequestId id) const;
  void wait_for_release(RequestId id);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<RequestId> cancelled_, held_;
  std::vector<Request> seen_;
  std::vector<std::thread> threads_;
  RequestId next_ = 1;
  bool released_ = false;
  std::atomic<bool> stopping_{false};
  std::atomic<int> running_{0};
};

/// A service over both, on a free port.
struct Fixture {
  explicit Fixture(GuardOptions guard = {}, HttpLimits limits = {}, bool lenient = false);
  FakeBackend backend;
  ServedModel model;
  std::mutex log_mutex;
  std::vector<std::string> log;
  std::unique_ptr<Service> service;
  uint16_t port() const { return service->port(); }
};

}  // namespace coterie::serve::test

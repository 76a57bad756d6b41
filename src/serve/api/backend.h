#pragma once

#include <vector>

#include "serve/scheduler.h"

namespace coterie::serve {

/// What runs requests, as the service needs it: a Scheduler, or what tests put in its place. Its functions do as
/// Scheduler's of the same names.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::vector<RequestId> submit(std::vector<Submission> requests) = 0;
  virtual void cancel(RequestId id) = 0;
  virtual void pause(RequestId id) = 0;
  virtual void resume(RequestId id) = 0;
  virtual void drain() = 0;
  virtual bool idle() const = 0;
  virtual Snapshot snapshot() const = 0;
  virtual SchedulerOptions options() const = 0;
};

class SchedulerBackend final : public Backend {
 public:
  explicit SchedulerBackend(Scheduler& scheduler) : scheduler_(scheduler) {}
  std::vector<RequestId> submit(std::vector<Submission> requests) override {
    return scheduler_.submit(std::move(requests));
  }
  void cancel(RequestId id) override { scheduler_.cancel(id); }
  void pause(RequestId id) override { scheduler_.pause(id); }
  void resume(RequestId id) override { scheduler_.resume(id); }
  void drain() override { scheduler_.drain(); }
  bool idle() const override { return scheduler_.idle(); }
  Snapshot snapshot() const override { return scheduler_.snapshot(); }
  SchedulerOptions options() const override { return scheduler_.options(); }

 private:
  Scheduler& scheduler_;
};

}  // namespace coterie::serve

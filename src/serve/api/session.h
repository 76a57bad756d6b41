#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "serve/api/answer.h"
#include "serve/api/call.h"
#include "serve/api/desk.h"
#include "serve/api/shelf.h"

namespace coterie::serve {

/// What sessions share.
struct Floor {
  Desk& desk;
  std::function<void(std::function<void()>)> post;  // onto the I/O thread
};

/// A request that the engine answers: between the scheduler's events and the client's stream. After open() all of it
/// runs on the I/O thread.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Floor floor, Call call, std::unique_ptr<Answer> answer, std::shared_ptr<const ReadyModel> model);
  /// Gives the requests to the scheduler. Called on a desk thread; throws what submit() throws, and then the session is
  /// over.
  void open();
  /// Four times a second: pings.
  void tick(std::chrono::steady_clock::time_point now);
  bool over() const { return over_; }
  /// Once it is over: lets go of the model. The scheduler's thread may be the last to hold a session, and is not to be
  /// the one that ends a scheduler.
  void release() { model_.reset(); }

 private:
  class Ear;
  void event(size_t choice, Event event);
  void begin();
  void handle(size_t choice, Event& event);
  void write(std::string bytes);
  std::string ping() const;
  void complete();
  void fail(const ApiError& error);
  void cancel_all();
  std::vector<RequestId> submit(size_t count);
  void submit_next();

  const Floor floor_;
  const Call call_;
  std::shared_ptr<const ReadyModel> model_;  // before the answer, which refers to it
  const std::unique_ptr<Answer> answer_;
  std::vector<RequestId> ids_;
  std::vector<std::pair<size_t, Event>> early_;  // events that came before submit() had returned
  std::vector<std::optional<Queued>> queued_;
  size_t ended_ = 0, submitted_ = 0;
  bool begun_ = false, over_ = false;
  std::chrono::steady_clock::time_point written_;
};

}  // namespace coterie::serve

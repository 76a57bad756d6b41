#pragma once

#include <atomic>
#include <mutex>

#include "serve/http/http.h"

namespace coterie::serve {

/// How one answer is framed, by what its request asked for.
struct Framing {
  bool keep_alive = true, head_only = false;
  bool http_1_0 = false;  // knows no chunks: a stream ends with its connection
};

/// The bytes of a whole answer.
std::string serialized(const HttpResponse& response, const Framing& framing);

/// The queue between those who answer, in any thread, and the connection that writes.
class QueuedExchange final : public Exchange, public std::enable_shared_from_this<QueuedExchange> {
 public:
  /// `post` runs a function on the I/O thread; `wake` makes the connection look here again, called there.
  QueuedExchange(Framing framing, size_t unsent_limit, std::function<void(std::function<void()>)> post,
                 std::function<void()> wake);

  void respond(HttpResponse response) override;
  void start(int status, HttpHeaders headers, std::string probe) override;
  void write(std::string bytes) override;
  void finish() override;
  bool closed() const override { return closed_; }
  void on_closed(std::function<void()> call) override;
  void on_pause(std::function<void(bool)> call) override;

  // For the connection, on the I/O thread.
  std::string take();  // all that may be written now
  void sent(size_t bytes);
  bool done();  // the answer is complete: once take() has nothing more, all is written
  void close();
  /// Queues what a client that is still there does not mind.
  void probe();
  const Framing& framing() const { return framing_; }

 private:
  void queue(std::string bytes);  // with the mutex held
  void tell_paused(bool paused);

  const Framing framing_;
  const size_t limit_;
  const std::function<void(std::function<void()>)> post_;
  const std::function<void()> wake_;
  std::mutex mutex_;
  std::string pending_, probe_;
  size_t unsent_ = 0;
  bool started_ = false, done_ = false, paused_ = false;
  std::atomic<bool> closed_{false};
  std::function<void()> closed_call_;      // of the I/O thread
  std::function<void(bool)> paused_call_;  // the same
};

}  // namespace coterie::serve

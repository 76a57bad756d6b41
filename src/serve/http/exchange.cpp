#include "serve/http/exchange.h"

#include <fmt/format.h>

#include <ctime>

namespace coterie::serve {

namespace {

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text, length};
}

// No value may end its line and begin another header.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

std::string head_of(int status, const HttpHeaders& headers, const Framing& framing) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", status, reason_phrase(status), date());
  for (const auto& [name, value] : headers) head += name + ": " + one_line(value) + "\r\n";
  if (!framing.keep_alive) head += "Connection: close\r\n";
  if (framing.keep_alive && framing.http_1_0) head += "Connection: keep-alive\r\n";
  return head;
}

std::string chunk_of(const std::string& bytes) { return fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n"; }

}  // namespace

std::string serialized(const HttpResponse& response, const Framing& framing) {
  HttpHeaders headers = response.headers;
  if (!response.content_type.empty()) headers.emplace_back("Content-Type", response.content_type);
  if (response.status != 204) headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  return head_of(response.status, headers, framing) + "\r\n" + (framing.head_only ? "" : response.body);
}

QueuedExchange::QueuedExchange(Framing framing, size_t unsent_limit, std::function<void(std::function<void()>)> post,
                               std::function<void()> wake)
    : framing_(framing), limit_(unsent_limit), post_(std::move(post)), wake_(std::move(wake)) {}

void QueuedExchange::queue(std::string bytes) {
  unsent_ += bytes.size();
  pending_ += bytes;
  if (unsent_ > limit_ && !paused_) {
    paused_ = true;
    post_([self = shared_from_this()] { self->tell_paused(true); });
  }
  post_(wake_);
}

void QueuedExchange::tell_paused(bool paused) {
  if (paused_call_) paused_call_(paused);
}

void QueuedExchange::respond(HttpResponse response) {
  const std::lock_guard lock(mutex_);
  if (closed_ || done_ || started_) return;
  started_ = done_ = true;
  queue(serialized(response, framing_));
}

void QueuedExchange::start(int status, HttpHeaders headers, std::string probe) {
  const std::lock_guard lock(mutex_);
  if (closed_ || started_) return;
  started_ = true;
  probe_ = std::move(probe);
  if (!framing_.http_1_0) headers.emplace_back("Transfer-Encoding", "chunked");
  queue(head_of(status, headers, framing_) + "\r\n");
}

void QueuedExchange::write(std::string bytes) {
  const std::lock_guard lock(mutex_);
  if (closed_ || done_ || !started_ || bytes.empty() || framing_.head_only) return;
  queue(framing_.http_1_0 ? std::move(bytes) : chunk_of(bytes));
}

void QueuedExchange::finish() {
  const std::lock_guard lock(mutex_);
  if (closed_ || done_ || !started_) return;
  done_ = true;
  queue(framing_.http_1_0 || framing_.head_only ? "" : "0\r\n\r\n");
}

void QueuedExchange::on_closed(std::function<void()> call) {
  post_([self = shared_from_this(), call = std::move(call)] {
    if (self->closed_) return call();
    self->closed_call_ = call;
  });
}

void QueuedExchange::on_pause(std::function<void(bool)> call) {
  post_([self = shared_from_this(), call = std::move(call)] {
    if (self->closed_) return;
    self->paused_call_ = call;
    const std::lock_guard lock(self->mutex_);
    if (self->paused_) self->post_([self] { self->tell_paused(true); });
  });
}

std::string QueuedExchange::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(pending_, {});
}

void QueuedExchange::sent(size_t bytes) {
  const std::lock_guard lock(mutex_);
  unsent_ -= bytes;
  if (!paused_ || unsent_ > limit_ / 2) return;
  paused_ = false;
  post_([self = shared_from_this()] { self->tell_paused(false); });
}

bool QueuedExchange::done() {
  const std::lock_guard lock(mutex_);
  return done_ && pending_.empty();
}

void QueuedExchange::close() {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    pending_.clear();
  }
  const auto call = std::exchange(closed_call_, {});
  paused_call_ = {};
  if (call) call();
}

void QueuedExchange::probe() {
  const std::lock_guard lock(mutex_);
  if (done_) return;
  if (started_) return probe_.empty() ? void() : queue(framing_.http_1_0 ? probe_ : chunk_of(probe_));
  if (!framing_.http_1_0) queue("HTTP/1.1 100 Continue\r\n\r\n");
}

}  // namespace coterie::serve

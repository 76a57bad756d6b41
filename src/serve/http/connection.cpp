#include "serve/http/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/read.hpp>
#include <vector>

namespace coterie::serve {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using std::chrono::milliseconds;
using Core = HttpServer::Core;

constexpr size_t kReadAhead = 64 << 10;  // of requests that a client sends before it has the answer to the last
constexpr size_t kLingered = 1 << 20;
constexpr Connection::Clock::time_point kNever = Connection::Clock::time_point::max();

HttpRequest head_of(const http::request<http::string_body>& message, const std::string& peer) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  std::string target(message.target());
  if (const size_t scheme = target.find("://"); !target.starts_with("/") && scheme != std::string::npos)
    target = target.substr(std::min(target.find('/', scheme + 3), target.size()));
  if (const size_t mark = target.find('?'); mark != std::string::npos) {
    request.query = target.substr(mark + 1);
    target.resize(mark);
  }
  request.path = target;
  for (const auto& field : message)
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  request.peer = peer;
  return request;
}

// Whether the other side has ended both directions.
bool is_gone(int socket) {
  pollfd look{socket, 0, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void begin(const std::shared_ptr<Core>& core, Connection::Socket socket, std::string peer) {
  if (core->connections.size() >= core->options.limits.connections) {
    // Those that ask for nothing make room, the one that has been silent longest first.
    Connection* oldest = nullptr;
    for (const auto& each : core->connections)
      if (each->phase() == Connection::Phase::idle || each->phase() == Connection::Phase::head)
        if (!oldest || each->since() < oldest->since()) oldest = each.get();
    if (!oldest) return;  // all are being answered: the new one is closed
    const auto kept = oldest->shared_from_this();
    core->connections.erase(kept);
    kept->close();
  }
  auto connection = std::make_shared<Connection>(core, std::move(socket), std::move(peer));
  core->connections.insert(connection);
  core->connection_count = core->connections.size();
  asio::co_spawn(
      core->io, [connection]() -> asio::awaitable<void> { co_await connection->run(); },
      [core, connection](std::exception_ptr) {
        connection->close();
        core->connections.erase(connection);
        core->connection_count = core->connections.size();
      });
}

}  // namespace

void serve_connection(std::shared_ptr<Core> core, asio::ip::tcp::socket socket) {
  boost::system::error_code code;
  const auto endpoint = socket.remote_endpoint(code);
  socket.set_option(asio::ip::tcp::no_delay(true), code);
  // Else the system takes megabytes for a reader that has stopped.
  socket.set_option(asio::socket_base::send_buffer_size(256 << 10), code);
  const std::string peer = endpoint.address().to_string() + ":" + std::to_string(endpoint.port());
  begin(core, Connection::Socket(std::move(socket)), peer);
}

void serve_connection(std::shared_ptr<Core> core, asio::local::stream_protocol::socket socket) {
  begin(core, Connection::Socket(std::move(socket)), "unix");
}

void end_overdue(Core& core) {
  const auto now = Connection::Clock::now();
  const std::vector<std::shared_ptr<Connection>> all(core.connections.begin(), core.connections.end());
  for (const auto& connection : all) connection->look_at(now);
}

void end_idle(Core& core) {
  const std::vector<std::shared_ptr<Connection>> all(core.connections.begin(), core.connections.end());
  for (const auto& connection : all)
    if (connection->phase() == Connection::Phase::idle || connection->phase() == Connection::Phase::head)
      connection->close();
}

void end_all(Core& core) {
  const std::vector<std::shared_ptr<Connection>> all(core.connections.begin(), core.connections.end());
  for (const auto& connection : all) connection->close();
}

Connection::Connection(std::shared_ptr<Core> core, Socket socket, std::string peer)
    : core_(std::move(core)),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      buffer_(core_->options.limits.head + kReadAhead),
      signal_(core_->io),
      since_(Clock::now()),
      deadline_(since_ + core_->options.limits.head_time) {}

void Connection::enter(Phase phase, milliseconds most) {
  phase_ = phase;
  since_ = Clock::now();
  deadline_ = since_ + most;
}

void Connection::look_at(Clock::time_point now) {
  if (now < deadline_) return;
  deadline_ = kNever;
  overdue_ = true;
  boost::system::error_code code;
  // A request that stops in the middle is told so; a reader that does not read cannot be.
  if (phase_ == Phase::head || phase_ == Phase::body)
    socket_.cancel(code);
  else
    close();
}

void Connection::close() {
  boost::system::error_code code;
  if (exchange_) exchange_->close();
  if (socket_.is_open()) socket_.close(code);
  signal_.cancel();
}

void Connection::client_gone() { close(); }

asio::awaitable<void> Connection::run() {
  while (socket_.is_open() && !core_->draining) {
    const bool more = co_await one_request();
    if (!more) break;
    served_ = true;
  }
  close();
}

asio::awaitable<bool> Connection::one_request() {
  ErrorCode code;
  const HttpLimits& limits = core_->options.limits;
  enter(Phase::idle, served_ ? limits.idle_time : limits.head_time);
  if (buffer_.size() == 0) {
    co_await socket_.async_wait(Socket::wait_read, asio::redirect_error(asio::use_awaitable, code));
    if (code) co_return false;
  }
  enter(Phase::head, limits.head_time);
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(limits.head));
  parser.body_limit(limits.body);
  co_await http::async_read_header(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, code));
  HttpRequest head = head_of(parser.get(), peer_);
  if (code) {
    co_await fault(code, head);
    co_return false;
  }
  Framing framing;
  framing.http_1_0 = parser.get().version() < 11;
  framing.keep_alive = parser.keep_alive() && !core_->draining;
  framing.head_only = head.method == "HEAD";
  if (framing.head_only) head.method = "GET";

  if (core_->callbacks.on_head) {
    std::optional<HttpResponse> refused = core_->callbacks.on_head(head);
    if (refused) {
      const bool more = co_await refuse(std::move(*refused), parser, framing);
      co_return more;
    }
  }
  const std::string_view expected = head.header("Expect");
  if (!expected.empty() && !boost::beast::iequals({expected.data(), expected.size()}, "100-continue")) {
    HttpResponse response = core_->callbacks.on_fault(417, "Expect can be 100-continue alone", head);
    framing.keep_alive = false;
    const bool sent = co_await send(serialized(response, framing));
    (void)sent;
    co_return false;
  }
  if (!parser.is_done()) {
    if (!expected.empty()) {
      const bool sent = co_await send("HTTP/1.1 100 Continue\r\n\r\n");
      if (!sent) co_return false;
    }
    enter(Phase::body, limits.body_time);
    co_await http::async_read(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, code));
    if (code) {
      co_await fault(code, head);
      co_return false;
    }
  }
  head.body = std::move(parser.get().body());
  const bool more = co_await answer(std::move(head), framing);
  co_return more;
}

asio::awaitable<bool> Connection::refuse(HttpResponse response, Parser& parser, Framing framing) {
  const bool waits = !parser.get()[http::field::expect].empty();
  const auto length = parser.content_length();
  // The body of a small request is read away, so that the connection can go on.
  const bool small = parser.is_done() || (!waits && length && *length <= kLingered);
  if (!small) framing.keep_alive = false;
  const bool sent = co_await send(serialized(response, framing));
  if (!sent) co_return false;
  if (!small) {
    co_await linger();
    co_return false;
  }
  if (!parser.is_done()) {
    ErrorCode code;
    enter(Phase::body, core_->options.limits.head_time);
    co_await http::async_read(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, code));
    if (code) co_return false;
  }
  co_return framing.keep_alive;
}

asio::awaitable<void> Connection::fault(ErrorCode code, const HttpRequest& head) {
  int status = 0;
  std::string message;
  if (overdue_ && socket_.is_open()) {
    status = 408, message = "the request did not come to its end in time";
  } else if (code == http::error::body_limit) {
    status = 413,
    message = "the body is larger than the " + std::to_string(core_->options.limits.body) + " bytes allowed";
  } else if (code == http::error::header_limit || code == http::error::buffer_overflow) {
    status = 431,
    message = "the head is larger than the " + std::to_string(core_->options.limits.head) + " bytes allowed";
  } else if (code != http::error::end_of_stream &&
             code.category() == http::make_error_code(http::error::bad_method).category()) {
    status = 400, message = "this is not an HTTP request: " + code.message();
  }
  if (status == 0) co_return;
  Framing framing;
  framing.keep_alive = false;
  const bool sent = co_await send(serialized(core_->callbacks.on_fault(status, message, head), framing));
  if (sent) co_await linger();
}

asio::awaitable<bool> Connection::send(std::string bytes) {
  ErrorCode code;
  phase_ = Phase::answering;
  for (size_t sent = 0; sent < bytes.size() && !code;) {
    deadline_ = Clock::now() + core_->options.limits.write_time;
    sent += co_await socket_.async_write_some(asio::buffer(bytes.data() + sent, bytes.size() - sent),
                                              asio::redirect_error(asio::use_awaitable, code));
  }
  deadline_ = kNever;
  co_return !code;
}

asio::awaitable<void> Connection::linger() {
  ErrorCode code;
  socket_.shutdown(Socket::shutdown_send, code);
  enter(Phase::answering, milliseconds(2000));
  std::vector<char> waste(16 << 10);
  for (size_t read = 0; !code && read < kLingered;)
    read += co_await socket_.async_read_some(asio::buffer(waste), asio::redirect_error(asio::use_awaitable, code));
}

asio::awaitable<bool> Connection::answer(HttpRequest request, Framing framing) {
  ErrorCode code;
  const auto post = [weak = std::weak_ptr<Core>(core_)](std::function<void()> call) {
    if (const auto core = weak.lock()) asio::post(core->io, std::move(call));
  };
  const auto exchange =
      std::make_shared<QueuedExchange>(framing, core_->options.limits.unsent, post, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->signal_.cancel();
      });
  struct Count {
    std::atomic<size_t>& count;
    explicit Count(std::atomic<size_t>& c) : count(c) { ++count; }
    ~Count() { --count; }
  } counted(core_->exchange_count);
  exchange_ = exchange;
  phase_ = Phase::answering;
  deadline_ = kNever;
  asio::co_spawn(
      core_->io, [self = shared_from_this(), exchange]() -> asio::awaitable<void> { co_await self->watch(exchange); },
      asio::detached);
  core_->callbacks.on_request(std::move(request), exchange);
  while (socket_.is_open() && !exchange->closed()) {
    const std::string bytes = exchange->take();
    for (size_t sent = 0; sent < bytes.size() && !code;) {
      deadline_ = Clock::now() + core_->options.limits.write_time;
      const size_t now = co_await socket_.async_write_some(asio::buffer(bytes.data() + sent, bytes.size() - sent),
                                                           asio::redirect_error(asio::use_awaitable, code));
      sent += now;
      exchange->sent(now);
    }
    deadline_ = kNever;
    if (code) break;
    if (!bytes.empty()) continue;
    if (exchange->done()) break;
    signal_.expires_at(kNever);
    ErrorCode woken;
    co_await signal_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }
  const bool complete = !code && socket_.is_open() && exchange->done();
  if (!complete) {
    close();
    exchange_.reset();
    co_return false;
  }
  exchange_.reset();
  socket_.cancel(code);  // the watch
  co_return framing.keep_alive && !peer_done_ && !core_->draining;
}

asio::awaitable<void> Connection::watch(std::shared_ptr<QueuedExchange> exchange) {
  ErrorCode code;
  while (exchange_ == exchange && !peer_done_) {
    co_await socket_.async_wait(Socket::wait_read, asio::redirect_error(asio::use_awaitable, code));
    if (exchange_ != exchange || !socket_.is_open()) co_return;
    if (code) co_return client_gone();
    const auto room = buffer_.prepare(4096);
    const ssize_t read = ::recv(socket_.native_handle(), room.data(), room.size(), MSG_DONTWAIT);
    if (read > 0) {  // the next request, before this one is answered
      buffer_.commit(static_cast<size_t>(read));
      if (buffer_.size() + 4096 > kReadAhead) co_return;
    } else if (read == 0) {
      peer_done_ = true;
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      co_return client_gone();
    }
  }
  if (exchange_ != exchange) co_return;
  // A client that has closed answers the next bytes with a reset; one that has only ended its own sending reads them.
  exchange->probe();
  asio::steady_timer pause(core_->io);
  while (exchange_ == exchange && socket_.is_open()) {
    pause.expires_after(milliseconds(50));
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, code));
    if (exchange_ == exchange && socket_.is_open() && is_gone(socket_.native_handle())) co_return client_gone();
  }
}

}  // namespace coterie::serve

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "serve/http/core.h"
#include "serve/http/exchange.h"

namespace coterie::serve {

/// One client's connection: request after request, each read, handed on and answered before the next. All of it runs on
/// the I/O thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using Clock = std::chrono::steady_clock;
  enum class Phase { idle, head, body, answering };

  Connection(std::shared_ptr<HttpServer::Core> core, Socket socket, std::string peer);
  boost::asio::awaitable<void> run();
  /// Ends what waits longer than it may.
  void look_at(Clock::time_point now);
  void close();
  Phase phase() const { return phase_; }
  Clock::time_point since() const { return since_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;
  template <typename T>
  using Awaitable = boost::asio::awaitable<T>;

  void enter(Phase phase, std::chrono::milliseconds most);
  /// Each of these returns whether the connection goes on.
  Awaitable<bool> one_request();
  Awaitable<bool> answer(HttpRequest request, Framing framing);
  Awaitable<bool> refuse(HttpResponse response, Parser& parser, Framing framing);
  Awaitable<void> fault(ErrorCode code, const HttpRequest& head);
  Awaitable<bool> send(std::string bytes);
  /// Reads and forgets what the client still sends, so that its system does not throw the answer away.
  Awaitable<void> linger();
  Awaitable<void> watch(std::shared_ptr<QueuedExchange> exchange);
  void client_gone();

  std::shared_ptr<HttpServer::Core> core_;
  Socket socket_;
  std::string peer_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer signal_;
  std::shared_ptr<QueuedExchange> exchange_;  // while answering
  Phase phase_ = Phase::idle;
  Clock::time_point since_, deadline_;
  bool served_ = false;     // a request before this one
  bool overdue_ = false;    // what it waited for did not come in time
  bool peer_done_ = false;  // the client sends nothing more
};

}  // namespace coterie::serve

#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_set>

#include "serve/http/http.h"

// What server.cpp and connection.cpp share; nothing else includes it.
namespace coterie::serve {

class Connection;

struct HttpServer::Core : std::enable_shared_from_this<HttpServer::Core> {
  explicit Core(HttpOptions wanted, HttpCallbacks callbacks_)
      : options(std::move(wanted)), callbacks(std::move(callbacks_)) {}

  HttpOptions options;
  HttpCallbacks callbacks;
  boost::asio::io_context io{1};
  std::list<boost::asio::ip::tcp::acceptor> tcp;
  std::optional<boost::asio::local::stream_protocol::acceptor> local;
  boost::asio::steady_timer tick{io};
  std::unordered_set<std::shared_ptr<Connection>> connections;  // of the I/O thread, as all below
  bool draining = false;
  uint16_t port = 0;
  std::atomic<size_t> connection_count{0}, exchange_count{0};
  std::thread thread;
};

/// Takes over an accepted socket, whatever its kind, and serves it until it ends. I/O thread.
void serve_connection(std::shared_ptr<HttpServer::Core> core, boost::asio::ip::tcp::socket socket);
void serve_connection(std::shared_ptr<HttpServer::Core> core, boost::asio::local::stream_protocol::socket socket);
/// Ends what has been waited for too long; four times a second.
void end_overdue(HttpServer::Core& core);
/// Ends the connections that have no request being answered.
void end_idle(HttpServer::Core& core);
void end_all(HttpServer::Core& core);

}  // namespace coterie::serve

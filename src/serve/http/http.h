#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// HTTP/1.1 as the rest of this room sees it. Only server.cpp and connection.cpp beside this file know which library
// reads and writes it.
namespace coterie::serve {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"; HEAD is given as GET, and its answer's body is not sent
  std::string path;    // without the query
  std::string query;   // after '?', as it was sent
  HttpHeaders headers;
  std::string body;
  std::string peer;  // "127.0.0.1:50312", or "unix" for a socket in the file system

  /// The first header of this name, whatever the case of its letters; empty when there is none.
  std::string_view header(std::string_view name) const;
  /// The value of a key of the query, percent-decoded; nothing when it is not there.
  std::optional<std::string> query_value(std::string_view key) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

/// One request's answer: whole, or as a stream. Every method may be called from any thread; what is called back runs on
/// the I/O thread. After the client has gone all of it does nothing.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// The whole answer. Neither this nor start() may have been called before.
  virtual void respond(HttpResponse response) = 0;
  /// The head of a stream, sent at once. `probe` changes nothing for a client that reads it: it is sent to learn
  /// whether a client that has stopped sending is still there.
  virtual void start(int status, HttpHeaders headers, std::string probe) = 0;
  virtual void write(std::string bytes) = 0;
  /// The end of a stream.
  virtual void finish() = 0;
  virtual bool closed() const = 0;
  /// Called once when the client has gone, or was ended, before finish(); at once when it is gone already.
  virtual void on_closed(std::function<void()> call) = 0;
  /// Called with true when more than HttpLimits::unsent bytes wait for a slow reader, and with false when half of them
  /// are gone.
  virtual void on_pause(std::function<void(bool paused)> call) = 0;
};

struct HttpLimits {
  size_t head = 16 << 10, body = 32 << 20, unsent = 1 << 20;  // bytes
  size_t connections = 1024;                                  // beyond, the longest idle one is closed
  std::chrono::milliseconds head_time{10'000};                // from the first byte of a request to the end of its head
  std::chrono::milliseconds body_time{120'000};
  std::chrono::milliseconds idle_time{60'000};   // between requests
  std::chrono::milliseconds write_time{30'000};  // without a byte taken by the reader
};

struct HttpOptions {
  std::vector<std::string> hosts = {"127.0.0.1"};  // addresses or names that have one; none: no TCP
  uint16_t port = 8080;                            // of all of them; 0 = a free one
  std::string unix_path;                           // a socket in the file system; empty: none
  HttpLimits limits;
};

/// What the server asks of its owner. All run on the I/O thread and must not wait.
struct HttpCallbacks {
  /// Looks at a request before its body is read; an answer ends it there.
  std::function<std::optional<HttpResponse>(const HttpRequest& head)> on_head;
  std::function<void(HttpRequest request, std::shared_ptr<Exchange> exchange)> on_request;
  /// The answer to bytes that are not a request that can be served: status 400, 408, 413, 417 or 431. `head` holds what
  /// is known of it.
  std::function<HttpResponse(int status, std::string_view message, const HttpRequest& head)> on_fault;
  /// Four times a second.
  std::function<void()> on_tick;
};

/// One I/O thread that accepts, reads and writes.
class HttpServer {
 public:
  /// Binds and listens; throws io when it cannot. A socket in the file system that nobody listens on is replaced.
  HttpServer(HttpOptions options, HttpCallbacks callbacks);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// The TCP port; 0 without TCP.
  uint16_t port() const;
  void start();
  /// Runs `call` on the I/O thread.
  void post(std::function<void()> call);
  /// The same as a function that may be kept for longer than the server; after its end it does nothing.
  std::function<void(std::function<void()>)> poster() const;
  /// No more connections and no more requests on the open ones; those that are being answered go on.
  void drain();
  /// Ends all connections and joins the thread.
  void stop();
  /// Connections that there are, and requests being answered. From any thread.
  size_t connections() const;
  size_t exchanges() const;

  struct Core;

 private:
  std::shared_ptr<Core> core_;
};

/// The reason phrase: "Not Found".
std::string_view reason_phrase(int status);

}  // namespace coterie::serve

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/error.h"
#include "serve/http/core.h"

namespace coterie::serve {

namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;
using Core = HttpServer::Core;

// Each connection is a file; a shell's usual soft limit is as many as the connections allowed by default.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void listen_tcp(Core& core, const std::string& host) {
  // A port that was free for the first address is the others' too.
  const uint16_t port = core.port != 0 ? core.port : core.options.port;
  const std::string where = fmt::format("{}:{}", host, port);
  error_code code;
  asio::ip::tcp::resolver resolver(core.io);
  const auto found = resolver.resolve(host, std::to_string(port), asio::ip::tcp::resolver::passive, code);
  if (code || found.empty())
    throw base::Error(base::ErrorKind::bad_input, "serve.host",
                      fmt::format("\"{}\" is not an address: {}", host, code.message()),
                      "127.0.0.1 is this machine alone, 0.0.0.0 every address it has");
  asio::ip::tcp::acceptor& tcp = core.tcp.emplace_back(core.io);
  const asio::ip::tcp::endpoint endpoint = found.begin()->endpoint();
  tcp.open(endpoint.protocol(), code);
  if (!code) tcp.set_option(asio::socket_base::reuse_address(true), code);
  // Beside an address of IPv4 that has the same port.
  if (!code && endpoint.address().is_v6() && core.options.hosts.size() > 1)
    tcp.set_option(asio::ip::v6_only(true), code);
  if (!code) tcp.bind(endpoint, code);
  if (!code) tcp.listen(asio::socket_base::max_listen_connections, code);
  if (code)
    throw base::Error(
        base::ErrorKind::io, where, fmt::format("cannot be listened on: {}", code.message()),
        code == asio::error::address_in_use ? "another program has this port; `serve.port` 0 takes a free one" : "");
  core.port = tcp.local_endpoint().port();
}

void listen_local(Core& core) {
  const std::string& path = core.options.unix_path;
  error_code code;
  struct stat found {};
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode))
      throw base::Error(base::ErrorKind::bad_input, path, "already exists and is not a socket",
                        "choose another path for `serve.listen`");
    asio::local::stream_protocol::socket other(core.io);
    other.connect({path}, code);
    if (!code)
      throw base::Error(base::ErrorKind::io, path, "another program listens there",
                        "choose another path for `serve.listen`");
    ::unlink(path.c_str());
    code = {};
  }
  core.local.emplace(core.io);
  try {
    core.local->open();
    core.local->bind({path});
    core.local->listen();
  } catch (const boost::system::system_error& error) {
    core.local.reset();
    throw base::Error(base::ErrorKind::io, path, fmt::format("cannot be listened on: {}", error.code().message()));
  }
}

template <typename Acceptor>
asio::awaitable<void> accept_all(std::shared_ptr<Core> core, Acceptor& acceptor) {
  while (acceptor.is_open()) {
    error_code code;
    auto socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, code));
    if (code == asio::error::operation_aborted || core->draining) co_return;
    if (code) {  // no files left, or a client that went again: later
      asio::steady_timer pause(core->io, milliseconds(50));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, code));
      continue;
    }
    serve_connection(core, std::move(socket));
  }
}

asio::awaitable<void> tick_on(std::shared_ptr<Core> core) {
  error_code code;
  while (!code) {
    core->tick.expires_after(milliseconds(250));
    co_await core->tick.async_wait(asio::redirect_error(asio::use_awaitable, code));
    if (code) co_return;
    end_overdue(*core);
    if (core->callbacks.on_tick) core->callbacks.on_tick();
  }
}

}  // namespace

HttpServer::HttpServer(HttpOptions options, HttpCallbacks callbacks)
    : core_(std::make_shared<Core>(std::move(options), std::move(callbacks))) {
  raise_file_limit();
  for (const std::string& host : core_->options.hosts) listen_tcp(*core_, host);
  if (!core_->options.unix_path.empty()) listen_local(*core_);
}

HttpServer::~HttpServer() { stop(); }

void HttpServer::stop() {
  drain();
  post([core = core_] {
    core->tick.cancel();
    end_all(*core);
  });
  if (core_->thread.joinable()) core_->thread.join();
  if (core_->local) ::unlink(core_->options.unix_path.c_str());
  core_->local.reset();
}

std::function<void(std::function<void()>)> HttpServer::poster() const {
  return [weak = std::weak_ptr<Core>(core_)](std::function<void()> call) {
    if (const auto core = weak.lock()) asio::post(core->io, std::move(call));
  };
}

uint16_t HttpServer::port() const { return core_->port; }

void HttpServer::start() {
  for (auto& tcp : core_->tcp) asio::co_spawn(core_->io, accept_all(core_, tcp), asio::detached);
  if (core_->local) asio::co_spawn(core_->io, accept_all(core_, *core_->local), asio::detached);
  asio::co_spawn(core_->io, tick_on(core_), asio::detached);
  core_->thread = std::thread([core = core_] {
    while (true) {
      try {
        core->io.run();
        return;
      } catch (const std::exception&) {
        // Out of memory for one client's bytes: the others go on.
      }
    }
  });
}

void HttpServer::post(std::function<void()> call) { asio::post(core_->io, std::move(call)); }

void HttpServer::drain() {
  post([core = core_] {
    error_code code;
    core->draining = true;
    for (auto& tcp : core->tcp) tcp.close(code);
    if (core->local) core->local->close(code);
    end_idle(*core);
  });
}

size_t HttpServer::connections() const { return core_->connection_count; }
size_t HttpServer::exchanges() const { return core_->exchange_count; }

}  // namespace coterie::serve

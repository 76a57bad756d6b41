// Bytes on a connection: each input is sent to a server on a socket of its own folder, which has to answer in HTTP or
// to close, and to go on serving.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "fuzz/require.h"
#include "serve/api/guard.h"
#include "serve/http/http.h"
#include "support/temp_folder.h"

namespace coterie::serve {
namespace {

struct Running {
  Running() {
    HttpOptions options;
    options.hosts.clear();
    options.unix_path = (folder.path() / "socket").string();
    options.limits.head = 4096, options.limits.body = 4096;
    HttpCallbacks calls;
    calls.on_head = [this](const HttpRequest& head) -> std::optional<HttpResponse> {
      for (const auto& error :
           {guard.check_host(head), guard.check_origin(head), guard.check_key(head), guard.check_content_type(head)})
        if (error) FUZZ_REQUIRE(error->status >= 400 && error->status < 500);
      (void)guard.client_of(head), (void)head.query_value("key");
      return {};
    };
    calls.on_request = [](HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
      FUZZ_REQUIRE(request.body.size() <= 4096);
      HttpResponse response;
      response.body = "{}";
      exchange->respond(std::move(response));
    };
    calls.on_fault = [](int status, std::string_view, const HttpRequest&) {
      FUZZ_REQUIRE(status >= 400 && status < 500);
      HttpResponse response;
      response.status = status;
      return response;
    };
    server = std::make_unique<HttpServer>(options, calls);
    server->start();
    path = options.unix_path;
  }

  std::string send(const std::string& bytes) const {
    const int file = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    FUZZ_REQUIRE(::connect(file, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = ::send(file, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) break;  // it has heard enough
      at += static_cast<size_t>(sent);
    }
    ::shutdown(file, SHUT_WR);
    std::string answer;
    char buffer[4096];
    for (ssize_t got = 0; (got = ::recv(file, buffer, sizeof(buffer), 0)) > 0;)
      answer.append(buffer, static_cast<size_t>(got));
    ::close(file);
    return answer;
  }

  const TempFolder folder;
  const Guard guard{{.keys = {"sesame"}, .hosts = {}, .origins = {"https://example.org"}}};
  std::string path;
  std::unique_ptr<HttpServer> server;
};

}  // namespace
}  // namespace coterie::serve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const coterie::serve::Running running;
  const std::string answer = running.send(std::string(reinterpret_cast<const char*>(data), size));
  FUZZ_REQUIRE(answer.empty() || answer.starts_with("HTTP/1."));
  return 0;
}

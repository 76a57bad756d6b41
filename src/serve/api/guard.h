#pragma once

#include <optional>
#include <string>
#include <vector>

#include "serve/api/api_error.h"
#include "serve/http/http.h"

namespace coterie::serve {

/// Who may ask. Empty lists: nobody needs a key; the names of this machine alone.
struct GuardOptions {
  std::vector<std::string> keys;
  std::vector<std::string> hosts;    // names that the header Host may have besides addresses and localhost; "*": any
  std::vector<std::string> origins;  // pages that may ask besides those of this machine, as https://example.org
};

/// Checks of a request's head, before any of its body is read.
class Guard {
 public:
  explicit Guard(GuardOptions options) : options_(std::move(options)) {}

  /// A page on the web may make a browser ask a server on its reader's machine, by a name of its own that it lets stand
  /// for 127.0.0.1 (DNS rebinding). So Host has to be an address, localhost or a name that was allowed.
  std::optional<ApiError> check_host(const HttpRequest& head) const;
  /// Pages of other sites may not ask at all. Programs send no Origin.
  std::optional<ApiError> check_origin(const HttpRequest& head) const;
  /// Authorization: Bearer KEY, or X-Api-Key: KEY.
  std::optional<ApiError> check_key(const HttpRequest& head) const;
  /// A form of a foreign page can be sent without asking first (CORS), JSON cannot.
  std::optional<ApiError> check_content_type(const HttpRequest& head) const;
  /// Who asks, for turns and logs: not the key, but its place among all keys; or the address.
  std::string client_of(const HttpRequest& head) const;

 private:
  GuardOptions options_;
};

}  // namespace coterie::serve

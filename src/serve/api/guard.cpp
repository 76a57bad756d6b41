#include "serve/api/guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace coterie::serve {

namespace {

std::string lower(std::string_view text) {
  std::string small(text);
  std::transform(small.begin(), small.end(), small.begin(), [](unsigned char c) { return std::tolower(c); });
  return small;
}

// "localhost:8080" → "localhost", "[::1]:8080" → "[::1]".
std::string host_name(std::string_view host) {
  if (host.starts_with("[")) return lower(host.substr(0, std::min(host.find(']'), host.size() - 1) + 1));
  return lower(host.substr(0, std::min(host.find(':'), host.size())));
}

bool is_address(const std::string& host) {
  if (host.starts_with("[")) return true;
  return !host.empty() && host.find_first_not_of("0123456789.") == std::string::npos;
}

bool is_this_machine(const std::string& host) {
  return host == "localhost" || host.ends_with(".localhost") || host == "[::1]" ||
         (is_address(host) && host.starts_with("127."));
}

// Takes as long for a key that differs in its first letter as for one that differs in its last.
bool same_key(std::string_view a, std::string_view b) {
  unsigned char differs = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i)
    differs |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  return differs == 0;
}

std::string_view key_of(const HttpRequest& head) {
  const std::string_view bearer = head.header("Authorization");
  if (bearer.size() > 7 && lower(bearer.substr(0, 7)) == "bearer ") return bearer.substr(7);
  return head.header("X-Api-Key");
}

}  // namespace

std::optional<ApiError> Guard::check_host(const HttpRequest& head) const {
  if (head.peer == "unix") return {};
  const std::string host = host_name(head.header("Host"));
  const auto allowed = [&](const std::string& name) { return name == "*" || lower(name) == host; };
  if (is_address(host) || is_this_machine(host) || std::any_of(options_.hosts.begin(), options_.hosts.end(), allowed))
    return {};
  if (host.empty()) return ApiError(400, "the header Host is missing");
  return ApiError(
      403,
      fmt::format("the host \"{}\" is not one that this server answers to: started with `serve.allow_host` {} it does",
                  host, host),
      "", "host_not_allowed");
}

std::optional<ApiError> Guard::check_origin(const HttpRequest& head) const {
  const std::string origin = lower(head.header("Origin"));
  if (origin.empty()) return {};
  const size_t scheme = origin.find("://");
  const std::string authority = scheme == std::string::npos ? "" : origin.substr(scheme + 3);
  const bool same = !authority.empty() && authority == lower(head.header("Host"));
  const auto allowed = [&](const std::string& name) { return lower(name) == origin; };
  if (same || is_this_machine(host_name(authority)) ||
      std::any_of(options_.origins.begin(), options_.origins.end(), allowed))
    return {};
  return ApiError(403,
                  fmt::format("pages of {} may not use this server: started with `serve.allow_origin` {} it lets them",
                              origin, origin),
                  "", "origin_not_allowed");
}

std::optional<ApiError> Guard::check_key(const HttpRequest& head) const {
  if (options_.keys.empty()) return {};
  const std::string_view given = key_of(head);
  bool known = false;
  for (const std::string& key : options_.keys) known |= same_key(given, key);
  if (known) return {};
  return ApiError(401,
                  given.empty() ? "an API key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY"
                                : "this API key is not one of this server's",
                  "", "invalid_api_key");
}

std::optional<ApiError> Guard::check_content_type(const HttpRequest& head) const {
  if (head.method != "POST") return {};
  std::string type = lower(head.header("Content-Type"));
  type = type.substr(0, std::min(type.find(';'), type.size()));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  if (type == "application/json") return {};
  return ApiError(415, fmt::format("the body has to be JSON, with the header Content-Type: application/json; found {}",
                                   type.empty() ? "no Content-Type" : type));
}

std::string Guard::client_of(const HttpRequest& head) const {
  const std::string_view key = options_.keys.empty() ? std::string_view() : key_of(head);
  for (size_t i = 0; i < options_.keys.size(); ++i)
    if (same_key(key, options_.keys[i])) return fmt::format("key-{}", i + 1);
  return head.peer.substr(0, std::min(head.peer.rfind(':'), head.peer.size()));
}

}  // namespace coterie::serve

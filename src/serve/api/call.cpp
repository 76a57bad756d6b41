#include "serve/api/call.h"

#include <ctime>

namespace coterie::serve {

namespace {

std::string now_text() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", std::string_view(text, length), milliseconds);
}

double rounded(double seconds) { return static_cast<double>(static_cast<int64_t>(seconds * 1e4 + 0.5)) / 1e4; }

}  // namespace

HttpHeaders Call::headers() const {
  HttpHeaders all = {{"X-Request-Id", id},
                     {"Server", "coterie"},
                     {"Cache-Control", "no-store"},
                     {"X-Content-Type-Options", "nosniff"},
                     {"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"}};
  if (dialect == Dialect::anthropic) all.emplace_back("request-id", id);
  if (!origin.empty()) {
    all.emplace_back("Access-Control-Allow-Origin", origin);
    all.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
    all.emplace_back("Vary", "Origin");
  }
  return all;
}

double Call::seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(); }

void Call::reply(HttpResponse response) const {
  HttpHeaders all = headers();
  // What an answer says itself stands in the place of what all have.
  for (const auto& own : response.headers)
    std::erase_if(all, [&](const auto& header) { return header.first == own.first; });
  all.insert(all.end(), response.headers.begin(), response.headers.end());
  response.headers = std::move(all);
  write_log(response.status, response.status < 400 ? "ok" : "error", nullptr);
  exchange->respond(std::move(response));
}

void Call::reply_json(const base::Json& json) const {
  HttpResponse response;
  response.body = dumped(json);
  reply(std::move(response));
}

ApiError Call::worded(ApiError error) const {
  if (wording) error.message = wording(error.message);
  return error;
}

void Call::fail(const ApiError& thrown) const {
  const ApiError error = worded(thrown);
  HttpResponse response = error_response(error, dialect);
  HttpHeaders all = headers();
  all.insert(all.end(), response.headers.begin(), response.headers.end());
  response.headers = std::move(all);
  write_log(error.status, error.message, nullptr);
  exchange->respond(std::move(response));
}

void Call::write_log(int status, std::string_view how, const Answer* answer) const {
  if (!log) return;
  base::Json line = {{"time", now_text()}, {"request", id},    {"client", client},
                     {"peer", peer},       {"method", method}, {"path", path},
                     {"status", status},   {"result", how},    {"seconds", rounded(seconds())}};
  if (answer && !answer->choices.empty()) {
    const Usage usage = answer->usage();
    line["model"] = answer->model.name;
    line["prompt_tokens"] = usage.prompt_tokens;
    line["cached_tokens"] = usage.cached_tokens;
    line["completion_tokens"] = usage.completion_tokens;
    line["stream"] = answer->stream;
    for (const std::string& warning : answer->warnings) line["passed_over"].push_back(warning);
    if (const auto& finished = answer->choices.front().finished) {
      line["finish"] = name(finished->reason);
      line["queued_seconds"] = rounded(finished->timings.queued_seconds);
      line["first_token_seconds"] = rounded(finished->timings.first_token_seconds);
      if (!finished->cache_miss.empty()) line["cache_miss"] = finished->cache_miss;
    }
  }
  log(line);
}

}  // namespace coterie::serve

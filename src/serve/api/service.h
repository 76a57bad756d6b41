#pragma once

#include <functional>
#include <memory>
#include <string>

#include "serve/api/backend.h"
#include "serve/api/endpoints.h"
#include "serve/api/guard.h"
#include "serve/api/model.h"
#include "serve/http/http.h"

namespace coterie::serve {

struct ServiceOptions {
  HttpOptions http;
  GuardOptions guard;
  MetricNames metric_names = MetricNames::coterie;
  int desk_threads = 2;
  bool log_prompts = false;
  std::function<void(const std::string& line)> log;  // a line of JSON for each request; called from several threads
};

/// The HTTP API over one model: routes, checks, and sessions.
class Service {
 public:
  /// Listens, and answers from start() on. `model` and `backend` must outlive it. Throws as HttpServer does.
  Service(const ServedModel& model, Backend& backend, ServiceOptions options);
  /// Ends all connections at once.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  void start();
  uint16_t port() const;
  /// Takes no more requests; those that are being answered go on to their ends. idle() tells.
  void drain();
  bool idle() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace coterie::serve

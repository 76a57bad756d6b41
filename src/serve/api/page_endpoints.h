#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

#include "base/json.h"
#include "serve/api/backend.h"
#include "serve/api/model.h"
#include "serve/http/http.h"

// What the page at / is made of, beside the API that everybody uses.
namespace coterie::serve {

/// The last requests, without anything that says whose they were or what they were about. Any thread.
class RecentRequests {
 public:
  /// A line of the log (Call::write_log).
  void add(const base::Json& line);
  base::Json json() const;  // the last one first

 private:
  static constexpr size_t kKept = 50;
  mutable std::mutex mutex_;
  std::deque<base::Json> lines_;
};

/// GET /coterie/model: what there is to look at: layers with routers, how they choose, bytes.
base::Json page_model_json(const ServedModel& model, const SchedulerOptions& options);
/// GET /coterie/experts: how many tokens each expert took since the start, and in which memory it lies (an index into
/// place_names).
base::Json page_experts_json(const Snapshot& snapshot, const ServedModel& model);
/// GET /coterie/live: what the server is doing now.
base::Json page_live_json(const Snapshot& snapshot, const RecentRequests& recent);

/// The page itself, with the policy that lets it run its own script and style alone and connect to this server alone.
HttpResponse page_response();
/// Of a page's <meta http-equiv="Content-Security-Policy" content="…">.
std::string page_policy();

}  // namespace coterie::serve

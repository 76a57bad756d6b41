#pragma once

#include <cstdint>
#include <string>

namespace coterie::serve {

/// All of an engine that a bit of a page depends on, so that pages on disk are found by the same engine alone. What
/// differs between the requests of one engine is in runtime::prefix_key.
struct EngineFields {
  std::string files;                                           // of the model: names, sizes, times, beginnings
  std::string adapter;                                         // likewise, with its scale; empty without
  std::string router;                                          // what is changed of the routers for all requests
  int64_t experts_per_token = 0;                               // 0: the model's own
  std::string rope;                                            // what is changed of the rotary embedding
  std::string cache_type;                                      // "f16"
  std::string precision;                                       // "fast"
  std::string kernels;                                         // the table's name: "avx2"
  std::string version;                                         // of this program
  int64_t page_bytes = 0, route_values = 0, state_floats = 0;  // of a record
};
/// A text that differs where any of them does.
std::string page_fingerprint(const EngineFields& fields);
/// "coterie-0.3-1a2b3c4d": a short name of it, for answers' system_fingerprint.
std::string short_fingerprint(const std::string& version, const std::string& fingerprint);

}  // namespace coterie::serve

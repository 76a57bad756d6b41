#include "serve/page_fingerprint.h"

#include <fmt/format.h>

#include "base/fnv.h"

namespace coterie::serve {

std::string page_fingerprint(const EngineFields& fields) {
  std::string text;
  // The length before each, so that no two sets of fields come to one text.
  const auto add = [&](const char* name, const std::string& value) {
    text += fmt::format("{} {} {}\n", name, value.size(), value);
  };
  add("version", fields.version);
  add("files", fields.files);
  add("adapter", fields.adapter);
  add("router", fields.router);
  add("experts", std::to_string(fields.experts_per_token));
  add("rope", fields.rope);
  add("cache", fields.cache_type);
  add("precision", fields.precision);
  add("kernels", fields.kernels);
  add("record", fmt::format("{} {} {}", fields.page_bytes, fields.route_values, fields.state_floats));
  return text;
}

std::string short_fingerprint(const std::string& version, const std::string& fingerprint) {
  uint64_t hash = base::kFnvBegin;
  for (const unsigned char c : fingerprint) hash = base::fnv_step(hash, c);
  return fmt::format("coterie-{}-{:08x}", version, hash & 0xffffffffU);
}

}  // namespace coterie::serve

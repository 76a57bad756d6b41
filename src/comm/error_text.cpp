#include "comm/error_text.h"

#include "base/json.h"

namespace coterie::comm {

using base::Error;

std::string error_text(const Error& error) {
  const base::Json json = {{"kind", static_cast<int>(error.kind())},
                           {"where", error.where()},
                           {"message", error.message()},
                           {"hint", error.hint()}};
  return json.dump(-1, ' ', false, base::Json::error_handler_t::replace);
}

void throw_first(const Ranks& ranks, const std::vector<std::string>& errors) {
  for (int r = 0; r < std::ssize(errors); ++r) {
    if (errors[static_cast<size_t>(r)].empty()) continue;
    const base::Json error = base::Json::parse(errors[static_cast<size_t>(r)]);
    const Error thrown(static_cast<base::ErrorKind>(error.at("kind").get<int>()), error.at("where"),
                       error.at("message"), error.at("hint"));
    throw r == ranks.rank() ? thrown : thrown.within(ranks.describe(r));
  }
}

}  // namespace coterie::comm

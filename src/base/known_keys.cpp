#include "base/known_keys.h"

#include <algorithm>

#include "base/nearest.h"

namespace coterie::base {

void expect_keys(const Json& object, std::string_view where, std::initializer_list<std::string_view> known) {
  if (!object.is_object()) return;
  const std::vector<std::string> names(known.begin(), known.end());
  for (const auto& [key, value] : object.items()) {
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    const std::string meant = did_you_mean(key, names);
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
    throw Error(ErrorKind::bad_input, std::string(where), fmt::format("key \"{}\" is not known", key),
                meant.empty() ? "known here are: " + all : meant);
  }
}

}  // namespace coterie::base

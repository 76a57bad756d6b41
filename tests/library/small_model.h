#pragma once

#include <coterie/coterie.h>

#include <string>

#include "support/places.h"

namespace coterie::test {

inline std::string small_path() { return coterie::tests::source_folder() + "/../models/coterie-small.gguf"; }
inline std::string fixture(const std::string& family) {
  return coterie::tests::source_folder() + "/parity/data/" + family + "/base";
}

/// Loaded once; whoever needs other options loads it anew.
inline const Model& small() {
  static const Model model = Model::load(small_path(), {.threads = 2, .context = 256});
  return model;
}

inline GenerateOptions greedy(int64_t tokens) {
  GenerateOptions options;
  options.temperature = 0;
  options.max_tokens = tokens;
  options.ignore_end = true;
  return options;
}

template <typename Body>
Error error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("nothing was thrown");
}

}  // namespace coterie::test

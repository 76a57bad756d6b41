#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/error.h"

namespace coterie {

/// Runs `body`, which must throw an Error of this kind whose text (place, message and hint) holds all of `words`.
template <typename Body>
void expect_error(base::ErrorKind kind, std::initializer_list<std::string_view> words, Body&& body) {
  try {
    body();
  } catch (const base::Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    for (const std::string_view word : words)
      EXPECT_NE(std::string_view(error.what()).find(word), std::string_view::npos)
          << "expected \"" << word << "\" in: " << error.what();
    return;
  }
  ADD_FAILURE() << "nothing was refused";
}

}  // namespace coterie

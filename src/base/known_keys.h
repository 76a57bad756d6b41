#pragma once

#include <initializer_list>
#include <string_view>

#include "base/json.h"

namespace coterie::base {

/// Throws bad_input for the first key of an object that is not among those that are known, with the one it resembles.
/// For what people write by hand, before any of it is read: otherwise a misspelt key that something needs would be
/// called missing. JsonReader::refuse_unread after reading says that each known key was honoured. What is no object is
/// left to the reader to refuse.
void expect_keys(const Json& object, std::string_view where, std::initializer_list<std::string_view> known);

}  // namespace coterie::base

#pragma once

#include <string>

#include "base/error.h"

namespace coterie::cli {

/// What a text of the library says of its fields, in the words of the command line: "a smaller `context` needs less"
/// becomes "a smaller --context needs less". The library's errors name fields in `backticks`; a user of the command
/// line knows options. Names that are not options stay as they are.
std::string with_options(const std::string& text);
/// The same of fields `serve.…` alone: what clients of a server read names their requests' fields as they are.
std::string with_server_options(const std::string& text);

/// The same of where an error is: "top_k" becomes "--top-k", and "upcycle.router: score" "--router: score".
std::string option_of(const std::string& where);

/// "where: message" of an error, in the words of the command line.
std::string text_of(const base::Error& error);

}  // namespace coterie::cli

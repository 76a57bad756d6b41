#pragma once
#include <string>

namespace coterie::tests {

// Where the tests' own files lie, and where the programs were built. Functions and not definitions of the compiler's
// command line: so the compiler's cache knows the tests' files again in another checkout.
const std::string& source_folder();
const std::string& build_folder();

}  // namespace coterie::tests

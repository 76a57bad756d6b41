#pragma once

namespace coterie::cli {

/// The whole program: parses, does what was asked for, turns errors into words on stderr. Returns the exit code.
int run(int argc, char** argv);

}  // namespace coterie::cli

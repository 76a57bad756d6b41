#pragma once

#include <functional>
#include <string>

#include "comm/ranks.h"
#include "families/open.h"

namespace coterie::runtime {

/// What a rank has found out before the ranks of a run agree.
struct Introduction {
  std::string options;  // what changes results, as text: must be the same everywhere
  std::string files;    // fingerprint_of the opened model
  std::string error;    // why it cannot go on, by comm::error_text(); empty: it can
  std::string isas;     // instruction sets this rank can run, best first, separated by spaces; empty: as the CPU has
};

/// A fingerprint of a model's files: names, types, shapes and sizes of all tensors, and samples of their bytes. Not
/// proof against intent, but against a rank that reads another file.
std::string fingerprint_of(const families::Model& model);

/// Every rank tells all others who it is, and all come to the same conclusion: throws the first rank's error, by name;
/// bad_input for other options, versions, C libraries or files than rank 0's. Returns the instruction set that all
/// ranks must use: the best that each of them has, or the one that COTERIE_ISA asks for on all.
std::string agree(comm::Ranks& ranks, const Introduction& own);

/// Does `body` on every rank, then tells all others whether it went well. Throws the own error, else the first of
/// another rank, by name.
void together(comm::Ranks& ranks, const std::function<void()>& body);

}  // namespace coterie::runtime

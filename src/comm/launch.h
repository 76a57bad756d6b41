#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"

namespace coterie::comm {

/// What the environment of a process says of how it was started.
struct Launch {
  std::string launcher;  // "Open MPI's mpirun", "MPICH's mpirun", "srun"
  std::string module;    // which MPI it speaks: "openmpi" or "mpich"
  int rank = 0, size = 1;
};

/// Nothing for a process that is alone: started by itself, or as the only one. `variable` reads the environment.
std::optional<Launch> read_launch(const std::function<const char*(const char*)>& variable);
std::optional<Launch> read_launch();

/// Loads the MPI module that the launcher needs, from the folder that COTERIE_MPI_MODULES names, beside the program, or
/// from lib/coterie beside its folder, and starts MPI. Throws unsupported where this build has no such module, and
/// where MPI finds one rank though the launcher started more (each would be rank 0 of its own run).
std::unique_ptr<Communicator> join(const Launch& launch);

}  // namespace coterie::comm

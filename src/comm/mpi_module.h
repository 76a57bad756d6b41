#pragma once

#include "comm/communicator.h"

namespace coterie::comm {

/// What each of the modules that src/comm/mpi.cpp is compiled into (one for each MPI of the machine it was built on)
/// exports as "coterie_start_mpi": MPI_Init_thread, and the ranks of MPI_COMM_WORLD; destroyed, MPI_Finalize. Throws
/// std::runtime_error.
using StartMpi = Communicator* (*)();

}  // namespace coterie::comm

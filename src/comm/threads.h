#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace coterie::comm {

/// `size` ranks in one process, each for a thread of its own: for tests of what ranks do, without MPI. They may be
/// destroyed in any order; what a rank has sent may be received after it is gone.
std::vector<std::unique_ptr<Communicator>> ranks_of_one_process(int size);

/// The only rank of a run without others.
std::unique_ptr<Communicator> one_rank();

}  // namespace coterie::comm

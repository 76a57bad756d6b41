#pragma once

#include <memory>

#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/stored_files.h"

namespace coterie::runtime {

/// Reads by io_uring: no threads of its own, the caller takes what is done. Where the kernel does not let it
/// (containers and some distributions forbid it), or the build has none, the threads of thread_reader.h, which is what
/// name() says then.
std::unique_ptr<BlockReader> make_uring_reader(StoredFiles files);

}  // namespace coterie::runtime

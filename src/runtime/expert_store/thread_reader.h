#pragma once

#include <memory>

#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/stored_files.h"

namespace coterie::runtime {

/// Threads that read with preadv, one piece each at a time: they sleep in the system, not on a processor. Works
/// everywhere.
inline constexpr int kReaderThreads = 8;
std::unique_ptr<BlockReader> make_thread_reader(StoredFiles files, int threads = kReaderThreads);

}  // namespace coterie::runtime

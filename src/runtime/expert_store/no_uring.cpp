#include <utility>

#include "runtime/expert_store/thread_reader.h"
#include "runtime/expert_store/uring_reader.h"

// Built where liburing (Debian: liburing-dev) was not found; uring.cpp otherwise.
namespace coterie::runtime {

std::unique_ptr<BlockReader> make_uring_reader(StoredFiles files) { return make_thread_reader(std::move(files)); }

}  // namespace coterie::runtime

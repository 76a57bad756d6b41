#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace coterie::base {

/// Bytes this process could still make resident: the smaller of MemAvailable and what its cgroup has left.
int64_t available_memory();
/// Bytes of the machine, or of the cgroup where that is smaller.
int64_t total_memory();
/// Bytes resident now, and at the highest point so far.
int64_t resident_memory();
int64_t peak_resident_memory();

/// Throws out_of_memory, with both figures, when `bytes` of memory that must be resident would not fit. Call before
/// allocating caches, scratch or repacked weights; `what` names it ("KV cache of 131072 positions").
void require_memory(int64_t bytes, std::string_view what, std::string_view hint);

/// Whether the system holds all of this part of a mapped file in memory, so that reading it touches no disk.
bool in_memory(std::span<const std::byte> mapped);
/// Lets go of the whole pages of a file's mapping that lie in it: who reads them again gets them from the file. Never
/// for memory that belongs to no file, which would lose what it holds.
void give_back(std::span<const std::byte> mapped);

/// "12.3 GB", "640 kB": decimal units, as disks and model cards count.
std::string human_bytes(int64_t bytes);

}  // namespace coterie::base

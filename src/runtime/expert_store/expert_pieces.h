#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/expert_layout.h"

namespace coterie::runtime {

/// One read of an expert on its way into a slot.
struct ExpertPiece {
  ReadPiece read;
  int64_t needed = 0;                 // bytes of it that the expert has
  const std::byte* mapped = nullptr;  // what it shows in the file's mapping, for messages
};

/// In whole units of the reader, 1 MiB at most: the disk has several at a time. In the order of the file; untagged.
inline std::vector<ExpertPiece> pieces_of(const StoredExpert& expert, std::byte* slot, int64_t unit) {
  constexpr int64_t kPieceBytes = 1 << 20;
  std::vector<ExpertPiece> pieces;
  for (const ExpertPart& part : expert.parts) {
    const int64_t begin = part.offset / unit * unit, last = part.offset + part.bytes;
    const int64_t end = (last + unit - 1) / unit * unit;
    for (int64_t at = begin; at < end; at += kPieceBytes) {
      const ReadPiece read{.file = part.file,
                           .offset = at,
                           .bytes = std::min(kPieceBytes, end - at),
                           .to = slot + part.slot_offset + (at - begin)};
      pieces.push_back(
          {read, std::min(at + read.bytes, last) - at, part.mapped + std::max<int64_t>(at - part.offset, 0)});
    }
  }
  return pieces;
}

}  // namespace coterie::runtime

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "models/decoder.h"
#include "runtime/expert_store/file_table.h"

namespace coterie::runtime {

/// Bytes of a file that an expert's weights lie in.
struct ExpertPart {
  int32_t file = 0;  // of the table
  int64_t offset = 0, bytes = 0;
  const std::byte* mapped = nullptr;  // the same bytes in the file's mapping, which nobody touches
  int64_t slot_offset = 0;            // where the first unit of them lies in the expert's slot (fit)
};

/// One routed expert: where its weights lie in files, and where in a slot.
struct StoredExpert {
  std::vector<ExpertPart> parts;          // neighbours in a file are one part; empty for an expert without weights
  std::array<int64_t, 3> slot_at = {};    // of gate, up and down: their first byte in the slot (fit)
  std::array<int32_t, 3> part_of = {};    // into parts; -1: the expert has no such weight
  std::array<int64_t, 3> offset_in = {};  // in the part
  int32_t size_class = 0;                 // (fit)
  int64_t bytes() const;
};

/// Where the routed experts of a model lie in its files, and how they lie in slots of memory.
struct ExpertLayout {
  struct Layer {
    std::string path;  // "blocks.3.moe.experts"
    std::vector<StoredExpert> experts;
  };
  std::vector<Layer> layers;  // those with routed experts, in the order of the decoder's list
  // Which of `layers` has this expert weight: the address in the mapping of its first `up` weight.
  std::unordered_map<const std::byte*, int32_t> layer_at;

  // After fit():
  std::vector<int64_t> slot_bytes;     // of each size class
  std::vector<int64_t> class_experts;  // how many experts are of it

  /// Of a decoder that is bound to `source`; their files go into the table. Throws unsupported, naming the tensors,
  /// where experts lie in no file as they are read: quantised safetensors that are put together in memory, transposed
  /// stacks.
  static ExpertLayout of(const models::Decoder& decoder, const checkpoint::TensorSource& source, FileTable& files);

  /// Places the parts of each expert in a slot, so that what is read in whole units lands where the weights are wanted,
  /// and puts experts of about one size into a class.
  void fit(int64_t unit);

  int64_t expert_bytes() const;  // of all
  int64_t experts() const;       // how many have weights
};

}  // namespace coterie::runtime

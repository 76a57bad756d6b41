#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_source.h"
#include "runtime/expert_store/block_reader.h"
#include "runtime/expert_store/stored_files.h"

namespace coterie::runtime {

/// The files that weights are read from, each once, in the order in which they were met: the numbers of
/// ReadPiece::file.
struct FileTable {
  std::vector<std::filesystem::path> files;
  std::vector<FileSample> samples;  // one for each

  /// The number of the file that `bytes`, a part of its mapping, lie at `place` of.
  int32_t add(const checkpoint::FilePlace& place, std::span<const std::byte> bytes);

 private:
  std::map<std::string, int32_t> numbers_;
};

/// What failed, for whoever reads it: `read`, of which `needed` bytes were wanted at the least, shows `mapped` bytes of
/// a tensor of `source`. `what` is put after the tensor's name: ", expert 17".
base::Error read_error(const checkpoint::TensorSource& source, const FileTable& files, const ReadPiece& piece,
                       const ReadDone& done, int64_t needed, const std::byte* mapped, const std::string& what);
/// The same of a file that was written to.
base::Error changed_error(const FileTable& files, int32_t file);

}  // namespace coterie::runtime

#include "runtime/expert_store/file_table.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace coterie::runtime {

int32_t FileTable::add(const checkpoint::FilePlace& place, std::span<const std::byte> bytes) {
  const auto [known, fresh] = numbers_.emplace(place.file.string(), static_cast<int32_t>(files.size()));
  if (fresh) files.push_back(place.file), samples.push_back({place.offset, bytes});
  return known->second;
}

namespace {
constexpr const char* kBegin = "what it held is no longer to be trusted: start again when the file is whole";
}

base::Error read_error(const checkpoint::TensorSource& source, const FileTable& files, const ReadPiece& piece,
                       const ReadDone& done, int64_t needed, const std::byte* mapped, const std::string& what) {
  std::string name = "a tensor";
  for (const checkpoint::TensorInfo& tensor : source.tensors())
    if (mapped >= tensor.bytes.data() && mapped < tensor.bytes.data() + tensor.bytes.size()) name = tensor.name;
  const std::string where = fmt::format("{}: {}{}", files.files[static_cast<size_t>(piece.file)].string(), name, what);
  if (done.error != 0)
    return {base::ErrorKind::io, where,
            fmt::format("{} bytes at offset {} could not be read: {}", piece.bytes, piece.offset,
                        std::strerror(done.error)),
            "the disk or the file system failed; the system's log (dmesg) may say more"};
  return {base::ErrorKind::io, where,
          fmt::format("{} bytes at offset {} were expected, {} came: the file has been cut off", needed, piece.offset,
                      std::max<int64_t>(done.bytes, 0)),
          kBegin};
}

base::Error changed_error(const FileTable& files, int32_t file) {
  return {base::ErrorKind::io, files.files[static_cast<size_t>(file)].string(),
          "was written to while the model ran, and experts are still read from it", kBegin};
}

}  // namespace coterie::runtime

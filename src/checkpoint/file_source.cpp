#include "checkpoint/file_source.h"

namespace coterie::checkpoint {

void FileSource::add(base::MappedFile file, std::vector<TensorInfo> tensors) {
  files_.push_back(std::move(file));
  tensors_.reserve(tensors_.size() + tensors.size());
  index_.reserve(tensors_.size() + tensors.size());
  for (TensorInfo& tensor : tensors) {
    const auto [known, fresh] = index_.try_emplace(tensor.name, tensors_.size());
    if (!fresh)
      base::fail(base::ErrorKind::bad_input, files_.back().path().string(), "tensor \"{}\" is already in {}",
                 shown(tensor.name), file_of(tensors_[known->second]));
    tensors_.push_back(std::move(tensor));
  }
}

const TensorInfo* FileSource::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

int64_t FileSource::file_bytes() const {
  int64_t bytes = 0;
  for (const base::MappedFile& file : files_) bytes += file.size();
  return bytes;
}

std::string FileSource::file_of(const TensorInfo& tensor) const {
  const auto place = place_of(tensor.bytes);
  return place ? place->file.string() : where_;
}

std::optional<FilePlace> FileSource::place_of(std::span<const std::byte> bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  for (const base::MappedFile& file : files_) {
    const auto begin = reinterpret_cast<uintptr_t>(file.bytes().data());
    if (address >= begin && address + bytes.size() <= begin + file.bytes().size())
      return FilePlace{file.path(), static_cast<int64_t>(address - begin)};
  }
  return {};
}

}  // namespace coterie::checkpoint

#include "runtime/expert_store/stored_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "tensor/buffer.h"

namespace coterie::runtime {

namespace {

constexpr int64_t kPage = 4096;

/// What direct reads of the file have to be multiples of, as the system says; 0: it has none, -1: it does not say.
int64_t direct_unit(int descriptor) {
#ifdef STATX_DIOALIGN
  struct statx status {};
  if (::statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 && (status.stx_mask & STATX_DIOALIGN))
    return std::max<int64_t>(status.stx_dio_offset_align, status.stx_dio_mem_align);
#else
  (void)descriptor;
#endif
  return -1;
}

}  // namespace

StoredFiles::StoredFiles(std::span<const std::filesystem::path> files, std::span<const FileSample> samples,
                         Options options) {
  base::require(files.size() == samples.size(), "stored files", "{} files, {} samples", files.size(), samples.size());
  for (const std::filesystem::path& path : files) files_.push_back({.path = path});
  try {
    if (options.direct) {
      open(true);
      int64_t most = 0;
      bool can = true;
      for (const File& file : files_) {
        const int64_t unit = file.descriptor < 0 ? 0 : direct_unit(file.descriptor);
        can = can && unit != 0;
        most = std::max(most, unit < 0 ? kPage : unit);
      }
      direct_ = can;
      unit_ = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(most, 512))));
      if (direct_ && !same_bytes(samples)) {  // refused: perhaps for want of a coarser alignment
        unit_ = std::max(unit_, kPage);
        direct_ = same_bytes(samples);
      }
      if (direct_) return;
      close();
    }
    open(false);
    direct_ = false, unit_ = 512;
    if (!same_bytes(samples)) base::fail(base::ErrorKind::io, files_.front().path.string(), "cannot be read");
  } catch (...) {
    close();
    throw;
  }
}

StoredFiles::~StoredFiles() { close(); }

void StoredFiles::open(bool direct) {
  for (File& file : files_) {
    file.descriptor = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (file.descriptor < 0) {
      if (direct && errno == EINVAL) continue;  // a file system without direct reads
      base::fail(base::ErrorKind::io, file.path.string(), "cannot be opened a second time, to read experts from it: {}",
                 std::strerror(errno));
    }
    struct stat status {};
    if (::fstat(file.descriptor, &status) != 0)
      base::fail(base::ErrorKind::io, file.path.string(), "fstat: {}", std::strerror(errno));
    file.size = status.st_size;
    file.changed_seconds = status.st_mtim.tv_sec, file.changed_nanoseconds = status.st_mtim.tv_nsec;
    if (!direct) ::posix_fadvise(file.descriptor, 0, 0, POSIX_FADV_RANDOM);  // what is asked for and nothing around it
  }
}

void StoredFiles::close() {
  for (File& file : files_) {
    if (file.descriptor >= 0) ::close(file.descriptor);
    file.descriptor = -1;
  }
}

bool StoredFiles::changed(int32_t number) const {
  const File& file = files_[static_cast<size_t>(number)];
  struct stat status {};
  return ::fstat(file.descriptor, &status) != 0 || status.st_size != file.size ||
         status.st_mtim.tv_sec != file.changed_seconds || status.st_mtim.tv_nsec != file.changed_nanoseconds;
}

ReadDone StoredFiles::read(const ReadPiece& piece) const {
  ReadDone done{.tag = piece.tag};
  while (done.bytes < piece.bytes) {
    const iovec part{piece.to + done.bytes, static_cast<size_t>(piece.bytes - done.bytes)};
    const ssize_t got = ::preadv(descriptor(piece.file), &part, 1, piece.offset + done.bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) done.error = errno;
    if (got <= 0) break;
    done.bytes += got;
    if (direct_ && done.bytes % unit_ != 0) break;  // only a file's end is not a whole unit
  }
  return done;
}

void StoredFiles::forget(const ReadPiece& piece) const {
  ::posix_fadvise(descriptor(piece.file), piece.offset, piece.bytes, POSIX_FADV_DONTNEED);
}

bool StoredFiles::same_bytes(std::span<const FileSample> samples) const {
  for (size_t i = 0; i < files_.size(); ++i) {
    const FileSample& sample = samples[i];
    const int64_t length = std::min<int64_t>(std::ssize(sample.bytes), kPage);
    const int64_t begin = sample.offset / unit_ * unit_;
    const int64_t end = (sample.offset + length + unit_ - 1) / unit_ * unit_;
    tensor::Buffer<std::byte> room(end - begin + unit_);
    const auto address = reinterpret_cast<uintptr_t>(room.data());
    std::byte* const to = room.data() + (unit_ - static_cast<int64_t>(address % static_cast<uint64_t>(unit_))) % unit_;
    const ReadDone done =
        read({.file = static_cast<int32_t>(i), .offset = begin, .bytes = end - begin, .to = to, .tag = 0});
    if (done.error == EINVAL && direct_) return false;
    const std::string where = files_[i].path.string();
    if (done.error != 0)
      base::fail(base::ErrorKind::io, where, "cannot be read at byte {}: {}", begin, std::strerror(done.error));
    if (done.bytes < sample.offset - begin + length ||
        std::memcmp(to + (sample.offset - begin), sample.bytes.data(), static_cast<size_t>(length)) != 0)
      throw base::Error(
          base::ErrorKind::io, where, fmt::format("has other bytes at {} than when it was opened", sample.offset),
          "another program writes to it, or has put another file in its place: start again when it is done");
  }
  return true;
}

}  // namespace coterie::runtime

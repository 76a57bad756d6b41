#include "surgery/write/folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/leftovers.h"
#include "checkpoint/split_name.h"
#include "quant/codec.h"

namespace coterie::surgery {

namespace fs = std::filesystem;
using base::ErrorKind;

void refuse_existing(const fs::path& out) {
  std::error_code code;
  if (!fs::exists(out, code) || (fs::is_directory(out, code) && fs::is_empty(out, code))) return;
  throw base::Error(ErrorKind::bad_input, out.string(), "already exists",
                    "choose a folder that does not exist yet, or delete this one");
}

void refuse_same_file(const fs::path& source, const fs::path& out) {
  std::error_code code;
  bool same = fs::equivalent(source, out, code) && !code;
  if (const auto split = checkpoint::SplitName::parse(source))
    for (int part = 1; part <= split->count && !same; ++part) same = fs::equivalent(split->part(part), out, code);
  if (same) base::fail(ErrorKind::bad_input, out.string(), "is the model to be read: a source is never overwritten");
}

std::map<std::string, std::string, std::less<>> text_files(const fs::path& folder) {
  std::map<std::string, std::string, std::less<>> files;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "generation_config.json", "chat_template.jinja", "chat_template.json", "added_tokens.json",
                           "vocab.json", "merges.txt", "tokenizer.model"})
    if (fs::exists(folder / name)) files[name] = base::read_text(folder / name);
  return files;
}

NewFolder::NewFolder(fs::path target) : target_(std::move(target)) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "name/"
  refuse_existing(target_);
  folders_.emplace(target_);
  temporary_ = base::temporary_folder(target_);
  std::error_code code;
  if (!fs::create_directory(temporary_, code) || code) {
    if (code) base::fail(ErrorKind::io, target_.string(), "the folder cannot be created: {}", code.message());
    throw base::Error(ErrorKind::io, target_.string(), "the folder cannot be made: its temporary name is taken",
                      "remove what a process that was killed left: " + temporary_.string());
  }
  lock_ = ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) (void)::flock(lock_, LOCK_EX | LOCK_NB);
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void NewFolder::fill(const std::function<void(const fs::path& now)>& put) const {
  try {
    put(temporary_);
  } catch (const base::Error& error) {
    const auto renamed = [&](std::string text) {
      const std::string now = temporary_.string(), asked = target_.string();
      for (size_t at = text.find(now); at != text.npos; at = text.find(now, at + asked.size()))
        text.replace(at, now.size(), asked);
      return text;
    };
    throw base::Error(error.kind(), renamed(error.where()), renamed(error.message()), renamed(error.hint()));
  }
}

void NewFolder::write(std::string_view name, std::string_view text) const {
  fill([&](const fs::path& now) {
    base::AtomicFile file(now / name);
    file.write(text);
    file.commit();
  });
}

void refuse_quantised(const checkpoint::TensorSource& source) {
  for (const checkpoint::TensorInfo& tensor : source.tensors())
    if (quant::is_scaled(tensor.dtype))
      throw base::Error(ErrorKind::unsupported, source.where(),
                        fmt::format("{} is quantised ({})", tensor.name, tensor::name(tensor.dtype)),
                        "make a copy in bf16 first (convert with `convert.to` bf16)");
}

void NewFolder::commit() {
  std::error_code code;
  fs::remove(target_, code);  // an empty folder
  fs::rename(temporary_, target_, code);
  if (code == std::errc::directory_not_empty || code == std::errc::file_exists || code == std::errc::not_a_directory)
    throw base::Error(ErrorKind::bad_input, target_.string(),
                      "somebody else has made something of this name meanwhile: it was not replaced",
                      "choose another name");
  if (code) base::fail(ErrorKind::io, target_.string(), "cannot be given its name: {}", code.message());
  temporary_.clear();
  folders_->keep();
}

}  // namespace coterie::surgery

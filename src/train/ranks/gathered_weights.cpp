#include "train/ranks/gathered_weights.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "comm/placement.h"
#include "train/checkpoint_files.h"

namespace coterie::train {

namespace fs = std::filesystem;
using checkpoint::TensorToWrite;
using comm::Kind;
using models::Parameter;

namespace {

/// A file that several processes write at the same time, each its own places.
class SharedFile {
 public:
  SharedFile(const fs::path& path, int flags) : path_(path.string()) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666);
    if (descriptor_ < 0) fail("cannot be opened");
  }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  ~SharedFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  void write_at(int64_t position, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), position);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail("cannot be written");
      position += written, bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }
  void set_size(int64_t bytes) {
    if (::ftruncate(descriptor_, bytes) != 0) fail("cannot be made large enough");
  }
  /// To the disk: another rank may tell of it next.
  void close() {
    if (::fsync(descriptor_) != 0) fail("cannot be written");
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("cannot be written");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    base::fail(base::ErrorKind::io, path_, "{}: {}", what, std::generic_category().message(errno));
  }

  std::string path_;
  int descriptor_;
};

comm::Message take_answer(Team& team, std::span<const char> missing) {
  return team.inbox().take(missing, {Kind::values, team.inbox().step(), -1}, [&](const comm::Message& m) {
    return m.header().kind == Kind::values && missing[static_cast<size_t>(m.from())];
  });
}

}  // namespace

void GatheredWeights::write_on_first(const std::function<void()>& write) {
  if (!team_.first()) return answer_first();
  write();
  for (int to = 1; to < team_.size(); ++to) {
    comm::Writer message(Kind::ask, team_.inbox().step(), -1);
    message.value(Question{What::done, 0, 0, 0});
    team_.ranks().send(to, std::move(message));
  }
}

void GatheredWeights::answer_first() {
  while (true) {
    comm::Message message = team_.inbox().take_whenever(
        [](const comm::Message& m) { return m.from() == 0 && m.header().kind == Kind::ask; });
    const auto asked = message.value<Question>();
    if (asked.what == What::done) return;
    if (asked.what == What::moments) {
      // Rank 0 decides what becomes of a checkpoint that cannot be written.
      std::string error;
      try {
        write_own_moments(message.text());
      } catch (const base::Error& failed) {
        error = failed.what();
      }
      comm::Writer answer(Kind::values, team_.inbox().step(), -1);
      answer.text(error);
      team_.ranks().send(0, std::move(answer));
      continue;
    }
    const ValueRange range{static_cast<size_t>(asked.parameter), asked.begin, asked.end};
    const auto count = static_cast<size_t>(range.count());
    comm::Writer answer(Kind::values, team_.inbox().step(), -1, count * sizeof(float) + 8);
    answer.array(std::span(find(range), count));
    team_.ranks().send(0, std::move(answer));
  }
}

const float* GatheredWeights::find(const ValueRange& range) const {
  const Parameter& p = parameters_.list()[range.parameter];
  return p.values + (range.begin - p.begin());
}

void GatheredWeights::fetch(int owner, const ValueRange& range,
                            const std::function<void(std::span<const float>)>& into) {
  constexpr int64_t kMost = 1 << 20;  // values of a message
  std::vector<char> missing(static_cast<size_t>(team_.size()));
  missing[static_cast<size_t>(owner)] = 1;
  for (int64_t begin = range.begin; begin < range.end; begin += kMost) {
    const ValueRange part{range.parameter, begin, std::min(begin + kMost, range.end)};
    const auto count = static_cast<size_t>(part.count());
    if (owner == team_.rank()) {
      into({find(part), count});
      continue;
    }
    comm::Writer message(Kind::ask, team_.inbox().step(), -1);
    message.value(Question{What::values, static_cast<int64_t>(part.parameter), part.begin, part.end});
    team_.ranks().send(owner, std::move(message));
    comm::Message answer = take_answer(team_, missing);
    into(answer.array<float>(count));
  }
}

families::ReadExpert GatheredWeights::reader() {
  return [this](const std::string& path, int64_t expert, std::span<float> into) {
    const std::span<const Parameter> list = parameters_.list();
    const auto found = std::find_if(list.begin(), list.end(), [&](const Parameter& p) { return p.path == path; });
    base::require(found != list.end() && found->of_expert() == std::ssize(into), "ranks", "{}: {} values of expert {}",
                  path, into.size(), expert);
    const ValueRange range{static_cast<size_t>(found - list.begin()), expert * found->of_expert(),
                           (expert + 1) * found->of_expert()};
    float* to = into.data();
    fetch(comm::Placement{team_.size()}.owner(expert, found->experts), range,
          [&](std::span<const float> values) { to = std::copy(values.begin(), values.end(), to); });
  };
}

checkpoint::SafetensorsLayout GatheredWeights::moments_layout(const std::string& where) const {
  std::vector<TensorToWrite> tensors;
  for (const Parameter& p : parameters_.list())
    if (p.trained)
      for (const char* const name : {"first_moment.", "second_moment."})
        tensors.push_back({name + p.path, tensor::DType::f32, {p.whole()}, {}});
  return checkpoint::lay_out_safetensors(where, tensors);
}

void GatheredWeights::write_moments(const fs::path& folder) {
  const fs::path file = optimiser_file(folder);
  {
    const checkpoint::SafetensorsLayout layout = moments_layout(file.string());
    SharedFile shared(file, O_CREAT | O_TRUNC);
    shared.write_at(0, std::as_bytes(std::span(layout.head)));
    shared.set_size(layout.bytes);
    shared.close();
  }
  std::vector<char> missing(static_cast<size_t>(team_.size()), 1);
  missing.front() = 0;
  for (int to = 1; to < team_.size(); ++to) {
    comm::Writer message(Kind::ask, team_.inbox().step(), -1);
    message.value(Question{What::moments, 0, 0, 0});
    message.text(file.string());
    team_.ranks().send(to, std::move(message));
  }
  std::exception_ptr own;  // the others' answers are waited for all the same
  try {
    write_own_moments(file);
  } catch (const base::Error&) {
    own = std::current_exception();
  }
  std::string failed;
  for (int left = team_.size() - 1; left > 0; --left) {
    // However long a rank writes.
    comm::Message answer = team_.inbox().take_whenever([&](const comm::Message& m) {
      return m.header().kind == Kind::values && missing[static_cast<size_t>(m.from())];
    });
    missing[static_cast<size_t>(answer.from())] = 0;
    const std::string error = answer.text();
    if (!error.empty() && failed.empty()) failed = team_.ranks().describe(answer.from()) + ": " + error;
  }
  if (own) std::rethrow_exception(own);
  if (!failed.empty())
    throw base::Error(base::ErrorKind::io, file.string(), failed, "every rank writes its own part of a checkpoint");
}

void GatheredWeights::write_own_moments(const fs::path& file) const {
  const checkpoint::SafetensorsLayout layout = moments_layout(file.string());
  const std::span<const Parameter> list = parameters_.list();
  std::vector<size_t> tensor_of(list.size());  // its first moment
  for (size_t i = 0, next = 0; i < list.size(); ++i)
    if (list[i].trained) tensor_of[i] = next, next += 2;
  SharedFile shared(file, 0);
  const std::span<const ValueRange> own = ownership_.of(team_.rank());
  for (size_t i = 0; i < own.size(); ++i) {
    const AdamW::Moments moments = optimiser_.moments(i);
    const size_t first = tensor_of[own[i].parameter];
    const int64_t at = own[i].begin * static_cast<int64_t>(sizeof(float));
    shared.write_at(layout.begins[first] + at, std::as_bytes(moments.first));
    shared.write_at(layout.begins[first + 1] + at, std::as_bytes(moments.second));
  }
  shared.close();
}

void GatheredWeights::fetch_into_memory(bool matrices) {
  const std::span<const Parameter> list = parameters_.list();
  for (size_t i = 0; i < list.size(); ++i) {
    const Parameter& p = list[i];
    if (!p.trained || p.experts == 0 || (p.matrix && !matrices)) continue;
    for (const auto& [rank, range] : ownership_.of_parameter(i)) {
      if (rank == team_.rank()) continue;
      float* to = p.values - p.begin() + range.begin;
      fetch(rank, range, [&](std::span<const float> values) { to = std::copy(values.begin(), values.end(), to); });
    }
  }
}

}  // namespace coterie::train

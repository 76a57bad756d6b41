#include "comm/ranks.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "base/clock.h"

namespace coterie::comm {

namespace {

std::string own_host() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string place(uint64_t step, int64_t layer) {
  if (layer >= 0) return fmt::format("layer {} of step {}", layer, step);
  return step > 0 ? fmt::format("step {}", step) : std::string("the start");
}

/// Whether this process has ended: it is gone, or nobody has asked yet how it ended.
bool has_ended(pid_t process) {
  if (::kill(process, 0) != 0) return errno == ESRCH;
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string stat;
  std::getline(file, stat);
  const size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && name_end + 2 < stat.size() && stat[name_end + 2] == 'Z';
}

/// What carries the messages reports with std::runtime_error.
template <typename Call>
auto carried(const std::string& what, Call&& call) {
  try {
    return call();
  } catch (const base::Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw base::Error(base::ErrorKind::io, what, error.what(), "another rank, or the network between, may be gone");
  }
}

}  // namespace

Ranks::Ranks(std::unique_ptr<Communicator> communicator, Patience patience)
    : communicator_(std::move(communicator)),
      patience_(std::move(patience)),
      hosts_(static_cast<size_t>(size())),
      processes_(static_cast<size_t>(size())) {}

void Ranks::meet() {
  const std::string host = own_host();
  const std::vector<std::string> all = all_gather(fmt::format("{} {}", ::getpid(), host));
  for (size_t r = 0; r < all.size(); ++r) {
    const size_t space = all[r].find(' ');
    hosts_[r] = all[r].substr(space + 1);
    pid_t process = 0;
    std::from_chars(all[r].data(), all[r].data() + space, process);
    // Ranks of one host may be in containers whose processes do not see each other; a rank of threads is this process.
    if (hosts_[r] == host && process != ::getpid() && ::kill(process, 0) == 0) processes_[r] = process;
  }
}

std::string Ranks::describe(int rank) const {
  const std::string& host = hosts_[static_cast<size_t>(rank)];
  return host.empty() ? fmt::format("rank {}", rank) : fmt::format("rank {} ({})", rank, host);
}

void Ranks::send(int to, Writer message) {
  Bytes bytes = message.take();
  ++traffic_.messages;
  traffic_.header_bytes += static_cast<int64_t>(sizeof(Header));
  traffic_.payload_bytes += static_cast<int64_t>(bytes.size() - sizeof(Header));
  carried(describe(to), [&] { communicator_->send(to, std::move(bytes)); });
}

void Ranks::send_failure(int to, const base::Error& error, uint64_t step) {
  Writer message(Kind::failure, step, -1);
  message.value(static_cast<int32_t>(error.kind()));
  message.text(error.where());
  message.text(error.message());
  message.text(error.hint());
  send(to, std::move(message));
}

void Ranks::throw_failure(Message& message) const {
  const auto kind = static_cast<base::ErrorKind>(message.value<int32_t>());
  const std::string where = message.text(), text = message.text(), hint = message.text();
  const std::string who = describe(message.from());
  throw RankFailure(kind, where.empty() ? who : who + ": " + where, text, hint);
}

Message Ranks::checked(int from, Bytes bytes, const Awaited& awaited) {
  Message message(from, std::move(bytes));
  const Header& header = message.header();
  if (header.kind == Kind::failure) throw_failure(message);
  if (header.kind != awaited.kind || header.step != awaited.step || header.layer != awaited.layer)
    base::fail(base::ErrorKind::internal, "ranks", "{} is at {} and sent {}, {} is at {} and waits for {}",
               describe(from), place(header.step, header.layer), name(header.kind), describe(rank()),
               place(awaited.step, awaited.layer), name(awaited.kind));
  return message;
}

Message Ranks::receive(int from, const Awaited& awaited) {
  std::vector<char> wanted(static_cast<size_t>(size()));
  wanted[static_cast<size_t>(from)] = 1;
  std::optional<Bytes> bytes;
  wait(
      [&] {
        bytes = carried(describe(from), [&] { return communicator_->try_receive(from); });
        return bytes.has_value();
      },
      wanted, awaited);
  return checked(from, std::move(*bytes), awaited);
}

std::optional<Message> Ranks::try_any() {
  for (int from = 0; from < size(); ++from) {
    if (from == rank()) continue;
    std::optional<Bytes> bytes = carried(describe(from), [&] { return communicator_->try_receive(from); });
    if (bytes) return Message(from, std::move(*bytes));
  }
  return {};
}

Message Ranks::receive_some(std::span<const char> from, const Awaited& awaited) {
  std::optional<Message> message;
  wait([&] { return (message = try_any()).has_value(); }, from, awaited);
  return std::move(*message);
}

Message Ranks::receive_next() {
  const base::Stopwatch clock;
  while (true) {
    if (std::optional<Message> message = try_any()) return std::move(*message);
    communicator_->idle(clock.seconds());
  }
}

void Ranks::wait(base::FunctionRef<bool()> arrived, std::span<const char> wanted, const Awaited& awaited) {
  if (lost_) throw base::Error(base::ErrorKind::io, "ranks", lost_text_);
  constexpr double kLook = 0.05;  // seconds between two looks at the others' processes
  const base::Stopwatch clock;
  bool said = false;
  double looked = 0;
  while (!arrived()) {
    const double waiting = clock.seconds();
    if (waiting > looked + kLook) looked = waiting, look_for_ended(wanted, awaited);
    if (waiting > patience_.limit) give_up(wanted, awaited);
    if (waiting > patience_.notice && !std::exchange(said, true) && patience_.say)
      patience_.say(waiting_text(wanted, awaited));
    communicator_->idle(waiting);
  }
  waited_ += clock.seconds();
}

std::string Ranks::waiting_text(std::span<const char> wanted, const Awaited& awaited) const {
  std::string missing;
  int count = 0;
  for (int r = 0; r < size(); ++r)
    if (wanted[static_cast<size_t>(r)]) missing += (count++ > 0 ? ", " : "") + describe(r);
  return fmt::format("{} {} not answered: {} waits for {}, {}", missing, count == 1 ? "has" : "have", describe(rank()),
                     name(awaited.kind), place(awaited.step, awaited.layer));
}

std::optional<int> Ranks::ended_rank() const {
  for (size_t r = 0; r < processes_.size(); ++r)
    if (processes_[r] != 0 && has_ended(processes_[r])) return static_cast<int>(r);
  return {};
}

void Ranks::look_for_ended(std::span<const char> wanted, const Awaited& awaited) {
  for (size_t r = 0; r < processes_.size(); ++r) {
    if (!wanted[r] || processes_[r] == 0 || !has_ended(processes_[r])) continue;
    lost_text_ = fmt::format("{} has ended: {} waited for {}, {}", describe(static_cast<int>(r)), describe(rank()),
                             name(awaited.kind), place(awaited.step, awaited.layer));
    lost_ = true;
    throw base::Error(base::ErrorKind::io, "ranks", lost_text_, "it was killed, by the system where memory was short");
  }
}

void Ranks::give_up(std::span<const char> wanted, const Awaited& awaited) {
  lost_text_ = fmt::format("{}, for {:.0f} s by now", waiting_text(wanted, awaited), patience_.limit);
  lost_ = true;
  throw base::Error(base::ErrorKind::io, "ranks", lost_text_,
                    "the process may be stopped, its host down, or the network between them broken");
}

std::vector<std::string> Ranks::all_gather(const std::string& own) {
  const Awaited awaited{Kind::gather, ++gathers_, -1};
  for (int to = 0; to < size(); ++to) {
    if (to == rank()) continue;
    Writer message(awaited.kind, awaited.step, awaited.layer, own.size() + 16);
    message.text(own);
    send(to, std::move(message));
  }
  std::vector<std::string> all(static_cast<size_t>(size()));
  for (int from = 0; from < size(); ++from)
    all[static_cast<size_t>(from)] = from == rank() ? own : receive(from, awaited).text();
  return all;
}

void Ranks::ordered_sum(std::span<float> values) {
  const auto slice = [&](int r) {
    const size_t begin = values.size() * static_cast<size_t>(r) / static_cast<size_t>(size());
    const size_t end = values.size() * (static_cast<size_t>(r) + 1) / static_cast<size_t>(size());
    return values.subspan(begin, end - begin);
  };
  const auto send_slice = [&](int to, const Awaited& awaited, std::span<const float> part) {
    Writer message(awaited.kind, awaited.step, awaited.layer, part.size_bytes() + 8);
    message.array(part);
    send(to, std::move(message));
  };
  const Awaited terms{Kind::gather, ++gathers_, -1}, sums{Kind::gather, ++gathers_, -1};
  for (int to = 0; to < size(); ++to)
    if (to != rank()) send_slice(to, terms, slice(to));
  const std::span<float> own = slice(rank());
  std::vector<float> sum;
  for (int from = 0; from < size(); ++from) {
    Message message;
    std::span<const float> term = own;
    if (from != rank()) message = receive(from, terms), term = message.array<float>(own.size());
    if (from == 0) {
      sum.assign(term.begin(), term.end());
    } else {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += term[i];
    }
  }
  std::copy(sum.begin(), sum.end(), own.begin());
  for (int to = 0; to < size(); ++to)
    if (to != rank()) send_slice(to, sums, own);
  for (int from = 0; from < size(); ++from) {
    if (from == rank()) continue;
    Message message = receive(from, sums);
    const std::span<float> part = slice(from);
    std::copy_n(message.array<float>(part.size()).begin(), part.size(), part.begin());
  }
}

}  // namespace coterie::comm

// Compiled once for each MPI, into a module of its own that comm/launch.cpp loads: never part of the room's library.
#include <mpi.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <list>
#include <stdexcept>
#include <string>
#include <utility>

#include "comm/mpi_module.h"

namespace coterie::comm {

namespace {

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw std::runtime_error(std::string(what) + ": " + text);
}

constexpr int kTag = 1;
// MPI counts in int. A message goes in parts of this size; a whole one says that another follows, perhaps of no bytes.
constexpr size_t kPart = size_t{1} << 30;

class MpiRank final : public Communicator {
 public:
  MpiRank() {
    int provided = 0;
    // One thread at a time: a server's steps are not taken by the thread that started MPI.
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    // Errors of the world are ours to report, with who and where.
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    if (provided < MPI_THREAD_SERIALIZED) throw std::runtime_error("this MPI has no MPI_THREAD_SERIALIZED");
    // A communicator of our own: no message of a library that uses the world too can be taken for one of ours.
    check(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(world_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(world_, &size_), "MPI_Comm_size");
    MPI_Comm host = MPI_COMM_NULL;
    check(MPI_Comm_split_type(world_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
    check(MPI_Comm_size(host, &of_host_), "MPI_Comm_size");
    MPI_Comm_free(&host);
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(version, &length);
    name_ = std::string(version, static_cast<size_t>(length));
    name_ = name_.substr(0, name_.find_first_of(",\n"));
    std::replace(name_.begin(), name_.end(), '\t', ' ');
  }

  // Everything that was sent has left before the others are let go.
  ~MpiRank() override {
    try {
      while (!sent_.empty()) reap();
    } catch (const std::runtime_error&) {  // who they were for is gone
    }
    MPI_Comm_free(&world_);
    MPI_Finalize();
  }
  MpiRank(const MpiRank&) = delete;
  MpiRank& operator=(const MpiRank&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int ranks_of_host() const override { return of_host_; }
  std::string name() const override { return name_; }

  void send(int to, Bytes message) override {
    reap();
    Sent& sent = sent_.emplace_back();
    sent.bytes = std::move(message);
    for (size_t at = 0; at <= sent.bytes.size(); at += kPart) {
      const size_t part = std::min(kPart, sent.bytes.size() - at);
      check(MPI_Isend(sent.bytes.data() + at, static_cast<int>(part), MPI_BYTE, to, kTag, world_,
                      &sent.requests.emplace_back()),
            "MPI_Isend");
    }
  }

  std::optional<Bytes> try_receive(int from) override {
    int there = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    check(MPI_Improbe(from, kTag, world_, &there, &message, &status), "MPI_Improbe");
    if (!there) return {};
    Bytes bytes;
    while (true) {
      int count = 0;
      check(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      const size_t had = bytes.size();
      bytes.resize(had + static_cast<size_t>(count));
      check(MPI_Mrecv(bytes.data() + had, count, MPI_BYTE, &message, &status), "MPI_Mrecv");
      if (static_cast<size_t>(count) < kPart) return bytes;
      check(MPI_Mprobe(from, kTag, world_, &message, &status), "MPI_Mprobe");
    }
  }

  void idle(double idle) override {
    reap();
    if (idle < 50e-6) return;
    if (idle < 5e-3) {
      ::sched_yield();
      return;
    }
    const timespec pause{0, idle < 1 ? 50'000 : 1'000'000};
    ::nanosleep(&pause, nullptr);
  }

  void abort(int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  struct Sent {
    Bytes bytes;
    std::list<MPI_Request> requests;
  };

  /// Forgets messages that have left, and lets MPI move the others on.
  void reap() {
    for (auto sent = sent_.begin(); sent != sent_.end();) {
      while (!sent->requests.empty()) {
        int left = 0;
        check(MPI_Test(&sent->requests.front(), &left, MPI_STATUS_IGNORE), "MPI_Test");
        if (!left) break;
        sent->requests.pop_front();
      }
      sent = sent->requests.empty() ? sent_.erase(sent) : std::next(sent);
    }
  }

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, of_host_ = 1;
  std::string name_;
  std::list<Sent> sent_;
};

}  // namespace

}  // namespace coterie::comm

extern "C" __attribute__((visibility("default"))) coterie::comm::Communicator* coterie_start_mpi() {
  return new coterie::comm::MpiRank();
}

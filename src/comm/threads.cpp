#include "comm/threads.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace coterie::comm {

namespace {

/// What has been sent to one rank and not received: a queue for each sender.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<std::deque<Bytes>> from;
};

class ThreadRank final : public Communicator {
 public:
  ThreadRank(int rank, std::shared_ptr<std::vector<Mailbox>> boxes) : rank_(rank), boxes_(std::move(boxes)) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(boxes_->size()); }
  int ranks_of_host() const override { return size(); }
  std::string name() const override { return "threads of one process"; }

  void send(int to, Bytes message) override {
    if (to < 0 || to >= size() || to == rank_) throw std::runtime_error("a message to rank " + std::to_string(to));
    Mailbox& box = (*boxes_)[static_cast<size_t>(to)];
    {
      const std::lock_guard lock(box.mutex);
      box.from[static_cast<size_t>(rank_)].push_back(std::move(message));
    }
    box.arrived.notify_one();
  }

  std::optional<Bytes> try_receive(int from) override {
    Mailbox& box = own();
    const std::lock_guard lock(box.mutex);
    std::deque<Bytes>& queue = box.from[static_cast<size_t>(from)];
    if (queue.empty()) return {};
    Bytes message = std::move(queue.front());
    queue.pop_front();
    return message;
  }

  // Until something arrives, but not for long: who is asked for what comes from one rank may not be after this one.
  void idle(double) override {
    Mailbox& box = own();
    std::unique_lock lock(box.mutex);
    const bool waiting = std::all_of(box.from.begin(), box.from.end(), [](const auto& queue) { return queue.empty(); });
    box.arrived.wait_for(lock, std::chrono::microseconds(waiting ? 1000 : 20));
  }

  void abort(int) override {}  // who runs the threads sees the error

 private:
  Mailbox& own() { return (*boxes_)[static_cast<size_t>(rank_)]; }

  int rank_;
  std::shared_ptr<std::vector<Mailbox>> boxes_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> ranks_of_one_process(int size) {
  auto boxes = std::make_shared<std::vector<Mailbox>>(static_cast<size_t>(size));
  for (Mailbox& box : *boxes) box.from.resize(static_cast<size_t>(size));
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(std::make_unique<ThreadRank>(rank, boxes));
  return ranks;
}

std::unique_ptr<Communicator> one_rank() { return std::move(ranks_of_one_process(1).front()); }

}  // namespace coterie::comm

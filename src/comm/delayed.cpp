#include "comm/delayed.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "base/rng.h"

namespace coterie::comm {

namespace {

/// Seconds of the machine's clock, the same for all of its processes.
double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class Delayed final : public Communicator {
 public:
  Delayed(std::unique_ptr<Communicator> ranks, const Wire& wire)
      : ranks_(std::move(ranks)),
        wire_(wire),
        free_at_(static_cast<size_t>(ranks_->size())),
        under_way_(static_cast<size_t>(ranks_->size())),
        random_(wire.seed + static_cast<uint64_t>(ranks_->rank())) {}

  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  int ranks_of_host() const override { return ranks_->ranks_of_host(); }
  std::string name() const override { return ranks_->name() + ", with an emulated network"; }

  void send(int to, Bytes message) override {
    double& free_at = free_at_[static_cast<size_t>(to)];
    free_at = std::max(free_at, now()) + (wire_.rate > 0 ? static_cast<double>(message.size()) / wire_.rate : 0);
    const double jitter = wire_.seed == 0 ? 0 : random_.uniform() * wire_.latency;
    const double arrives = free_at + wire_.latency + jitter;
    const size_t size = message.size();
    message.resize(size + sizeof arrives);
    std::memcpy(message.data() + size, &arrives, sizeof arrives);
    ranks_->send(to, std::move(message));
  }

  std::optional<Bytes> try_receive(int from) override {
    std::deque<Arriving>& queue = under_way_[static_cast<size_t>(from)];
    while (std::optional<Bytes> message = ranks_->try_receive(from)) {
      Arriving next{0, std::move(*message)};
      const size_t size = next.message.size() - sizeof next.at;
      std::memcpy(&next.at, next.message.data() + size, sizeof next.at);
      next.message.resize(size);
      queue.push_back(std::move(next));
    }
    if (queue.empty() || queue.front().at > now()) return {};
    Bytes message = std::move(queue.front().message);
    queue.pop_front();
    return message;
  }

  void idle(double idle) override {
    double next = now() + 1e-3;
    bool any = false;
    for (const auto& queue : under_way_)
      if (!queue.empty()) any = true, next = std::min(next, queue.front().at);
    if (!any) return ranks_->idle(idle);
    if (const double left = next - now(); left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(left));
  }

  void abort(int exit_code) override { ranks_->abort(exit_code); }

 private:
  struct Arriving {
    double at;
    Bytes message;
  };
  std::unique_ptr<Communicator> ranks_;
  Wire wire_;
  std::vector<double> free_at_;                  // [R] when the wire to each has nothing more to carry
  std::vector<std::deque<Arriving>> under_way_;  // [R] from each
  base::Rng random_;
};

}  // namespace

std::unique_ptr<Communicator> delayed(std::unique_ptr<Communicator> ranks, const Wire& wire) {
  return std::make_unique<Delayed>(std::move(ranks), wire);
}

}  // namespace coterie::comm

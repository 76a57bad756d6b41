#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "serve/api/shelf.h"

namespace coterie::serve {

/// How one model of a ModelShelf is had.
struct ModelOnDemand {
  std::string name;
  std::vector<std::string> aliases = {};
  std::string path = {};
  bool stays = false;  // loaded already, and never unloaded
  /// Bytes that it takes while it is loaded, weights and cache. Called before load(), by the shelf's own thread.
  std::function<int64_t()> bytes = {};
  std::function<std::shared_ptr<const ReadyModel>()> load = {};
};

struct ModelShelfOptions {
  int64_t memory = 0;               // bytes that all loaded models may take together; 0: any
  double unload_after_seconds = 0;  // without a request; 0: only when another model needs the room
  double patience_seconds = 30;     // how long a model waits for one that answers to make room for it
};

/// Several models by name, each loaded when it is first asked for and unloaded when nobody has asked for long, or when
/// another needs its memory: the one that was used longest ago first, never one that answers.
class ModelShelf final : public Shelf {
 public:
  /// Loads those that stay. Throws what their load() throws, and bad_input for a name that occurs twice.
  ModelShelf(std::vector<ModelOnDemand> models, ModelShelfOptions options);
  ~ModelShelf() override;

  std::vector<ShelvedModel> all() const override;
  void open(const std::string& name, Done done) override;
  void drain() override;
  bool idle() const override;
  void stop() override;

 private:
  struct Slot {
    ModelOnDemand model;
    int64_t bytes = 0;
    std::shared_ptr<const ReadyModel> ready;
    bool wanted = false;  // loading, or about to be
    std::vector<Done> waiting;
    std::chrono::steady_clock::time_point used;
  };

  void run();
  void load(Slot& slot);
  bool in_use(const Slot& slot) const;
  /// Unloads what is idle, the longest unused first, until `bytes` more fit; waits for what answers. Throws ApiError
  /// 503 where they do not fit.
  void make_room(const Slot& slot, int64_t bytes);
  void unload_idle();

  const ModelShelfOptions options_;
  mutable std::mutex mutex_;  // of all below; not held while a model is loaded or unloaded
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Slot>> slots_;
  bool stopping_ = false, draining_ = false;
  std::thread thread_;
};

}  // namespace coterie::serve

#include "serve/api/model_shelf.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/memory.h"
#include "serve/api/api_error.h"

namespace coterie::serve {

using Clock = std::chrono::steady_clock;

ModelShelf::ModelShelf(std::vector<ModelOnDemand> models, ModelShelfOptions options) : options_(options) {
  std::set<std::string> names;
  for (ModelOnDemand& model : models) {
    for (const std::string& name : model.aliases)
      if (!names.insert(name).second)
        base::fail(base::ErrorKind::bad_input, "serve.model", "two models have the name \"{}\"", name);
    if (!names.insert(model.name).second)
      base::fail(base::ErrorKind::bad_input, "serve.model", "two models have the name \"{}\"", model.name);
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->model = std::move(model);
  }
  base::require(!slots_.empty(), "serve.model", "there is no model");
  for (const auto& slot : slots_)
    if (slot->model.stays) slot->bytes = slot->model.bytes(), slot->ready = slot->model.load();
  thread_ = std::thread([this] { run(); });
}

ModelShelf::~ModelShelf() { stop(); }

void ModelShelf::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::vector<ShelvedModel> ModelShelf::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<ShelvedModel> all;
  for (const auto& slot : slots_) {
    const auto state = slot->ready    ? ShelvedModel::State::loaded
                       : slot->wanted ? ShelvedModel::State::loading
                                      : ShelvedModel::State::unloaded;
    all.push_back({state, slot->model.name, slot->model.aliases, slot->model.path, slot->ready});
  }
  return all;
}

void ModelShelf::open(const std::string& name, Done done) {
  std::shared_ptr<const ReadyModel> ready;
  bool waits = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(slots_.begin(), slots_.end(), [&](const auto& slot) {
      const std::vector<std::string>& aliases = slot->model.aliases;
      return slot->model.name == name || std::find(aliases.begin(), aliases.end(), name) != aliases.end();
    });
    base::require(found != slots_.end(), "serve.model", "there is no model \"{}\"", name);
    Slot& slot = **found;
    slot.used = Clock::now();
    ready = slot.ready;
    if (!ready && !stopping_ && !draining_) {
      slot.wanted = waits = true;
      slot.waiting.push_back(std::move(done));
    }
  }
  changed_.notify_all();
  if (ready) return done(std::move(ready), nullptr);
  if (!waits) done(nullptr, std::make_exception_ptr(ApiError(503, "the server is stopping", "", "shutting_down")));
}

void ModelShelf::drain() {
  std::vector<std::shared_ptr<const ReadyModel>> ready;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    for (const auto& slot : slots_) ready.push_back(slot->ready);
  }
  for (const auto& model : ready)
    if (model) model->backend->drain();
}

bool ModelShelf::idle() const {
  const std::lock_guard lock(mutex_);
  return std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) {
    return slot->waiting.empty() && (!slot->ready || slot->ready->backend->idle());
  });
}

void ModelShelf::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto wanted =
        std::find_if(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->wanted && !slot->ready; });
    lock.unlock();
    if (wanted != slots_.end())
      load(**wanted);
    else
      unload_idle();
    lock.lock();
    const auto more = [this] {
      return stopping_ ||
             std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->wanted && !slot->ready; });
    };
    changed_.wait_for(lock, std::chrono::milliseconds(500), more);
  }
  std::vector<Done> waiting;
  for (const auto& slot : slots_) {
    for (Done& done : slot->waiting) waiting.push_back(std::move(done));
    slot->waiting.clear(), slot->wanted = false;
  }
  lock.unlock();
  for (const Done& done : waiting)
    done(nullptr, std::make_exception_ptr(ApiError(503, "the server is stopping", "", "shutting_down")));
}

void ModelShelf::load(Slot& slot) {
  std::shared_ptr<const ReadyModel> ready;
  std::exception_ptr error;
  int64_t bytes = 0;
  try {
    bytes = slot.model.bytes();
    make_room(slot, bytes);
    ready = slot.model.load();
  } catch (...) {
    error = std::current_exception();
  }
  std::vector<Done> waiting;
  {
    const std::lock_guard lock(mutex_);
    slot.ready = ready, slot.bytes = bytes, slot.wanted = false, slot.used = Clock::now();
    waiting.swap(slot.waiting);
    if (draining_ && ready) ready->backend->drain();
  }
  for (const Done& done : waiting) done(ready, error);
}

// The shelf's own is one holder; sessions, and whoever looks at it just now, are others.
bool ModelShelf::in_use(const Slot& slot) const { return slot.ready.use_count() > 1 || !slot.ready->backend->idle(); }

void ModelShelf::make_room(const Slot& slot, int64_t bytes) {
  if (options_.memory == 0) return;
  const auto begun = Clock::now();
  while (true) {
    std::shared_ptr<const ReadyModel> gone;
    {
      std::unique_lock lock(mutex_);
      int64_t taken = 0, fixed = 0;
      Slot* oldest = nullptr;
      for (const auto& other : slots_) {
        if (!other->ready) continue;
        taken += other->bytes;
        fixed += other->model.stays ? other->bytes : 0;
        if (!other->model.stays && !in_use(*other) && (!oldest || other->used < oldest->used)) oldest = other.get();
      }
      if (taken + bytes <= options_.memory) return;
      const double waited = std::chrono::duration<double>(Clock::now() - begun).count();
      if (!oldest && !stopping_ && fixed + bytes <= options_.memory && waited < options_.patience_seconds) {
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        continue;
      }
      if (!oldest) {
        ApiError error(
            503,
            fmt::format("\"{}\" needs {}, and of the {} that models may take others in use hold {}", slot.model.name,
                        base::human_bytes(bytes), base::human_bytes(options_.memory), base::human_bytes(taken)),
            "model", "model_does_not_fit");
        if (fixed + bytes <= options_.memory) error.retry_after_seconds = 10;
        throw error;
      }
      gone.swap(oldest->ready);
    }
  }
}

void ModelShelf::unload_idle() {
  if (options_.unload_after_seconds <= 0) return;
  std::vector<std::shared_ptr<const ReadyModel>> gone;
  const std::lock_guard lock(mutex_);
  for (const auto& slot : slots_) {
    if (!slot->ready || slot->model.stays) continue;
    if (in_use(*slot)) {
      slot->used = Clock::now();
      continue;
    }
    const double idle = std::chrono::duration<double>(Clock::now() - slot->used).count();
    if (idle >= options_.unload_after_seconds) gone.push_back(std::move(slot->ready));
  }
}

}  // namespace coterie::serve

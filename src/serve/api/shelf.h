#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/api/backend.h"
#include "serve/api/model.h"

namespace coterie::serve {

/// A model that can answer: what requests see of it, and what runs them. Whoever holds it keeps it in memory.
struct ReadyModel {
  std::shared_ptr<const ServedModel> served;
  std::shared_ptr<Backend> backend;  // and all that it needs
};

/// A model as /v1/models lists it, in memory or not.
struct ShelvedModel {
  enum class State { unloaded, loading, loaded } state = State::unloaded;
  std::string name;
  std::vector<std::string> aliases;
  std::string path;
  std::shared_ptr<const ReadyModel> ready;  // when loaded
};
std::string_view name(ShelvedModel::State state);  // "unloaded", "loading", "loaded"

/// The models of a server. Its functions may be called from any thread and do not wait for a model.
class Shelf {
 public:
  virtual ~Shelf() = default;
  /// In the order in which they were given; the first answers requests that name none.
  virtual std::vector<ShelvedModel> all() const = 0;
  /// Gets the model of this name ready. `done` is called once, from within or later from another thread, with the model
  /// or with what was thrown.
  using Done = std::function<void(std::shared_ptr<const ReadyModel> model, std::exception_ptr error)>;
  virtual void open(const std::string& name, Done done) = 0;
  /// No model takes more requests; those that run go on to their ends. idle() tells.
  virtual void drain() = 0;
  virtual bool idle() const = 0;
  /// Loads nothing more. What waits for a model is told so before this returns.
  virtual void stop() {}
};

/// One model that is always there.
class OneModel final : public Shelf {
 public:
  /// Both must outlive it.
  OneModel(const ServedModel& model, Backend& backend);
  std::vector<ShelvedModel> all() const override;
  void open(const std::string&, Done done) override { done(ready_, nullptr); }
  void drain() override { ready_->backend->drain(); }
  bool idle() const override { return ready_->backend->idle(); }

 private:
  std::shared_ptr<const ReadyModel> ready_;
};

}  // namespace coterie::serve

#pragma once

#include <coterie/coterie.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/engines.h"
#include "runtime/generation.h"
#include "runtime/library/translate.h"

// What the promised header's classes are made of.
namespace coterie {

struct Model::Impl {
  explicit Impl(runtime::Engines engines);

  runtime::Engines engines;
  std::vector<std::string> warnings, names;
  int64_t parameters = 0, active_parameters = 0;

  /// While it lives, this thread computes with the model.
  class Turn {
   public:
    /// Waits. Throws bad_input when this thread computes already: it was asked from within a callback.
    explicit Turn(Impl& model);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Impl& model_;
  };

 private:
  std::mutex mutex_;
  std::atomic<std::thread::id> computing_ = std::thread::id();
};

struct Session::Impl {
  explicit Impl(Model of) : model(std::move(of)) {}

  Model model;
  OnRouting on_routing;
  std::exception_ptr routing_error;  // that on_routing threw in the step that runs
  std::atomic<bool> cancelled{false};
  std::optional<runtime::Generation> generation;  // of the last start()
  runtime::Engine* engine = nullptr;              // that evaluated last
  std::map<const runtime::Engine*, runtime::TokenCache> caches;

  Model::Impl& of() const { return *model.impl_; }
  bool writes() const { return generation && !generation->finished(); }
  /// Whether the cache is the generation's now.
  bool holds_cache() const { return generation && !released_; }
  /// What the engine that evaluated last has evaluated; null for nothing.
  const runtime::TokenCache* held() const;
  /// Gives up the text that is being written, and takes the cache back from it.
  void give_up_text();
  runtime::TokenCache& cache(runtime::Engine& with);

  void start(std::span<const int32_t> prompt, const GenerateOptions& options, OnText on_text);
  Generated generate(std::span<const int32_t> prompt, const GenerateOptions& options, const OnText& on_text);
  Generated generated() const;
  /// Evaluates ids, and hands on the rows of those from `from` on ([V] each, or [D] with pass.hidden), in order.
  void read(std::span<const int32_t> ids, int64_t from, layers::PassOptions pass,
            const std::function<void(int64_t position, std::span<const float> row)>& row);

 private:
  bool released_ = false;
};

namespace library {

/// One step of sessions that write, all of one model. Throws what concerns all of them.
void step(Model::Impl& model, std::span<Session::Impl* const> sessions);

/// Hands the decisions of routers on to the sessions whose tokens they are about.
class RoutingObserver final : public layers::Observer {
 public:
  /// By the state that a session's tokens are evaluated with.
  void watch(const layers::SequenceState* state, Session::Impl& session) { sessions_.emplace(state, &session); }
  bool watches() const { return !sessions_.empty(); }
  void routed(const layers::Routed& router) override;

 private:
  std::map<const layers::SequenceState*, Session::Impl*> sessions_;
};

}  // namespace library
}  // namespace coterie

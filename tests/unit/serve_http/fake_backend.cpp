#include "fake_backend.h"

#include "base/json.h"

namespace coterie::serve::test {

FakeBackend::~FakeBackend() {
  {
    const std::lock_guard lock(mutex_);
    for (RequestId id = 1; id < next_; ++id) cancelled_.insert(id);
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::vector<RequestId> FakeBackend::submit(std::vector<Submission> requests) {
  if (busy) throw Refused(Refused::Reason::queue_full, 7, "16 requests wait already");
  const std::lock_guard lock(mutex_);
  std::vector<RequestId> ids;
  for (Submission& submission : requests) {
    const RequestId id = next_++;
    ids.push_back(id);
    seen_.push_back(submission.request);
    submission.listener->on_event(id, Queued{static_cast<int64_t>(id) - 1, 1.5});
    ++running_;
    threads_.emplace_back([this, id, submission = std::move(submission)]() mutable { run(id, std::move(submission)); });
  }
  return ids;
}

void FakeBackend::cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.insert(id);
  }
  changed_.notify_all();
}

void FakeBackend::pause(RequestId id) {
  const std::lock_guard lock(mutex_);
  ++paused;
  held_.insert(id);
}

void FakeBackend::resume(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    ++resumed;
    held_.erase(id);
  }
  changed_.notify_all();
}

void FakeBackend::release() {
  {
    const std::lock_guard lock(mutex_);
    released_ = true;
  }
  changed_.notify_all();
}

std::vector<Request> FakeBackend::seen() const {
  const std::lock_guard lock(mutex_);
  return seen_;
}

bool FakeBackend::cancelled(int count, std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, most, [&] { return static_cast<int>(cancelled_.size()) >= count; });
}

bool FakeBackend::is_cancelled(RequestId id) const {
  const std::lock_guard lock(mutex_);
  return cancelled_.count(id) != 0;
}

Snapshot FakeBackend::snapshot() const {
  Snapshot now;
  now.running = running_;
  now.stopping = stopping_;
  now.counters.generated_tokens = 11;
  now.histograms.first_token_seconds.upper = {0.1, 1};
  now.histograms.first_token_seconds.counts = {0, 0, 0};
  now.counters.expert_tokens = {{1, 2, 3, 4}, {5, 6, 7, 8}};
  now.expert_places = {{0, 2, 5, 6}, {6, 6, 6, 5}};
  return now;
}

void FakeBackend::wait_for_release(RequestId id) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return released_ || cancelled_.count(id) != 0; });
}

void FakeBackend::run(RequestId id, Submission submission) {
  const Request& request = submission.request;
  Listener& listener = *submission.listener;
  if (holds) wait_for_release(id);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  listener.on_event(id, PromptProgress{prompt, prompt / 2, prompt, 0.25, 0});
  if (request.prompt_logprobs >= 0) {
    PromptScored scored;
    for (size_t i = 1; i < request.prompt.size(); ++i) {
      scored.tokens.push_back({request.prompt[i], -1});
      scored.top.emplace_back();
      for (int64_t k = 0; k < request.prompt_logprobs; ++k)
        scored.top.back().push_back({static_cast<TokenId>('a' + k), -0.5F - static_cast<float>(k)});
    }
    listener.on_event(id, std::move(scored));
  }
  if (request.tells_routes && model_weights.empty())
    listener.on_event(id, RoutesKnown{0, 1, 2, 2, {0, 1, 2, 65535}, {0x3800, 0x3400, 0x3c00, 0}, {0x3c00, 0x3800}});
  Finished finished;
  finished.usage.prompt_tokens = prompt;
  finished.usage.cached_tokens = prompt / 2;
  int64_t said = 0;
  bool ended = false;
  while (!ended) {
    for (const char c : says) {
      if (is_cancelled(id))
        finished.reason = FinishReason::cancelled, ended = true;
      else if (request.max_tokens >= 0 && said >= request.max_tokens)
        finished.reason = FinishReason::max_tokens, ended = true;
      if (ended) break;
      TokenChosen token;
      token.id = static_cast<unsigned char>(c);
      token.text = std::string(1, c);
      token.logprob = -0.5F;
      if (request.tells_routes) token.model_weights = model_weights;
      for (int64_t k = 0; k < request.logprobs; ++k)
        token.top.push_back({static_cast<TokenId>('a' + k), -0.5F - static_cast<float>(k)});
      listener.on_event(id, std::move(token));
      ++said;
      if (fails) {
        RequestFailed failed;
        failed.message = "the logits are not finite";
        listener.on_event(id, std::move(failed));
        --running_;
        return;
      }
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return held_.count(id) == 0 || cancelled_.count(id) != 0; });
      }
      if (pace.count() > 0) std::this_thread::sleep_for(pace);
    }
    if (!endless && !ended) {
      ended = true;
      TokenChosen end;
      end.id = kEnd;
      listener.on_event(id, std::move(end));
      ++said;
    }
  }
  finished.usage.completion_tokens = said;
  if (request.pooling != Request::Pooling::none) finished.embedding = {3, 0, -4};
  if (request.routed_experts) {
    finished.routed_experts = {2, 2, 2, {0, 1, 2, 3, 3, 2, 1, 0}};
  }
  --running_;
  listener.on_event(id, std::move(finished));
}

Fixture::Fixture(GuardOptions guard, HttpLimits limits, bool lenient) : model(fake_model()) {
  model.lenient = lenient;
  ServiceOptions options;
  options.http.port = 0;
  options.http.limits = limits;
  options.guard = std::move(guard);
  options.log = [this](const std::string& line) {
    const std::lock_guard lock(log_mutex);
    log.push_back(line);
  };
  service = std::make_unique<Service>(model, backend, std::move(options));
  service->start();
}

}  // namespace coterie::serve::test

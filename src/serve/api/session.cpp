#include "serve/api/session.h"

#include <algorithm>

namespace coterie::serve {

namespace {

constexpr auto kSilence = std::chrono::milliseconds(1000);

}  // namespace

/// Passes a choice's events on to the I/O thread.
class Session::Ear final : public Listener {
 public:
  Ear(std::shared_ptr<Session> session, size_t choice) : session_(std::move(session)), choice_(choice) {}
  void on_event(RequestId, Event&& event) noexcept override {
    session_->floor_.post([session = session_, choice = choice_, event = std::make_shared<Event>(std::move(event))] {
      session->event(choice, std::move(*event));
    });
  }

 private:
  std::shared_ptr<Session> session_;
  size_t choice_;
};

Session::Session(Floor floor, Call call, std::unique_ptr<Answer> answer, std::shared_ptr<const ReadyModel> model)
    : floor_(std::move(floor)),
      call_(std::move(call)),
      model_(std::move(model)),
      answer_(std::move(answer)),
      queued_(answer_->requests.size()) {
  answer_->choices.resize(answer_->requests.size());
}

std::vector<RequestId> Session::submit(size_t count) {
  std::vector<Submission> submissions;
  for (; count > 0; --count, ++submitted_) {
    Request& request = answer_->requests[submitted_];
    request.client = call_.client;
    submissions.push_back({request, std::make_shared<Ear>(shared_from_this(), submitted_)});
    request.constraint.reset();  // the scheduler's now
  }
  return model_->backend->submit(std::move(submissions));
}

// One has ended, so there is a place for another. I/O thread.
void Session::submit_next() {
  if (submitted_ == answer_->requests.size()) return;
  for (const RequestId id : submit(1)) ids_.push_back(id);
}

void Session::open() {
  const size_t all = answer_->requests.size();
  const auto parallel = static_cast<size_t>(std::max<int64_t>(model_->backend->options().parallel, 1));
  std::vector<RequestId> ids = submit(answer_->in_turn ? std::min(all, parallel) : all);
  floor_.post([self = shared_from_this(), ids = std::move(ids)] {
    self->ids_ = ids;
    self->begin();
  });
}

void Session::begin() {
  begun_ = true;
  written_ = std::chrono::steady_clock::now();
  const std::weak_ptr<Session> weak = weak_from_this();
  if (answer_->stream) {
    HttpHeaders headers = call_.headers();
    headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
    headers.emplace_back("X-Accel-Buffering", "no");
    call_.exchange->start(200, std::move(headers), ":\n\n");
    write(answer_->begin());
    call_.exchange->on_pause([weak](bool paused) {
      const auto self = weak.lock();
      if (!self || self->over_) return;
      for (const RequestId id : self->ids_)
        paused ? self->model_->backend->pause(id) : self->model_->backend->resume(id);
    });
  }
  call_.exchange->on_closed([weak] {
    const auto self = weak.lock();
    if (!self || self->over_) return;
    self->over_ = true;
    self->cancel_all();
    self->call_.write_log(499, "client_gone", self->answer_.get());
  });
  for (auto& [choice, event] : std::exchange(early_, {})) {
    if (over_) break;
    handle(choice, event);
  }
}

void Session::event(size_t choice, Event event) {
  if (over_) return;
  if (!begun_) return early_.emplace_back(choice, std::move(event)), void();
  handle(choice, event);
}

void Session::handle(size_t choice, Event& event) {
  try {
    Choice& state = answer_->choices[choice];
    if (auto* waits = std::get_if<Queued>(&event)) {
      queued_[choice] = *waits;
    } else if (auto* read = std::get_if<PromptProgress>(&event)) {
      queued_[choice].reset();
      state.progress = *read;
      if (answer_->stream) write(answer_->progress(choice));
    } else if (auto* routes = std::get_if<RoutesKnown>(&event)) {
      state.routes.push_back(std::move(*routes));
    } else if (auto* scored = std::get_if<PromptScored>(&event)) {
      state.scored = std::move(*scored);
      write(answer_->scored(choice));
    } else if (auto* token = std::get_if<TokenChosen>(&event)) {
      state.progress.reset();
      if (answer_->requests[choice].tells_routes && answer_->model.gated.count() > 0)
        state.model_weights.push_back(token->model_weights);
      write(answer_->token(choice, *token));
    } else if (auto* failed = std::get_if<RequestFailed>(&event)) {
      fail(as_api_error(*failed));
    } else if (auto* finished = std::get_if<Finished>(&event)) {
      if (finished->reason == FinishReason::cancelled)
        return fail({503, "the server is stopping: the answer was not finished", "", "shutting_down"});
      state.finished = std::move(*finished);
      write(answer_->ended(choice));
      if (++ended_ == answer_->choices.size()) return complete();
      submit_next();
    }
  } catch (const std::exception& error) {
    fail(as_api_error(error));
  }
}

void Session::write(std::string bytes) {
  if (bytes.empty() || !answer_->stream) return;
  written_ = std::chrono::steady_clock::now();
  call_.exchange->write(std::move(bytes));
}

void Session::tick(std::chrono::steady_clock::time_point now) {
  if (over_ || !begun_ || !answer_->stream || now - written_ < kSilence) return;
  write(ping());
}

// A comment, which readers of streams pass over.
std::string Session::ping() const {
  base::Json state = {{"state", "writing"}};
  for (size_t i = 0; i < queued_.size(); ++i) {
    if (queued_[i])
      state = {{"state", "queued"}, {"ahead", queued_[i]->ahead}, {"wait_seconds", queued_[i]->wait_seconds}};
    else if (const auto& read = answer_->choices[i].progress)
      state = {{"state", "reading"},
               {"done", read->done},
               {"cached", read->cached},
               {"total", read->total},
               {"remaining_seconds", read->remaining_seconds}};
    else
      continue;
    break;
  }
  return ": ping " + dumped(state) + "\n\n";
}

void Session::complete() {
  over_ = true;
  if (answer_->stream) {
    call_.exchange->write(answer_->end());
    call_.exchange->finish();
    call_.write_log(200, "ok", answer_.get());
    return;
  }
  floor_.desk.always([self = shared_from_this(), kept = model_] {
    try {
      HttpResponse response;
      response.body = dumped(self->answer_->whole());
      response.headers = self->call_.headers();
      self->call_.exchange->respond(std::move(response));
      self->call_.write_log(200, "ok", self->answer_.get());
    } catch (const std::exception& error) {
      self->call_.fail(as_api_error(error));
    }
  });
}

void Session::fail(const ApiError& thrown) {
  over_ = true;
  cancel_all();
  if (!answer_->stream) return call_.fail(thrown);
  const ApiError error = call_.worded(thrown);
  call_.exchange->write(answer_->failed(error));
  call_.exchange->finish();
  call_.write_log(error.status, error.message, answer_.get());
}

void Session::cancel_all() {
  for (const RequestId id : ids_) model_->backend->cancel(id);
}

}  // namespace coterie::serve

#include "train/ranks/team.h"

#include <algorithm>
#include <cstring>

#include "comm/error_text.h"

namespace coterie::train {

using comm::Kind;

Team::Team(comm::Ranks& ranks) : ranks_(&ranks) { inbox_.emplace(ranks); }

models::ExpertRange Team::own(int64_t experts) const {
  const comm::Placement placement{size()};
  return {placement.first(rank(), experts), placement.end(rank(), experts)};
}

void Team::begin_run(int64_t step) {
  if (alone()) return;
  const uint64_t last = inbox_->step();
  // Numbers of messages never go back; those of the first run are its steps.
  before_run_ = last > static_cast<uint64_t>(step) ? last - static_cast<uint64_t>(step) : 0;
  begin_step(step);
}

void Team::begin_step(int64_t step) {
  if (!alone()) inbox_->begin(before_run_ + static_cast<uint64_t>(step));
}

void Team::send_all(const std::string& own) {
  ++number_;
  for (int to = 0; to < size(); ++to) {
    if (to == rank()) continue;
    comm::Writer message(Kind::gather, inbox_->step(), -1, own.size() + 16);
    message.number(static_cast<int64_t>(number_ & 0xffffffff));
    message.text(own);
    ranks_->send(to, std::move(message));
  }
}

comm::Message Team::from(int rank, bool whenever) {
  const auto wanted = [&](const comm::Message& m) {
    return m.from() == rank && m.header().kind == Kind::gather && m.header().number == (number_ & 0xffffffff);
  };
  if (whenever) return inbox_->take_whenever(wanted);
  std::vector<char> missing(static_cast<size_t>(size()));
  missing[static_cast<size_t>(rank)] = 1;
  return inbox_->take(missing, {Kind::gather, inbox_->step(), -1}, wanted);
}

std::vector<std::string> Team::gather(const std::string& own) {
  std::vector<std::string> all(static_cast<size_t>(size()), own);
  if (alone()) return all;
  send_all(own);
  for (int r = 0; r < size(); ++r)
    if (r != rank()) all[static_cast<size_t>(r)] = from(r, false).text();
  return all;
}

std::vector<std::vector<double>> Team::gather(std::span<const double> own) {
  std::vector<std::vector<double>> all;
  for (const std::string& bytes : gather(std::string(reinterpret_cast<const char*>(own.data()), own.size_bytes()))) {
    std::vector<double>& values = all.emplace_back(bytes.size() / sizeof(double));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  return all;
}

bool Team::any(bool own) {
  if (alone()) return own;
  const std::vector<std::string> all = gather(std::string(own ? "1" : "0"));
  return std::find(all.begin(), all.end(), "1") != all.end();
}

double Team::of_first(double own) {
  if (alone()) return own;
  return gather(std::span<const double>(&own, 1)).front().front();
}

void Team::wait_for_all() {
  if (alone()) return;
  send_all({});
  for (int r = 0; r < size(); ++r)
    if (r != rank()) from(r, true);
}

void Team::together(const std::function<void()>& body) {
  if (alone()) return body();
  std::string error;
  std::exception_ptr own;
  try {
    body();
  } catch (const base::Error& thrown) {
    own = std::current_exception();
    error = comm::error_text(thrown);
  }
  const std::vector<std::string> errors = gather(error);
  if (own) std::rethrow_exception(own);
  comm::throw_first(*ranks_, errors);
}

void Team::fail(const base::Error& error) {
  // Who failed elsewhere has told everybody.
  if (alone() || ranks_->lost() || dynamic_cast<const comm::RankFailure*>(&error)) return;
  for (int to = 0; to < size(); ++to)
    if (to != rank()) ranks_->send_failure(to, error, inbox_->step());
}

}  // namespace coterie::train

#include "serve/api/shelf.h"

namespace coterie::serve {

std::string_view name(ShelvedModel::State state) {
  switch (state) {
    case ShelvedModel::State::unloaded: return "unloaded";
    case ShelvedModel::State::loading: return "loading";
    case ShelvedModel::State::loaded: return "loaded";
  }
  return "unknown";
}

OneModel::OneModel(const ServedModel& model, Backend& backend)
    : ready_(
          std::make_shared<ReadyModel>(ReadyModel{std::shared_ptr<const ServedModel>(std::shared_ptr<void>(), &model),
                                                  std::shared_ptr<Backend>(std::shared_ptr<void>(), &backend)})) {}

std::vector<ShelvedModel> OneModel::all() const {
  const ServedModel& model = *ready_->served;
  return {{ShelvedModel::State::loaded, model.name, model.aliases, model.path, ready_}};
}

}  // namespace coterie::serve

#include "surgery/new_model.h"

#include <utility>

#include "models/account.h"

namespace coterie::surgery {

NewModel::NewModel(ops::Context& context, std::filesystem::path out, NewModelOptions options, Written& result)
    : context_(context), options_(std::move(options)), folder_(std::move(out)), result_(result) {}

void NewModel::write(const models::ModelSpec& spec, const base::Json& config, const families::Model& parent,
                     std::vector<checkpoint::TensorToWrite> tensors) {
  result_.tensors = std::ssize(tensors);
  folder_.write_json("config.json", config);
  folder_.copy_text_files(parent.path.path);
  result_.bytes = folder_.write_weights(std::move(tensors), options_.shard_bytes, options_.on_progress);
  const models::Account account = models::account(spec);
  result_.parameters = account.total(), result_.active_parameters = account.total_active();
}

void NewModel::check(const families::Model& parent, const std::function<void(const families::Model& written)>& also) {
  if (!options_.check) return;
  folder_.fill([&](const std::filesystem::path& now) {
    families::OpenOptions how;
    how.strict = options_.strict;
    const families::Model written = families::open_model(now, how);
    result_.comparison = compare(context_, *parent.decoder, *written.decoder,
                                 tokens_to_compare(parent, options_.text, options_.tokens), options_.on_progress);
    if (also) also(written);
  });
}

void NewModel::finish(const base::Json& receipt) {
  folder_.write_json(kReceipt, receipt);
  folder_.commit();
}

}  // namespace coterie::surgery

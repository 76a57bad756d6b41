#include "runtime/model_bytes.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "families/ensemble/ensemble_decoder.h"
#include "runtime/expert_store/thread_reader.h"
#include "runtime/expert_store/uring_reader.h"
#include "runtime/memory_plan.h"

namespace coterie::runtime {

namespace {

/// The system need not keep pages of files that were touched while the model was opened: they would count against
/// the budget.
void drop_file_pages(const checkpoint::TensorSource& source, const FileTable& files) {
  for (const checkpoint::TensorInfo& tensor : source.tensors())
    if (!tensor.bytes.empty() && source.place_of(tensor.bytes)) base::give_back(tensor.bytes);
  for (const std::filesystem::path& path : files.files) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) continue;
    ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    ::close(descriptor);
  }
}

std::unique_ptr<BlockReader> open_reader(DiskReader reader, const FileTable& files) {
  StoredFiles stored(files.files, files.samples, {.direct = reader != DiskReader::buffered});
  return reader == DiskReader::uring ? make_uring_reader(std::move(stored)) : make_thread_reader(std::move(stored));
}

}  // namespace

std::string_view name(Where where) {
  constexpr std::string_view kNames[kWheres] = {"mapped",  "large pages", "repacked",   "read",
                                                "decoded", "in a slot",   "on the disk"};
  return kNames[static_cast<size_t>(where)];
}

ModelBytes::ModelBytes(families::Model& model, threads::Pool& pool, const kernels::MatmulKernels& kernels,
                       const Options& options)
    : model_(model), pool_(pool), part_of_a_model_(options.part_of_a_model) {
  const checkpoint::TensorSource& source = *model.source;
  const bool files = source.format() != checkpoint::Format::memory || options.make_reader;
  const bool asked = options.memory > 0 || options.expert_memory > 0;
  const int64_t needed = weights().all_held() + options.cache + options.scratch;
  if (asked && !files && (options.expert_memory > 0 || needed > options.memory))
    base::fail(base::ErrorKind::unsupported, "memory", "{} lies in no file: its experts cannot be read from one",
               model.name);
  if (asked && options.part_of_a_model)
    throw base::Error(base::ErrorKind::unsupported, "memory",
                      "bounds one process, and here several hold the experts of the model", "use more ranks instead");
  // Who asks for the file's own pages gets them, read again and again by the system.
  if (files && !options.part_of_a_model && (options.move || asked)) {
    // Near it the rest of the process is looked at too.
    const MemoryBudget budget = memory_budget(options.memory);
    const int64_t process = options.one_of_several ? process_bytes(model.decoder->spec()) : base::resident_memory();
    if (options.expert_memory > 0 || needed + process > budget.bytes) {
      stream(options, kernels);
      if (store_) return;
    }
  }
  moved_ = !options.move;
  // What has been repacked cannot be given back to the disk: not where the weights fill the memory.
  const int64_t there = options.memory > 0 ? std::min(options.memory, base::total_memory()) : base::total_memory();
  const int64_t here = options.part_of_a_model ? bytes_of_rank(*model.decoder, options.own) : source.file_bytes();
  if (!moved_ && options.repack && here + there / 8 < there)
    repacked_.emplace(*model.decoder, source, kernels, options.own);
}

ModelBytes::~ModelBytes() = default;

void ModelBytes::stream(const Options& options, const kernels::MatmulKernels& kernels) {
  const models::ModelSpec& spec = model_.decoder->spec();
  const checkpoint::TensorSource& source = *model_.source;
  const MemoryBudget budget = memory_budget(options.memory);
  const WeightBytes held = weights();
  const int64_t experts = held.held[static_cast<size_t>(models::Place::experts)];
  const int64_t process = options.one_of_several ? process_bytes(spec) : held_by_process(source, held.all_held());
  const StreamNeeds needs =
      stream_needs(spec, process, held.all_held() - experts, options.cache, options.step_tokens, pool_.threads());
  const bool always = options.expert_memory > 0, must = always || options.memory > 0;
  if (!always && needs.sum() + experts <= budget.bytes) return;
  if (experts == 0 && !must) return;  // the system reads its mapping again and again, as it can
  if (experts == 0)
    throw base::Error(base::ErrorKind::out_of_memory, "memory",
                      fmt::format("{} needs {}, {} is less, and it has no routed experts that could be read from the "
                                  "disk as they are needed",
                                  model_.name, base::human_bytes(needs.sum()), budget.words()),
                      "a smaller `context`, or a model in fewer bits, needs less");
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
        moe && moe->router.selection == layers::RouterSpec::Selection::soft) {
      if (!must) return;
      base::fail(base::ErrorKind::unsupported, "memory",
                 "{} is a Soft MoE, which computes all its experts for every token: they have to be in memory",
                 model_.name);
    }
  ExpertLayout layout;
  try {
    layout = ExpertLayout::of(*model_.decoder, source, files_);
  } catch (const base::Error&) {
    if (must) throw;
    return;
  }
  dense_ = std::make_unique<DenseWeights>(*model_.decoder, source, options.move && options.repack ? &kernels : nullptr,
                                          files_);
  std::unique_ptr<BlockReader> reader =
      options.make_reader ? options.make_reader(files_) : open_reader(options.reader, files_);
  layout.fit(reader->unit());
  const SlotClasses classes = slot_classes(layout);
  StreamPlan plan;
  if (always) {
    plan.slots = divide_slots(classes, spec, options.expert_memory);
    if (hold_a_layer(classes, plan.slots)) plan.prompt_tokens = std::min<int64_t>(options.positions, 4096);
  } else {
    plan = plan_stream(classes, spec, budget, needs, options.positions, options.step_tokens);
  }
  prompt_tokens_ = plan.prompt_tokens;
  drop_file_pages(source, files_);
  const DenseWeights::Rate rate = dense_->load(*reader, pool_);
  constexpr int64_t kEnough = 64 << 20;  // less says nothing about a disk
  if (rate.bytes >= kEnough) disk_rate_ = rate.bytes_per_second();
  store_ = std::make_unique<ExpertStore>(std::move(layout), source, files_, std::move(reader), std::move(plan.slots),
                                         options.look_ahead);
}

namespace {

std::string look_ahead_words(const LookAheadSwitch& ahead) {
  if (ahead.mode() != LookAhead::automatic) return ahead.mode() == LookAhead::on ? "on" : "off";
  if (ahead.gain() == 0) return "on, not compared yet";
  return ahead.gain() > 1 ? "on, while it pays" : "off, since it does not pay";
}

}  // namespace

std::optional<StreamReport> ModelBytes::stream_report() {
  if (!store_) return {};
  return StreamReport{.figures = store_->figures(),
                      .slots = store_->all_slots(),
                      .experts = store_->layout().experts(),
                      .slot_bytes = store_->slot_memory(),
                      .disk_rate = disk_rate_,
                      .reader = std::string(store_->reader().name()),
                      .direct = store_->reader().direct(),
                      .look_ahead = look_ahead_words(store_->look_ahead()),
                      .look_ahead_gain = store_->look_ahead().gain()};
}

std::string ModelBytes::note() const {
  using base::human_bytes;
  const int64_t held = weights().all_held();
  if (!store_) {
    if (model_.source->format() == checkpoint::Format::memory || held <= base::total_memory()) return {};
    return fmt::format("the weights are {}, the memory is {}: they will be read from the disk again and again",
                       human_bytes(held), human_bytes(base::total_memory()));
  }
  const ExpertLayout& layout = store_->layout();
  std::string text =
      fmt::format("experts are read from the disk as they are needed: {} of {} fit into {}, by {}{}",
                  store_->all_slots(), layout.experts(), human_bytes(store_->slot_memory()), store_->reader().name(),
                  store_->reader().direct() ? "" : ", buffered (through the page cache)");
  if (disk_rate_ > 0) text += fmt::format("; the disk gave {}/s", human_bytes(static_cast<int64_t>(disk_rate_)));
  if (prompt_tokens_ > 0) text += fmt::format("; a prompt reads a missing expert once for {} tokens", prompt_tokens_);
  if (const int64_t token = experts_of_token(model_.decoder->spec()); store_->all_slots() < token)
    text += fmt::format("; a token needs {}, so few will be found in memory", token);
  return text;
}

bool ModelBytes::advance(double seconds, bool read) {
  if (moved_ || store_) return false;
  const base::Stopwatch clock;
  const int64_t spare = base::total_memory() / 8;
  if (repacked_) {
    repacked_->advance(pool_, seconds, spare, read);
    if (!repacked_->done()) return true;
  }
  // Large pages are made of whole tensors, in which the experts of other ranks lie too.
  if (part_of_a_model_) {
    moved_ = true;
    return false;
  }
  if (!large_pages_)
    large_pages_.emplace(*model_.source,
                         [&](std::span<const std::byte> bytes) { return repacked_ && repacked_->holds(bytes); });
  large_pages_->advance(pool_, seconds - clock.seconds(), spare, read);
  moved_ = large_pages_->done();
  return !moved_;
}

/// Goes through all weights and asks for each where it lies.
class ModelBytes::Surveyor final : public layers::TensorReader {
 public:
  explicit Surveyor(const ModelBytes& bytes) : of_(bytes) {}
  /// What is read next belongs to a model whose layers begin there.
  void begin_at(int64_t first_layer) { first_layer_ = first_layer; }
  void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override {
    add(tensor, where(slot), slot.bytes());
  }
  void vector(const Tensor& tensor, int64_t, const layers::Vector& slot) override {
    add(tensor, Where::decoded, slot.values.size() * static_cast<int64_t>(sizeof(float)));
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t, int64_t,
             const std::vector<tensor::Weight>& slots) override {
    const bool routed = tensor.place == models::Place::experts;
    if (routed && of_.store_ && (tensor.path.ends_with(".gate") || (tensor.path.ends_with(".up") && !after_gate_)))
      ++stored_layer_;
    if (routed) after_gate_ = tensor.path.ends_with(".gate");
    for (size_t e = 0; e < slots.size(); ++e) {
      Where at = where(slots[e]);
      if (routed && of_.store_)
        at = of_.store_->policy().slot_of(stored_layer_, static_cast<int64_t>(e)) != ExpertPolicy::kNone ? Where::slot
                                                                                                         : Where::disk;
      add(tensor, at, slots[e].bytes());
      if (!routed) continue;
      std::vector<Where>& all = layer(tensor).experts;
      all.resize(static_cast<size_t>(experts), Where::decoded);
      all[e] = at;
    }
  }

  std::vector<Layer> result;

 private:
  Layer& layer(const Tensor& tensor) {
    constexpr std::string_view kBlocks = "blocks.";
    int64_t number = -1;
    if (tensor.path.starts_with(kBlocks))
      std::from_chars(tensor.path.data() + kBlocks.size(), tensor.path.data() + tensor.path.size(), number);
    if (number >= 0) number += first_layer_;
    const auto known = std::find_if(result.begin(), result.end(), [&](const Layer& l) { return l.layer == number; });
    return known == result.end() ? result.emplace_back(Layer{.layer = number, .bytes = {}, .experts = {}}) : *known;
  }
  void add(const Tensor& tensor, Where where, int64_t bytes) {
    layer(tensor).bytes[static_cast<size_t>(where)] += bytes;
  }
  Where where(const tensor::Weight& weight) const {
    if (!weight) return Where::decoded;
    if (of_.dense_ && of_.store_ && of_.dense_->holds(weight.data)) return Where::read;
    if (weight.repacked) return Where::repacked;
    if (!of_.model_.source->place_of({weight.data, 1})) return Where::decoded;
    return of_.large_pages_ && of_.large_pages_->holds(weight.data) ? Where::large_pages : Where::mapped;
  }

  const ModelBytes& of_;
  int64_t stored_layer_ = -1, first_layer_ = 0;
  bool after_gate_ = false;
};

std::vector<ModelBytes::Layer> ModelBytes::layers() const {
  Surveyor surveyor(*this);
  if (const auto* ensemble = dynamic_cast<const families::EnsembleDecoder*>(model_.decoder.get())) {
    for (int64_t i = 0; i < std::ssize(ensemble->models()); ++i) {
      surveyor.begin_at(ensemble->first_layer(i));
      ensemble->models()[static_cast<size_t>(i)].decoder->read(surveyor);
    }
  } else {
    model_.decoder->read(surveyor);
  }
  return std::move(surveyor.result);
}

ModelBytes::Bytes ModelBytes::all() const {
  Bytes sum{};
  for (const Layer& layer : layers())
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += layer.bytes[i];
  return sum;
}

}  // namespace coterie::runtime

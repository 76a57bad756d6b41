#include "runtime/prefix_cache.h"

#include <algorithm>

#include "base/error.h"
#include "base/fnv.h"

namespace coterie::runtime {

namespace {
constexpr size_t kPage = static_cast<size_t>(ops::kCacheBlock);
constexpr size_t kRememberedEvictions = 1 << 16;

template <typename Range>
uint64_t hash_of(const Range& range, uint64_t hash = base::kFnvBegin) {
  for (const auto value : range) hash = base::fnv_step(hash, static_cast<uint64_t>(value));
  return hash;
}
}  // namespace

/// One page, or a root, which holds none.
struct PrefixCache::Node {
  Node* parent = nullptr;
  const std::string* key = nullptr;  // of a root
  Ids ids = {};
  uint64_t hash = 0;  // of the whole path
  uint64_t used = 0;
  PagePool::Page page;
  std::shared_ptr<RoutePage> routes;
  std::shared_ptr<tensor::Buffer<float>> state;
  std::map<Ids, std::unique_ptr<Node>> children;
};

PrefixCache::PrefixCache(std::shared_ptr<PagePool> pool, std::shared_ptr<const CacheShape> shape, int64_t most_states)
    : pool_(std::move(pool)), shape_(std::move(shape)), most_states_(most_states) {}

PrefixCache::~PrefixCache() { clear(); }

PrefixCache::Ids PrefixCache::ids_of(std::span<const TokenId> ids, size_t page) {
  Ids result;
  std::copy_n(ids.begin() + static_cast<int64_t>(page * kPage), kPage, result.begin());
  return result;
}

void PrefixCache::touch(Node& node, uint64_t when) {
  if (!node.parent) return;
  if (node.children.empty()) leaves_.erase({node.used, &node}), leaves_.insert({when, &node});
  if (node.state) stated_.erase({node.used, &node}), stated_.insert({when, &node});
  node.used = when;
}

std::vector<PrefixCache::Node*> PrefixCache::path(const std::string& key, std::span<const TokenId> ids) const {
  std::vector<Node*> path;
  const auto root = roots_.find(key);
  if (root == roots_.end()) return path;
  const Node* node = root->second.get();
  for (size_t page = 0; page < ids.size() / kPage; ++page) {
    const auto child = node->children.find(ids_of(ids, page));
    if (child == node->children.end()) break;
    node = child->second.get();
    path.push_back(child->second.get());
  }
  return path;
}

size_t PrefixCache::usable(std::span<Node* const> path) const {
  size_t pages = path.size();
  if (shape_->state.floats() > 0)
    while (pages > 0 && !path[pages - 1]->state) --pages;
  return pages;
}

PrefixCache::Found PrefixCache::find(const std::string& key, std::span<const TokenId> ids) {
  Found found;
  const std::vector<Node*> known = path(key, ids);
  const size_t pages = usable(known);
  const uint64_t now = ++clock_;
  for (Node* each : known) touch(*each, now);
  for (size_t page = 0; page < pages; ++page) {
    if (shape_->page_bytes() > 0) found.pages.push_back(known[page]->page);
    found.routes.push_back(known[page]->routes);
  }
  if (pages > 0) found.state = known[pages - 1]->state;
  found.positions = static_cast<int64_t>(pages * kPage);
  if (pages < ids.size() / kPage) found.miss = miss(key, known, ids, found.positions);
  return found;
}

std::string PrefixCache::miss(const std::string& key, std::span<Node* const> path, std::span<const TokenId> ids,
                              int64_t usable) const {
  const auto root = roots_.find(key);
  const uint64_t hash = path.empty() ? hash_of(key) : path.back()->hash;
  if (root == roots_.end() && !evicted_.contains(hash)) return "nothing was cached under its settings and salt";
  const bool next = path.size() < ids.size() / kPage;  // a page beyond what is known
  if (root == roots_.end() || (next && evicted_.contains(hash_of(ids_of(ids, path.size()), hash))))
    return fmt::format("from position {} on it was evicted to stay within the memory", usable);
  const auto known = std::ssize(path) * ops::kCacheBlock;
  if (usable < known)
    return fmt::format("{} positions are known, but recurrent states were last kept at {}", known, usable);
  return (path.empty() ? root->second->children : path.back()->children).empty()
             ? fmt::format("nothing longer than {} positions was computed", usable)
             : fmt::format("it differs from what is cached within the {} positions from {} on", ops::kCacheBlock,
                           usable);
}

int64_t PrefixCache::known(const std::string& key, std::span<const TokenId> ids) const {
  return static_cast<int64_t>(usable(path(key, ids)) * kPage);
}

int64_t PrefixCache::in_use(const std::string& key, std::span<const TokenId> ids) const {
  if (shape_->page_bytes() == 0) return 0;
  const std::vector<Node*> known = path(key, ids);
  return std::count_if(known.begin(), known.begin() + static_cast<int64_t>(usable(known)),
                       [&](const Node* node) { return pool_->holders(node->page) > 1; });
}

void PrefixCache::insert(const std::string& key, std::span<const TokenId> ids, KvCache& cache,
                         std::span<const std::shared_ptr<RoutePage>> routes) {
  const size_t pages = std::min(ids.size(), static_cast<size_t>(cache.length())) / kPage;
  const bool states = shape_->state.floats() > 0;
  base::require(!states || (std::ssize(ids) == cache.length() && ids.size() % kPage == 0), "prefix cache",
                "recurrent states of {} positions cannot be kept with {} tokens", cache.length(), ids.size());
  // Of a model with states, pages without a state after them are of no use to anyone.
  if (pages == 0 || (states && most_states_ == 0)) return;
  // Room first: what is given up for it may be a part of this very path.
  if (states && known(key, ids) < std::ssize(ids)) evict_states(most_states_ - 1);
  auto root = roots_.find(key);
  if (root == roots_.end()) {
    root = roots_.emplace(key, std::make_unique<Node>()).first;
    root->second->key = &root->first;
    root->second->hash = hash_of(key);
  }
  const uint64_t now = ++clock_;
  Node* node = root->second.get();
  for (size_t page = 0; page < pages; ++page) {
    const Ids wanted = ids_of(ids, page);
    auto child = node->children.find(wanted);
    if (child == node->children.end()) {
      auto made = std::make_unique<Node>();
      made->parent = node;
      made->ids = wanted;
      made->hash = hash_of(wanted, node->hash);
      made->used = now;
      if (shape_->page_bytes() > 0) pool_->share(made->page = cache.pages()[page]);
      if (page < routes.size()) made->routes = routes[page];
      if (node->parent && node->children.empty()) leaves_.erase({node->used, node});
      child = node->children.emplace(wanted, std::move(made)).first;
      leaves_.insert({now, child->second.get()});
      ++nodes_;
    } else {
      if (shape_->page_bytes() > 0) cache.replace_page(page, child->second->page);
      if (!child->second->routes && page < routes.size()) child->second->routes = routes[page];
      touch(*child->second, now);
    }
    node = child->second.get();
  }
  if (!states || node->state) return;
  node->state = cache.copy_of_states();
  stated_.insert({node->used, node});
}

void PrefixCache::limit_states(int64_t most) {
  most_states_ = most;
  evict_states(most);
}

void PrefixCache::evict_states(int64_t kept) {
  for (; std::ssize(stated_) > kept; ++states_evicted_) give_state(*stated_.begin()->second);
}

void PrefixCache::give_state(Node& node) {
  stated_.erase({node.used, &node});
  node.state.reset();
  // Up to the next state nobody can go on from here any more.
  for (Node* leaf = &node; leaf->parent && leaf->children.empty() && !leaf->state;) {
    Node* const parent = leaf->parent;
    remove(*leaf);
    leaf = parent;
  }
}

void PrefixCache::remove(Node& leaf) {
  if (leaf.state) stated_.erase({leaf.used, &leaf});
  leaves_.erase({leaf.used, &leaf});
  if (shape_->page_bytes() > 0) pool_->give(leaf.page);
  remember_evicted(leaf.hash);
  ++pages_evicted_, --nodes_;
  Node* const parent = leaf.parent;
  const Ids ids = leaf.ids;
  parent->children.erase(ids);
  if (parent->children.empty() && parent->parent) leaves_.insert({parent->used, parent});
}

void PrefixCache::remember_evicted(uint64_t hash) {
  if (!evicted_.insert(hash).second) return;
  evicted_order_.push_back(hash);
  if (evicted_order_.size() <= kRememberedEvictions) return;
  evicted_.erase(evicted_order_.front());
  evicted_order_.pop_front();
}

int64_t PrefixCache::evict(int64_t pages) {
  int64_t given = 0;
  for (auto place = leaves_.begin(); given < pages && place != leaves_.end();) {
    Node& leaf = *place->second;
    if (shape_->page_bytes() > 0 && pool_->holders(leaf.page) > 1) {
      ++place;  // a sequence that runs holds it too: nothing would be won
      continue;
    }
    remove(leaf);
    ++given;
    // What it hung on may be older than what was passed over.
    place = leaves_.begin();
  }
  for (auto root = roots_.begin(); root != roots_.end();) {
    if (!root->second->children.empty()) {
      ++root;
      continue;
    }
    remember_evicted(root->second->hash);
    root = roots_.erase(root);
  }
  return given;
}

int64_t PrefixCache::evictable() const {
  if (shape_->page_bytes() == 0) return nodes_;
  int64_t count = 0;
  std::vector<const Node*> open;
  for (const auto& [key, root] : roots_) open.push_back(root.get());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (node->parent && pool_->holders(node->page) == 1) ++count;
    for (const auto& [ids, child] : node->children) open.push_back(child.get());
  }
  return count;
}

void PrefixCache::clear() {
  while (!leaves_.empty()) remove(*leaves_.begin()->second);
  roots_.clear();
  stated_.clear();
}

}  // namespace coterie::runtime

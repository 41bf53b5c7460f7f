#include "index/disk_model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checksum.h"

namespace loci {
namespace {

using Kind = DiskOperation::Kind;

}  // namespace

void WriteImage(const DiskImage& image, const std::string& directory) {
  std::filesystem::remove_all(directory);
  std::filesystem::create_directory(directory);
  for (const auto& [name, content] : image) {  // A folder comes before what lies in it.
    const std::string path = absl::StrCat(directory, "/", name);
    if (name.back() == '/') {
      std::filesystem::create_directory(path.substr(0, path.size() - 1));
    } else {
      std::ofstream(path, std::ios::binary) << content;
    }
  }
}

uint64_t Digest(const DiskImage& image) {
  std::string bytes;
  for (const auto& [name, content] : image) absl::StrAppend(&bytes, name.size(), ":", name, content.size(), ":", content);
  return Xxh3(bytes);
}

DiskModel::DiskModel(const std::string& root) { Load(root, NewNode(true)); }

int DiskModel::NewNode(bool directory) {
  nodes_.emplace_back();
  nodes_.back().directory = directory;
  return static_cast<int>(nodes_.size()) - 1;
}

void DiskModel::Load(const std::string& directory, int node) {
  std::set<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) paths.insert(entry.path());
  for (const std::filesystem::path& path : paths) {
    const bool is_directory = std::filesystem::is_directory(path);
    const int child = NewNode(is_directory);
    nodes_[node].entries[path.filename()] = nodes_[node].durable[path.filename()] = child;
    if (is_directory) {
      Load(path, child);
    } else {
      std::ifstream in(path, std::ios::binary);
      nodes_[child].content = nodes_[child].synced = std::string(std::istreambuf_iterator<char>(in), {});
    }
  }
}

int DiskModel::Find(const std::string& path) const {
  int node = 0;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto found = nodes_[node].entries.find(path.substr(begin, end - begin));
    if (found == nodes_[node].entries.end()) return -1;
    node = found->second;
    begin = end + 1;
  }
  return node;
}

void DiskModel::Apply(const std::string& parent, Change change, bool rocksdb) {
  Node& folder = nodes_[parent == "." ? 0 : Find(parent)];
  for (const auto& [name, node] : change.names) {
    if (node < 0) {
      folder.entries.erase(name);
    } else {
      folder.entries[name] = node;
    }
  }
  change.rocksdb = rocksdb;
  folder.pending.push_back(std::move(change));
}

void DiskModel::Play(const DiskOperation& operation) {
  const std::string parent = ParentPath(operation.path);
  const std::string name = operation.path.substr(parent == "." ? 0 : parent.size() + 1);
  const auto file = [&]() -> Node& { return nodes_[handles_.at(operation.handle)]; };
  switch (operation.kind) {
    case Kind::kMakeDirectory:
      Apply(parent, {{{name, NewNode(true)}}}, false);
      break;
    case Kind::kCreate:
    case Kind::kOpen: {
      int node = Find(operation.path);
      if (node < 0) {
        node = NewNode(false);
        Apply(parent, {{{name, node}}}, operation.rocksdb);
      }
      if (operation.kind == Kind::kCreate) nodes_[node].content.clear();
      handles_[operation.handle] = node;
      break;
    }
    case Kind::kLink:
    case Kind::kRename: {
      const int node = Find(operation.path);
      const std::string to_parent = ParentPath(operation.to);
      const std::string to_name = operation.to.substr(to_parent == "." ? 0 : to_parent.size() + 1);
      if (operation.kind == Kind::kLink) {
        Apply(to_parent, {{{to_name, node}}}, operation.rocksdb);
      } else if (to_parent == parent) {
        Apply(parent, {{{name, -1}, {to_name, node}}}, operation.rocksdb);
      } else {
        Apply(to_parent, {{{to_name, node}}}, operation.rocksdb);
        Apply(parent, {{{name, -1}}}, operation.rocksdb);
      }
      break;
    }
    case Kind::kDelete:
      Apply(parent, {{{name, -1}}}, operation.rocksdb);
      break;
    case Kind::kAppend:
      file().content += operation.data;
      break;
    case Kind::kWrite: {
      std::string& content = file().content;
      content.resize(std::max(content.size(), operation.offset + operation.data.size()));
      content.replace(operation.offset, operation.data.size(), operation.data);
      break;
    }
    case Kind::kTruncate:
      file().content.resize(operation.offset);
      break;
    case Kind::kSyncFile:
      file().synced = file().content;
      break;
    case Kind::kSyncDirectory: {
      Node& folder = nodes_[Find(operation.path)];
      folder.durable = folder.entries;
      folder.pending.clear();
      break;
    }
    case Kind::kMark:
      break;
  }
}

std::string DiskModel::ChooseContent(const Node& node, std::mt19937* random) {
  const std::string &now = node.content, &synced = node.synced;
  const uint32_t way = (*random)() % 4;
  if (way == 0 || now == synced) return synced;
  if (way == 1) return now;
  const bool grew = now.size() > synced.size() && now.compare(0, synced.size(), synced) == 0;
  if (!grew) {
    // Written in place or truncated: new up to somewhere, old from there on.
    const size_t cut = (*random)() % (now.size() + 1);
    return now.substr(0, cut) + (cut < synced.size() ? synced.substr(cut) : "");
  }
  const size_t cut = synced.size() + (*random)() % (now.size() - synced.size() + 1);
  std::string torn = now.substr(0, cut);
  if (way == 3) torn.resize(now.size(), '\0');  // The length was written, the bytes were not.
  return torn;
}

bool DiskModel::IsInOrder(const Node& node) {
  return std::any_of(node.pending.begin(), node.pending.end(), [](const Change& change) { return change.rocksdb; });
}

std::map<std::string, int> DiskModel::EntriesWith(const Node& node, const std::function<bool(size_t change)>& keep) {
  std::map<std::string, int> entries = node.durable;
  std::set<std::string> lost;  // Names with a change that was.
  for (size_t i = 0; i < node.pending.size(); ++i) {
    const Change& change = node.pending[i];
    bool kept = keep(i);
    for (const auto& [name, child] : change.names) kept = kept && lost.count(name) == 0;
    for (const auto& [name, child] : change.names) {
      if (!kept) {
        lost.insert(name);
      } else if (child < 0) {
        entries.erase(name);
      } else {
        entries[name] = child;
      }
    }
  }
  return entries;
}

void DiskModel::Collect(int number, const std::string& path, const Choice& choice, DiskImage* image) const {
  if (!nodes_[number].directory) {
    (*image)[path] = choice.content(number);
    return;
  }
  const std::string prefix = path.empty() ? "" : path + "/";
  if (!prefix.empty()) (*image)[prefix];
  for (const auto& [name, child] : choice.entries(number)) Collect(child, prefix + name, choice, image);
}

DiskImage DiskModel::Image(Survival survival, std::mt19937* random) const {
  std::map<int, std::string> chosen;  // A file of two names has one content.
  Choice choice;
  switch (survival) {
    case Survival::kOnlySynced:
      choice = {[this](int node) { return nodes_[node].durable; }, [this](int node) { return nodes_[node].synced; }};
      break;
    case Survival::kAll:
      choice = {[this](int node) { return nodes_[node].entries; }, [this](int node) { return nodes_[node].content; }};
      break;
    case Survival::kAny:
      choice.entries = [&](int node) {
        const bool in_order = IsInOrder(nodes_[node]);
        const size_t kept = (*random)() % (nodes_[node].pending.size() + 1);
        return EntriesWith(nodes_[node], [&](size_t change) { return in_order ? change < kept : (*random)() % 2 == 0; });
      };
      choice.content = [&](int node) {
        auto content = chosen.find(node);
        if (content == chosen.end()) content = chosen.emplace(node, ChooseContent(nodes_[node], random)).first;
        return content->second;
      };
      break;
  }
  DiskImage image;
  Collect(0, "", choice, &image);
  return image;
}

int DiskModel::NodeOf(const DiskOperation& sync) const {
  return sync.kind == Kind::kSyncFile ? handles_.at(sync.handle) : Find(sync.path);
}

std::vector<DiskImage> DiskModel::ImagesOfTorn(int torn) const {
  constexpr size_t kMaxSubsetChanges = 6;
  const Node& node = nodes_[torn];
  std::vector<std::map<std::string, int>> entries;
  std::vector<std::string> contents;
  const size_t changes = node.pending.size();
  if (!node.directory) {
    contents = {node.synced, node.content};
    std::mt19937 random(static_cast<uint32_t>(torn));
    for (int i = 0; i < 4; ++i) contents.push_back(ChooseContent(node, &random));
  } else if (IsInOrder(node) || changes > kMaxSubsetChanges) {
    for (size_t kept = 0; kept <= changes; ++kept) entries.push_back(EntriesWith(node, [&](size_t change) { return change < kept; }));
    for (size_t lost = 0; lost < changes && !IsInOrder(node); ++lost) {
      entries.push_back(EntriesWith(node, [&](size_t change) { return change != lost; }));
    }
  } else {
    for (size_t set = 0; set < size_t{1} << changes; ++set) {
      entries.push_back(EntriesWith(node, [&](size_t change) { return (set >> change & 1) != 0; }));
    }
  }
  std::vector<DiskImage> images;
  for (const bool others : {false, true}) {
    for (size_t i = 0; i < entries.size() + contents.size(); ++i) {
      Choice choice;
      choice.entries = [&](int number) {
        return number == torn ? entries[i] : others ? nodes_[number].entries : nodes_[number].durable;
      };
      choice.content = [&](int number) {
        return number == torn ? contents[i] : others ? nodes_[number].content : nodes_[number].synced;
      };
      DiskImage image;
      Collect(0, "", choice, &image);
      images.push_back(std::move(image));
    }
  }
  return images;
}

bool DiskModel::SameOnDisk(const DiskModel& other) const {
  if (nodes_.size() != other.nodes_.size()) return false;
  // What can still be reached by a name, or could be after a cut, in either.
  std::vector<bool> seen(nodes_.size());
  std::vector<int> open = {0};
  while (!open.empty()) {
    const int number = open.back();
    open.pop_back();
    if (number < 0 || seen[number]) continue;
    seen[number] = true;
    const Node &a = nodes_[number], &b = other.nodes_[number];
    if (a.synced != b.synced || a.content != b.content || a.durable != b.durable || a.entries != b.entries || a.pending != b.pending) {
      return false;
    }
    for (const auto& [name, child] : a.entries) open.push_back(child);
    for (const auto& [name, child] : a.durable) open.push_back(child);
    for (const Change& change : a.pending) {
      for (const auto& [name, child] : change.names) open.push_back(child);
    }
  }
  return true;
}

}  // namespace loci

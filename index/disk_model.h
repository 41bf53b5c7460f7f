// What a disk holds after the power is cut. For tests.
//
// A program runs once over a RecordingDisk; a DiskModel plays its operations up to any moment, with or without a sync that lied, and
// gives the folder that would be left.
//
//   DiskModel model(root);                    // Before the program began.
//   for (size_t i = 0; i < moment; ++i) model.Play(operations[i]);
//   model.WriteTo(folder, DiskModel::Survival::kOnlySynced, nullptr);
#ifndef LOCI_INDEX_DISK_MODEL_H_
#define LOCI_INDEX_DISK_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "index/recording_disk.h"

namespace loci {

// What a disk holds: contents by path; a folder's path ends with a slash.
using DiskImage = std::map<std::string, std::string>;
// Makes `directory` (removed before, if it is there) hold it.
void WriteImage(const DiskImage& image, const std::string& directory);
// The same for equal ones, another for others.
uint64_t Digest(const DiskImage& image);

// The files of a recorded program: as the program sees them and as the disk has them. What a sync has not covered, the disk may have
// or not:
// - of a file's bytes any part, cut anywhere, or zeros in their place where the file grew;
// - of a folder's changes (names made, renamed, deleted) any, but those of one name in order, and a rename in one piece; in a folder
//   where RocksDB makes files the first ones up to some moment, as journalling file systems write them: RocksDB counts on that.
// A file's sync does not cover its name, nor a folder's the contents of its files. Copyable. Used by one thread.
class DiskModel {
 public:
  // Begins with what is under `root`, all of it synced.
  explicit DiskModel(const std::string& root);

  void Play(const DiskOperation& operation);

  enum class Survival {
    kOnlySynced,  // The least.
    kAll,         // The most: as after kill -9.
    kAny,         // By chance.
  };
  // What survives a cut now. `random` only for kAny.
  DiskImage Image(Survival survival, std::mt19937* random = nullptr) const;
  void WriteTo(const std::string& directory, Survival survival, std::mt19937* random) const {
    WriteImage(Image(survival, random), directory);
  }

  // The file or folder that a sync would cover.
  int NodeOf(const DiskOperation& sync) const;
  // What a cut now can leave where `node` alone is torn: of a folder every set of changes that can survive (where they are many: the first
  // ones, and all but one), of a file some lengths; each with all of the other files' changes and with none that is not synced.
  std::vector<DiskImage> ImagesOfTorn(int node) const;

  // True where no cut can show a difference, now or after any same further operations.
  bool SameOnDisk(const DiskModel& other) const;

 private:
  struct Change {  // Of a folder: `names` get these nodes, or vanish (-1).
    std::map<std::string, int> names;
    bool rocksdb = false;
    bool operator==(const Change& other) const { return names == other.names && rocksdb == other.rocksdb; }
  };
  struct Node {
    bool directory = false;
    std::string content, synced;                  // Of a file.
    std::map<std::string, int> entries, durable;  // Of a folder: what is seen, what is synced.
    std::vector<Change> pending;                  // That make `entries` of `durable`.
  };
  // Of each node: what of it is on the disk.
  struct Choice {
    std::function<std::map<std::string, int>(int)> entries;
    std::function<std::string(int)> content;
  };
  int NewNode(bool directory);
  int Find(const std::string& path) const;  // -1: not there.
  void Apply(const std::string& parent, Change change, bool rocksdb);
  void Load(const std::string& directory, int node);
  void Collect(int node, const std::string& path, const Choice& choice, DiskImage* image) const;
  static std::string ChooseContent(const Node& node, std::mt19937* random);
  // Those of the folder when, of its changes, the ones survive that `keep` says, less those after a lost one of the same name.
  static std::map<std::string, int> EntriesWith(const Node& node, const std::function<bool(size_t change)>& keep);
  static bool IsInOrder(const Node& node);

  std::vector<Node> nodes_;  // The root is 0.
  std::map<int64_t, int> handles_;
};

}  // namespace loci

#endif  // LOCI_INDEX_DISK_MODEL_H_

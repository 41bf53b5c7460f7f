// What the encoder made for an ingest or a re-embedding that has not come to its end, so that one that was interrupted need not encode it again.
//
//   stores/<store>/encoded/<number>      one file of each such job: 8 digits, in their order
//
// Format, little-endian:
//   file    := header record*
//   header  := magic "LOCIENC1" u32(format_version = 2) u32(dim) u8[16](passage half) i64(begun, microseconds since 1970)
//              u8[16](what the encoder computes in, zeros behind it)
//              u64(XXH3 of what is before)
//   record  := u64[2](ContentHash of the passage's text) f32[dim] u64(XXH3 of what is before in the record)
#ifndef LOCI_INDEX_ENCODING_JOURNAL_H_
#define LOCI_INDEX_ENCODING_JOURNAL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/file.h"
#include "index/content_hash.h"

namespace loci {

// A cache: nothing is synced, what is damaged or cut off is left out, and a disk that takes no more ends the writing (with a warning),
// not the ingest. What is too old or too much is deleted when it is opened, oldest first; so is what is of no known format. Memory: 24
// bytes a record that is read. Used by one thread at a time, but that one may call Find while another appends; of one store, by one
// job: an ingest, or a re-embedding.
class EncodingJournal {
 public:
  static constexpr char kDirectory[] = "encoded";  // In the store's folder.
  static constexpr int64_t kMaxBytes = int64_t{16} << 30;
  static constexpr int64_t kMaxRecords = int64_t{8} << 20;
  static constexpr int64_t kMaxFiles = 256;
  static constexpr int64_t kMaxAgeUs = int64_t{30} * 24 * 3600 * 1'000'000;

  struct Options {
    FileSystem* fs = &PosixFileSystem();
    Clock* clock = &RealClock();
    std::string directory;
    std::string passage_half;  // 16 hex digits. Files of another are passed over.
    std::string precision;     // The same, of what the encoder computes in; at most 16 bytes.
    int dim = 0;
    bool delete_others = false;  // Files of another passage half or precision are deleted, not passed over.
    // Of all files: the writing ends there.
    int64_t max_bytes = kMaxBytes;
    int64_t max_records = kMaxRecords;
    int64_t max_files = kMaxFiles;   // Older ones are deleted.
    int64_t max_age_us = kMaxAgeUs;  // Since a file was begun.
  };

  // Reads what earlier ingests have left.
  static std::unique_ptr<EncodingJournal> Open(Options options);
  // Deletes what Open would: for a store that is not ingested into any more. `passage_half` and `dim` are not looked at.
  static void DeleteExpired(const Options& options);
  ~EncodingJournal();

  int64_t record_count() const { return static_cast<int64_t>(places_.size()); }
  // Copies the vector [dim] of a text. False where there is none, or it is damaged.
  bool Find(const ContentHash& hash, float* vector) const;

  // `vectors` [hashes.size(), dim]. They are found by the next one that is opened.
  void Append(std::span<const ContentHash> hashes, const float* vectors);

  // False once something ended the writing: what is appended is not kept.
  bool writing() const { return !stopped_; }

  // Deletes all of it, also what was found; there is nothing to find, and what is appended begins anew.
  absl::Status Clear();

 private:
  struct Place {
    ContentHash hash;
    int64_t record;  // Number of the file << 32 | number in it.
    friend bool operator<(const Place& a, const Place& b) { return a.hash < b.hash; }
  };

  struct File {
    std::string path;
    int64_t number = 0;
    std::unique_ptr<MappedFile> mapped;  // Null where it can't be.
    std::string passage_half;
    std::string precision;
    int64_t dim = 0;
    int64_t records = 0;
  };
  // Those that stay, oldest first; deletes the others.
  static std::vector<File> ListFiles(const Options& options);

  explicit EncodingJournal(Options options);
  void ReadFile(File file);
  std::string FilePath(int64_t number) const;
  absl::Status StartFile();
  void StopWriting(const absl::Status& status);

  const Options options_;
  const int64_t record_bytes_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<Place> places_;  // By hash.
  int64_t next_number_ = 1;
  int64_t size_bytes_ = 0;    // Of all files.
  int64_t file_records_ = 0;  // As well.
  std::unique_ptr<WritableFile> out_;
  bool stopped_ = false;
};

}  // namespace loci

#endif  // LOCI_INDEX_ENCODING_JOURNAL_H_

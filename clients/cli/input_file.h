// Bytes of a file or of standard input, plain or compressed by gzip or zstd.
#ifndef LOCI_CLIENTS_CLI_INPUT_FILE_H_
#define LOCI_CLIENTS_CLI_INPUT_FILE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "clients/cli/input_interrupt.h"

namespace loci {

// Whether the content is gzip or zstd is told by its first bytes, never by its name. Several gzip members or zstd frames, one after
// the other, are one content. Memory is bounded whatever the file holds: a zstd frame whose window exceeds
// 128 MiB is refused. Used by one thread: the reader; the position may be asked by any.
class InputFile {
 public:
  // `path` "-" is standard input. NOT_FOUND, or INVALID_ARGUMENT for a folder; the message names the path. Waits for the first bytes of a
  // pipe, unless `interrupt`, which must outlive the file, ends it, as it does Read.
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path, const InputInterrupt* interrupt = nullptr);

  virtual ~InputFile() = default;
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Reads up to `size` > 0 bytes of content; 0 at its end. DATA_LOSS for a gzip or zstd stream that is damaged, cut short, or
  // followed by bytes that are neither: what was read before must not be taken for the whole.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t size) = 0;

  // Bytes of the file itself (compressed) that were read so far, and all of them; 0 where that is not known (a pipe).
  virtual int64_t position_bytes() const = 0;
  virtual int64_t size_bytes() const = 0;

 protected:
  InputFile() = default;
};

// Cuts an InputFile into lines. Used by one thread: the reader.
class LineReader {
 public:
  // A line ends with "\n" or "\r\n", which is not part of it; the last may end with the file. The name is for messages.
  LineReader(std::unique_ptr<InputFile> file, std::string name, size_t max_line_bytes);

  enum Result { kLine, kTooLong, kEnd };
  // kTooLong: the line has more than max_line_bytes, was passed over to its end, and `line` holds its beginning. A byte order mark
  // before the first line is dropped. INVALID_ARGUMENT, naming the line, where kMaxPassedOverBytes of one don't end it (a device of zeros).
  static constexpr int64_t kMaxPassedOverBytes = int64_t{1} << 30;
  absl::StatusOr<Result> Next(std::string* line);
  // The last line comes again. At most one, and only after kLine.
  void PutBack(std::string line);

  int64_t line_number() const { return line_number_; }  // Of the last line, from 1.
  const std::string& name() const { return name_; }
  const InputFile& file() const { return *file_; }
  size_t max_line_bytes() const { return max_line_bytes_; }

 private:
  absl::StatusOr<bool> Fill();

  const std::unique_ptr<InputFile> file_;
  const std::string name_;
  const size_t max_line_bytes_;
  std::string buffer_;
  size_t begin_ = 0;
  bool at_end_ = false;
  int64_t line_number_ = 0;
  bool has_put_back_ = false;
  std::string put_back_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INPUT_FILE_H_

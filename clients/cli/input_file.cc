#include "clients/cli/input_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/display.h"

namespace loci {
namespace {

constexpr size_t kChunkBytes = 256 * 1024;
constexpr int kZstdMaxWindowLog = 27;  // 128 MiB: what `zstd` writes without --long.

class DescriptorFile final : public InputFile {
 public:
  DescriptorFile(int descriptor, bool owned, bool may_wait, int64_t size_bytes, std::string name, const InputInterrupt* interrupt)
      : descriptor_(descriptor),
        owned_(owned),
        may_wait_(may_wait),
        size_bytes_(size_bytes),
        name_(std::move(name)),
        interrupt_(interrupt),
        raw_(kChunkBytes, '\0') {}
  ~DescriptorFile() override {
    if (inflating_) inflateEnd(&stream_);
    ZSTD_freeDStream(zstd_);
    if (owned_) close(descriptor_);
  }

  // Reads the first bytes and decides whether they are gzip or zstd.
  absl::Status Start() {
    while (raw_end_ < 4 && !raw_at_end_) LOCI_RETURN_IF_ERROR(FillRaw());
    if (raw_end_ >= 4 && std::memcmp(raw_.data(), "\x28\xb5\x2f\xfd", 4) == 0) {
      zstd_ = ZSTD_createDStream();
      if (zstd_ == nullptr) return absl::ResourceExhaustedError("no memory to decompress");
      ZSTD_DCtx_setParameter(zstd_, ZSTD_d_windowLogMax, kZstdMaxWindowLog);
    }
    if (raw_end_ >= 2 && raw_[0] == '\x1f' && raw_[1] == '\x8b') {
      constexpr int kGzipOnly = 15 + 16;
      if (inflateInit2(&stream_, kGzipOnly) != Z_OK) return absl::ResourceExhaustedError("no memory to decompress");
      inflating_ = true;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    if (inflating_) return ReadGzip(buffer, size);
    if (zstd_ != nullptr) return ReadZstd(buffer, size);
    if (raw_begin_ == raw_end_) LOCI_RETURN_IF_ERROR(FillRaw());
    const size_t count = std::min(size, raw_end_ - raw_begin_);
    std::memcpy(buffer, raw_.data() + raw_begin_, count);
    raw_begin_ += count;
    return count;
  }

  int64_t position_bytes() const override { return position_bytes_.load(std::memory_order_relaxed); }
  int64_t size_bytes() const override { return size_bytes_; }

 private:
  // Reads more bytes of the file behind what is left over; sets raw_at_end_ at its end.
  absl::Status FillRaw() {
    if (raw_begin_ == raw_end_) raw_begin_ = raw_end_ = 0;
    if (raw_at_end_) return absl::OkStatus();
    ssize_t count;
    do {
      LOCI_RETURN_IF_ERROR(WaitReadable());
      count = read(descriptor_, raw_.data() + raw_end_, raw_.size() - raw_end_);
    } while (count < 0 && (errno == EINTR || errno == EAGAIN));
    if (count < 0) return absl::UnavailableError(absl::StrCat(name_, ": cannot read: ", std::strerror(errno)));
    raw_at_end_ = count == 0;
    raw_end_ += static_cast<size_t>(count);
    position_bytes_.fetch_add(count, std::memory_order_relaxed);
    return absl::OkStatus();
  }

  absl::Status WaitReadable() const {
    if (!may_wait_) return interrupt_ != nullptr ? interrupt_->Check() : absl::OkStatus();
    if (interrupt_ != nullptr) return interrupt_->WaitReadable(descriptor_);
    // A named pipe does not block, so that opening it did not.
    pollfd wait = {descriptor_, POLLIN, 0};
    (void)poll(&wait, 1, -1);
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> ReadGzip(char* buffer, size_t size) {
    stream_.next_out = reinterpret_cast<Bytef*>(buffer);
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(size, 1 << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (raw_begin_ == raw_end_) LOCI_RETURN_IF_ERROR(FillRaw());
      if (raw_begin_ == raw_end_) {
        if (member_ended_) return 0;
        return absl::DataLossError(absl::StrCat(name_, ": the gzip data is cut short after ", position_bytes(), " bytes"));
      }
      if (member_ended_) {
        if (raw_[raw_begin_] != '\x1f') {
          return absl::DataLossError(absl::StrCat(name_, ": bytes that are not gzip follow the gzip data"));
        }
        inflateReset(&stream_);
        member_ended_ = false;
      }
      stream_.next_in = reinterpret_cast<Bytef*>(raw_.data() + raw_begin_);
      stream_.avail_in = static_cast<uInt>(raw_end_ - raw_begin_);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      raw_begin_ = raw_end_ - stream_.avail_in;
      if (result == Z_STREAM_END) {
        member_ended_ = true;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return absl::DataLossError(absl::StrCat(name_, ": the gzip data is damaged near byte ", position_bytes(), ": ",
                                                stream_.msg != nullptr ? stream_.msg : "unknown error"));
      }
    }
    return wanted - stream_.avail_out;
  }

  absl::StatusOr<size_t> ReadZstd(char* buffer, size_t size) {
    ZSTD_outBuffer out = {buffer, size, 0};
    while (out.pos == 0) {
      if (raw_begin_ == raw_end_) LOCI_RETURN_IF_ERROR(FillRaw());
      // At the file's end the decoder may still hold content; where it gives none, the frame must be over.
      const bool at_end = raw_begin_ == raw_end_;
      if (at_end && frame_ended_) return 0;
      ZSTD_inBuffer in = {raw_.data() + raw_begin_, raw_end_ - raw_begin_, 0};
      const size_t result = ZSTD_decompressStream(zstd_, &out, &in);
      raw_begin_ += in.pos;
      if (ZSTD_isError(result) != 0) {
        const ZSTD_ErrorCode code = ZSTD_getErrorCode(result);
        if (code == ZSTD_error_prefix_unknown && frame_ended_) {
          return absl::DataLossError(absl::StrCat(name_, ": bytes that are not zstd follow the zstd data"));
        }
        if (code == ZSTD_error_frameParameter_windowTooLarge) {
          return absl::DataLossError(absl::StrCat(name_, ": the zstd data needs a window beyond the limit of ",
                                                  (1 << kZstdMaxWindowLog) >> 20, " MiB; compress it without --long"));
        }
        return absl::DataLossError(
            absl::StrCat(name_, ": the zstd data is damaged near byte ", position_bytes(), ": ", ZSTD_getErrorName(result)));
      }
      frame_ended_ = result == 0;
      if (at_end && out.pos == 0 && !frame_ended_) {
        return absl::DataLossError(absl::StrCat(name_, ": the zstd data is cut short after ", position_bytes(), " bytes"));
      }
    }
    return out.pos;
  }

  const int descriptor_;
  const bool owned_;
  const bool may_wait_;  // It is no regular file.
  const int64_t size_bytes_;
  const std::string name_;
  const InputInterrupt* const interrupt_;  // May be null.
  std::string raw_;  // Bytes [raw_begin_, raw_end_) were read and not used.
  size_t raw_begin_ = 0;
  size_t raw_end_ = 0;
  bool raw_at_end_ = false;
  bool inflating_ = false;
  bool member_ended_ = false;
  z_stream stream_ = {};
  ZSTD_DStream* zstd_ = nullptr;
  bool frame_ended_ = false;
  std::atomic<int64_t> position_bytes_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path, const InputInterrupt* interrupt) {
  const bool is_stdin = path == "-";
  const std::string name = is_stdin ? "standard input" : PrintablePath(path);
  const int descriptor = is_stdin ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) {
    const std::string message = absl::StrCat(name, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
  }
  struct stat info = {};
  const bool known = fstat(descriptor, &info) == 0;
  const bool regular = known && S_ISREG(info.st_mode);
  auto file = std::make_unique<DescriptorFile>(descriptor, !is_stdin, !regular, regular ? info.st_size : 0, name, interrupt);
  if (known && S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(name, " is a folder"));
  LOCI_RETURN_IF_ERROR(file->Start());
  return file;
}

LineReader::LineReader(std::unique_ptr<InputFile> file, std::string name, size_t max_line_bytes)
    : file_(std::move(file)), name_(std::move(name)), max_line_bytes_(max_line_bytes) {}

absl::StatusOr<bool> LineReader::Fill() {
  if (at_end_) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + kChunkBytes);
  absl::StatusOr<size_t> count = file_->Read(buffer_.data() + old_size, kChunkBytes);
  buffer_.resize(old_size + (count.ok() ? *count : 0));
  if (!count.ok()) return count.status();
  at_end_ = *count == 0;
  return !at_end_;
}

absl::StatusOr<LineReader::Result> LineReader::Next(std::string* line) {
  if (has_put_back_) {
    has_put_back_ = false;
    *line = std::move(put_back_);
    ++line_number_;
    return kLine;
  }
  bool too_long = false;
  int64_t passed_over = 0;
  size_t searched = 0;  // Bytes from begin_ on that hold no line end.
  while (true) {
    const size_t end = buffer_.find('\n', begin_ + searched);
    if (end == std::string::npos) {
      searched = buffer_.size() - begin_;
      if (searched > max_line_bytes_ + 1) {  // One more for a carriage return.
        if (!too_long) line->assign(buffer_, begin_, 256);
        too_long = true;
        begin_ = buffer_.size();
        passed_over += static_cast<int64_t>(searched);
        if (passed_over > kMaxPassedOverBytes) {
          return absl::InvalidArgumentError(
              absl::StrCat(name_, ":", line_number_ + 1, ": no end of the line in ", kMaxPassedOverBytes, " bytes; this is no text"));
        }
        searched = 0;
      }
      LOCI_ASSIGN_OR_RETURN(const bool more, Fill());
      if (more) continue;
      if (begin_ == buffer_.size() && !too_long) return kEnd;
    }
    ++line_number_;
    const size_t stop = end == std::string::npos ? buffer_.size() : end;
    std::string_view content(buffer_.data() + begin_, stop - begin_);
    begin_ = end == std::string::npos ? stop : end + 1;
    if (too_long) return kTooLong;
    if (end != std::string::npos && content.ends_with('\r')) content.remove_suffix(1);
    if (line_number_ == 1 && content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
    if (content.size() > max_line_bytes_) {
      line->assign(content.substr(0, 256));
      return kTooLong;
    }
    line->assign(content);
    return kLine;
  }
}

void LineReader::PutBack(std::string line) {
  put_back_ = std::move(line);
  has_put_back_ = true;
  --line_number_;
}

}  // namespace loci

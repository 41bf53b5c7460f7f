// The input of one command: read with progress, bad lines reported, the positions of the server turned into places in files.
#ifndef LOCI_CLIENTS_CLI_INPUT_SESSION_H_
#define LOCI_CLIENTS_CLI_INPUT_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/cli_context.h"
#include "clients/cli/ingest_reader.h"
#include "clients/cli/passage_batcher.h"
#include "clients/cli/progress.h"
#include "clients/cli/rpc_error.h"
#include "proto/loci/v1/admin.pb.h"

namespace loci {

// Reads the input, reports bad lines on standard error (the first 20 in full), shows progress.
// Used by one thread: the command's.
class InputSession {
 public:
  static constexpr int64_t kMaxPrintedLines = 20;
  static constexpr int kMaxErrors = 100;  // In a response, as in the server's.

  // With `fail_on_bad_line` the first bad line ends the input. `cli` must outlive the session.
  InputSession(CliContext& cli, std::unique_ptr<IngestReader> reader, bool fail_on_bad_line);

  // The next good passage; false at the end. A status that is not OK ends the session.
  absl::StatusOr<bool> Next(PassageRecord* record);

  // Counts and prints a bad line; `message` begins with its place.
  void ReportBad(const InputPlace& place, const std::string& id, const std::string& message);
  // Reports what the server did not take, and makes the response tell of the whole input: what was dropped on this side is counted as
  // refused, too, and a line is one of the file, with the file before the message.
  void Merge(v1::IngestResponse* response);
  // The server's refusal with the place in the input before its message, where it tells the position in the stream.
  RpcError Locate(const grpc::Status& status) const;

  // Ends the progress line and sums up what was not taken. Returns the exit code.
  int Finish(bool skip_errors);

  // How many of the passages the server has encoded and written. From then on, that is what progress tells of; the remaining time, too.
  void SetWritten(int64_t count) { written_.store(count); }

  bool reads_documents() const { return reader_->reads_documents(); }
  int64_t count() const { return count_.load(); }  // Of good passages, or sections of documents.
  int64_t document_count() const { return document_count_; }
  Progress& progress() { return progress_; }

 private:
  void PrintNote(const std::string& text);  // The first ones.

  CliContext& cli_;
  const std::unique_ptr<IngestReader> reader_;
  const bool fail_on_bad_line_;
  Progress::Numbers Numbers() const;

  std::atomic<int64_t> count_{0};
  std::atomic<int64_t> written_{-1};  // -1: not known.
  int64_t document_count_ = 0;
  std::string last_document_;
  int64_t bad_count_ = 0;
  int64_t note_count_ = 0;
  std::vector<v1::LineError> errors_;  // The first ones.
  StreamPlaces places_;
  Progress progress_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INPUT_SESSION_H_

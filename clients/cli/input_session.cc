#include "clients/cli/input_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/display.h"

namespace loci {

InputSession::InputSession(CliContext& cli, std::unique_ptr<IngestReader> reader, bool fail_on_bad_line)
    : cli_(cli),
      reader_(std::move(reader)),
      fail_on_bad_line_(fail_on_bad_line),
      progress_(cli.err(), cli.environment().err_width, reader_->reads_documents() ? "section" : "passage", [this] { return Numbers(); }) {
  for (const std::string& file : reader_->passed_over_files()) PrintNote(absl::StrCat(file, " is passed over"));
}

Progress::Numbers InputSession::Numbers() const {
  const int64_t count = count_.load(), written = written_.load();
  // Sections become any number of passages.
  if (written < 0 || count == 0 || reader_->reads_documents()) return {count, reader_->position_bytes(), reader_->size_bytes()};
  const double share = std::min(1.0, static_cast<double>(written) / static_cast<double>(count));
  return {written, static_cast<int64_t>(share * static_cast<double>(reader_->position_bytes())), reader_->size_bytes()};
}

void InputSession::PrintNote(const std::string& text) {
  if (++note_count_ <= kMaxPrintedLines) progress_.Print(SanitizeLine(absl::StrCat("note: ", text)));
}

absl::StatusOr<bool> InputSession::Next(PassageRecord* record) {
  while (true) {
    const absl::StatusOr<IngestReader::Result> result = reader_->Next(record);
    if (!result.ok()) return result.status();
    switch (*result) {
      case IngestReader::kEnd:
        return false;
      case IngestReader::kPassage:
        places_.Add(reader_->place());
        count_.fetch_add(1);
        if (reader_->reads_documents() && std::exchange(last_document_, record->passage.document_id()) != last_document_) ++document_count_;
        return true;
      case IngestReader::kPassedOver:
        PrintNote(absl::StrCat(reader_->place().file, " is passed over: ", reader_->error()));
        break;
      case IngestReader::kBadLine: {
        const std::string message = absl::StrCat(reader_->place().file, ":", reader_->place().line, ": ", reader_->error());
        if (fail_on_bad_line_) return absl::InvalidArgumentError(absl::StrCat(message, " (--bad-lines fail)"));
        ReportBad(reader_->place(), "", message);
      }
    }
  }
}

void InputSession::ReportBad(const InputPlace& place, const std::string& id, const std::string& message) {
  if (++bad_count_ <= kMaxPrintedLines) progress_.Print(SanitizeLine(message));
  if (errors_.size() >= kMaxErrors) return;
  v1::LineError& error = errors_.emplace_back();
  error.set_line(place.line);
  error.set_id(id);
  error.set_message(message);
}

void InputSession::Merge(v1::IngestResponse* response) {
  for (const v1::LineError& error : response->errors()) {
    ReportBad(places_.Find(error.line()).value_or(InputPlace()), error.id(),
              absl::StrCat(places_.Describe(error.line()), error.id().empty() ? "" : absl::StrCat(": id ", error.id()), ": ",
                           error.message()));
  }
  if (const int64_t untold = response->rejected_count() - response->errors_size(); untold > 0) bad_count_ += untold;
  response->set_rejected_count(bad_count_);
  response->mutable_errors()->Assign(errors_.begin(), errors_.end());
}

RpcError InputSession::Locate(const grpc::Status& status) const {
  RpcError error = DecodeRpcError(status);
  const auto line = error.metadata.find("line");
  int64_t position = 0;
  if (line != error.metadata.end() && absl::SimpleAtoi(line->second, &position) && position > 0) {
    error.message = absl::StrCat(places_.Describe(position), ": ", error.message);
  }
  return error;
}

int InputSession::Finish(bool skip_errors) {
  progress_.Stop();
  if (note_count_ > kMaxPrintedLines) {
    cli_.err() << "note: " << FormatCountOf(note_count_ - kMaxPrintedLines, "more file")
               << (note_count_ == kMaxPrintedLines + 1 ? " is" : " are") << " passed over\n";
  }
  if (!reader_->unused_fields().empty()) {
    cli_.err() << "note: fields that are not used: " << SanitizeLine(absl::StrJoin(reader_->unused_fields(), ", "))
               << " (put them into \"metadata\")\n";
  }
  if (bad_count_ == 0) return kExitOk;
  if (bad_count_ > kMaxPrintedLines) cli_.err() << "... and " << FormatCount(bad_count_ - kMaxPrintedLines) << " more\n";
  const bool one = bad_count_ == 1;
  cli_.err() << FormatCount(bad_count_) << (one ? " line" : " lines")
             << (!reader_->reads_documents() ? "" : one ? " or document" : " or documents") << (one ? " was" : " were") << " not taken\n";
  return skip_errors ? kExitOk : kExitFailed;
}

}  // namespace loci

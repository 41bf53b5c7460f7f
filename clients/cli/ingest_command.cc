// loci ingest, loci upsert.
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/strings.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/ingest_reader.h"
#include "clients/cli/passage_batcher.h"
#include "clients/cli/progress.h"

namespace loci {
namespace {

constexpr int64_t kMaxPrintedLines = 20;
constexpr int32_t kDefaultOverlapTokens = 32;
constexpr int kMaxErrors = 100;  // In a printed response, as in the server's.

constexpr char kInputDetails[] =
    "FILE is a file, a folder, or - for standard input; each may be compressed by gzip or zstd.\n"
    "  jsonl  one object a line: {\"id\" or \"_id\", \"title\", \"text\", \"metadata\": {...}, \"document_id\", \"chunk_index\", "
    "\"vector\"}\n"
    "  tsv    id<TAB>text<TAB>title (DPR's), with or without a header, quoted as Python's csv.QUOTE_MINIMAL\n"
    "  beir   a BEIR corpus.jsonl, or the folder that holds it\n"
    "  auto   by the file's name, else by its first line\n"
    "Lines that cannot be read are reported with file and line number (the first 20 in full), the others are taken, and\n"
    "the exit code is 1 unless --skip-errors is given. Where the input itself fails (a damaged compressed file), nothing is taken.\n";

// Reads the input, reports bad lines, shows progress. Used by one thread: the command's.
class InputSession {
 public:
  InputSession(CliContext& cli, std::unique_ptr<IngestReader> reader)
      : cli_(cli), reader_(std::move(reader)), progress_(cli.err(), cli.environment().err_width, "passages", [this] {
          return Progress::Numbers{count_.load(), reader_->position_bytes(), reader_->size_bytes()};
        }) {
    for (const std::string& file : reader_->passed_over_files()) {
      progress_.Print(absl::StrCat("note: ", SanitizeLine(file), " is passed over"));
    }
  }

  // The next good passage; false at the end. A status that is not OK ends the session.
  absl::StatusOr<bool> Next(PassageRecord* record) {
    while (true) {
      const absl::StatusOr<IngestReader::Result> result = reader_->Next(record);
      if (!result.ok()) return result.status();
      if (*result == IngestReader::kEnd) return false;
      if (*result == IngestReader::kPassedOver) {
        progress_.Print(absl::StrCat("note: ", SanitizeLine(reader_->place().file), " is passed over: ", reader_->error()));
        continue;
      }
      if (*result == IngestReader::kPassage) {
        places_.Add(reader_->place());
        count_.fetch_add(1);
        return true;
      }
      ReportBad(reader_->place(), "", absl::StrCat(reader_->place().file, ":", reader_->place().line, ": ", reader_->error()));
    }
  }

  // `message` begins with the place.
  void ReportBad(const InputPlace& place, const std::string& id, const std::string& message) {
    if (++bad_count_ <= kMaxPrintedLines) progress_.Print(SanitizeLine(message));
    if (errors_.size() >= kMaxErrors) return;
    v1::LineError& error = errors_.emplace_back();
    error.set_line(place.line);
    error.set_id(id);
    error.set_message(message);
  }

  // Makes the response tell of the whole input: what was dropped on this side is counted as refused, too, and a line is one of the
  // file, with the file before the message.
  void AddDropped(v1::IngestResponse* response) const {
    response->set_rejected_count(bad_count_);
    response->mutable_errors()->Assign(errors_.begin(), errors_.end());
  }

  // Ends the progress line and sums up what was not taken; `refused` more were refused by the server. Returns the exit code.
  int Finish(bool skip_errors) {
    progress_.Stop();
    if (!reader_->unused_fields().empty()) {
      cli_.err() << "note: fields that are not used: " << SanitizeLine(absl::StrJoin(reader_->unused_fields(), ", "))
                 << " (put them into \"metadata\")\n";
    }
    if (bad_count_ == 0) return kExitOk;
    if (bad_count_ > kMaxPrintedLines) cli_.err() << "... and " << FormatCount(bad_count_ - kMaxPrintedLines) << " more\n";
    cli_.err() << FormatCount(bad_count_) << (bad_count_ == 1 ? " line was" : " lines were") << " not taken\n";
    return skip_errors ? kExitOk : kExitFailed;
  }

  bool reads_documents() const { return reader_->reads_documents(); }
  int64_t count() const { return count_.load(); }
  int64_t bad_count() const { return bad_count_; }
  void set_bad_count(int64_t count) { bad_count_ = count; }
  Progress& progress() { return progress_; }
  const StreamPlaces& places() const { return places_; }

 private:
  CliContext& cli_;
  const std::unique_ptr<IngestReader> reader_;
  std::atomic<int64_t> count_{0};
  int64_t bad_count_ = 0;
  std::vector<v1::LineError> errors_;  // The first ones.
  StreamPlaces places_;
  Progress progress_;
};

class IngestCommand final : public Command {
 public:
  std::string name() const override { return "ingest"; }
  std::string summary() const override { return "Build a new generation of a store from files, or add to it"; }
  std::string details() const override {
    return absl::StrCat(
        "The store is created if it is not there. With --mode new-generation the passages sent become the whole content of the\n"
        "store; the reply comes when all is durable and, without --no-activate, answers queries.\n\n",
        kInputDetails);
  }
  std::string examples() const override {
    return "  loci ingest movies corpus.jsonl.gz\n"
           "  loci ingest movies psgs_w100.tsv.gz --index IVF1024,Flat\n"
           "  zcat more.jsonl.gz | loci ingest movies - --mode upsert\n"
           "  loci ingest movies corpus.jsonl.zst --no-activate\n"
           "  loci ingest scifact scifact/ --format beir\n"
           "  loci ingest movies corpus.jsonl --dry-run\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("FILE", &path_, "File, folder or - (standard input).");
    flags->Choice("format", &format_, {"auto", "jsonl", "tsv", "beir", "text", "markdown", "html", "pdf", "documents"},
                  "Of the input.");
    flags->Choice("mode", &mode_, {"new-generation", "upsert"}, "Replace the store's content, or add to it.");
    flags->String("index", &index_, "SPEC", "exact, or a FAISS factory string: IVF1024,Flat, HNSW32, ...");
    flags->Choice("vector-type", &vector_type_, {"float32", "float16", "bfloat16"}, "How vectors are stored.");
    flags->Bool("no-activate", &no_activate_, "Build the generation, do not let it answer.");
    flags->Choice("writes-since", &writes_since_, {"replay", "discard"}, "What becomes of writes made meanwhile.");
    flags->Bool("no-wait", &no_wait_, "Return the job at once (not available yet).");
    flags->String("encoder-fingerprint", &encoder_fingerprint_, "HEX", "Of the encoder that made the input's vectors.");
    flags->Bool("skip-errors", &skip_errors_, "Exit with 0 although lines were not taken.");
    flags->Bool("dry-run", &dry_run_, "Read and check all of the input, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (mode_ == "upsert" && (!index_.empty() || no_activate_ || !vector_type_.empty())) {
      return cli.UsageError("--index, --vector-type and --no-activate are for --mode new-generation");
    }
    absl::StatusOr<std::unique_ptr<IngestReader>> reader = IngestReader::Open(path_, *IngestFormatOfName(format_));
    if (!reader.ok()) return cli.Fail(reader.status());
    reads_documents_ = (*reader)->reads_documents();
    InputSession input(cli, *std::move(reader));
    return dry_run_ ? DryRun(cli, input) : Send(cli, input);
  }

 private:
  v1::IngestHeader Header() const {
    v1::IngestHeader header;
    header.set_store(store_);
    header.set_mode(mode_ == "upsert" ? v1::INGEST_MODE_UPSERT : v1::INGEST_MODE_NEW_GENERATION);
    if (!index_.empty()) header.mutable_index()->set_factory(index_);
    if (vector_type_ == "float32") header.mutable_index()->set_vector_type(v1::VECTOR_TYPE_FLOAT32);
    if (vector_type_ == "float16") header.mutable_index()->set_vector_type(v1::VECTOR_TYPE_FLOAT16);
    if (vector_type_ == "bfloat16") header.mutable_index()->set_vector_type(v1::VECTOR_TYPE_BFLOAT16);
    header.set_no_activate(no_activate_);
    if (writes_since_ == "replay") header.set_writes_since(v1::WRITES_SINCE_REPLAY);
    if (writes_since_ == "discard") header.set_writes_since(v1::WRITES_SINCE_DISCARD);
    header.set_no_wait(no_wait_);
    header.set_encoder_fingerprint(encoder_fingerprint_);
    if (reads_documents_) header.mutable_chunking()->set_overlap_tokens(kDefaultOverlapTokens);
    return header;
  }

  int DryRun(CliContext& cli, InputSession& input) const {
    PassageRecord record;
    while (true) {
      const absl::StatusOr<bool> more = input.Next(&record);
      if (!more.ok()) {
        input.progress().Stop();
        return cli.Fail(more.status());
      }
      if (!*more) break;
    }
    const int exit_code = input.Finish(skip_errors_);
    const int print_code = cli.PrintDryRun(
        absl::StrCat("ingest ", FormatCount(input.count()), " passages into store ", StoreName(store_), " (", mode_, ")"),
        Header());
    return exit_code != kExitOk ? exit_code : print_code;
  }

  int Send(CliContext& cli, InputSession& input) const {
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    v1::IngestResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::IngestRequest>> writer;
    PassageBatcher batcher;
    bool open = true;  // The server still reads.
    const auto send_batch = [&] {
      if (writer == nullptr) {
        writer = cli.admin().Ingest(&context, &response);
        v1::IngestRequest request;
        *request.mutable_header() = Header();
        open = writer->Write(request);
      }
      v1::IngestRequest request;
      *request.mutable_batch() = batcher.Take();
      open = open && writer->Write(request);  // Blocks until the server has room.
    };
    while (open) {
      PassageRecord record;
      const absl::StatusOr<bool> more = input.Next(&record);
      if (!more.ok()) {
        // Half of a corpus must not become a store's content.
        input.progress().Stop();
        if (writer != nullptr) {
          context.TryCancel();
          writer->Finish();
        }
        cli.Fail(more.status());
        cli.err() << "nothing was ingested\n";
        return kExitFailed;
      }
      if (!*more) break;
      if (batcher.Add(std::move(record))) send_batch();
    }
    if (input.count() == 0) {
      input.Finish(/*skip_errors=*/false);
      return cli.Fail(absl::InvalidArgumentError(
          absl::StrCat(path_ == "-" ? "standard input" : path_, ": no passage is in it; nothing was sent")));
    }
    if (open && !batcher.empty()) send_batch();
    input.progress().SetPhase(absl::StrCat(FormatCount(input.count()), " passages sent, the server encodes and indexes"));
    if (open) writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (!status.ok()) {
      input.progress().Stop();
      input.Finish(skip_errors_);
      return cli.Fail(status);
    }
    for (const v1::LineError& error : response.errors()) {
      input.ReportBad(input.places().Find(error.line()).value_or(InputPlace()), error.id(),
                      absl::StrCat(input.places().Describe(error.line()), error.id().empty() ? "" : absl::StrCat(": id ", error.id()),
                                   ": ", error.message()));
    }
    if (const int64_t untold = response.rejected_count() - response.errors_size(); untold > 0) {
      input.set_bad_count(input.bad_count() + untold);
    }
    input.AddDropped(&response);
    const int exit_code = input.Finish(skip_errors_);
    const int print_code = cli.json() ? cli.PrintJson(response) : PrintResponse(cli, response);
    return exit_code != kExitOk ? exit_code : print_code;
  }

  int PrintResponse(CliContext& cli, const v1::IngestResponse& response) const {
    TextTable table({{"STORE"},
                     {"GENERATION"},
                     {"REVISION", TextTable::kRight},
                     {"ACCEPTED", TextTable::kRight},
                     {"REJECTED", TextTable::kRight},
                     {"DUPLICATES", TextTable::kRight},
                     {"DONE"},
                     {"JOB"}});
    table.AddRow({StoreName(store_), response.generation(), absl::StrCat(response.revision()),
                  FormatCount(response.accepted_count()), FormatCount(response.rejected_count()),
                  FormatCount(response.duplicate_count()), response.done() ? "yes" : "no", response.job()});
    cli.PrintTable(table);
    return kExitOk;
  }

  std::string store_, path_, format_ = "auto", mode_ = "new-generation", index_, vector_type_, writes_since_,
                             encoder_fingerprint_;
  bool no_activate_ = false, no_wait_ = false, skip_errors_ = false, dry_run_ = false;
  bool reads_documents_ = false;
};

class UpsertCommand final : public Command {
 public:
  std::string name() const override { return "upsert"; }
  std::string summary() const override { return "Add or replace passages, visible to the next query"; }
  std::string details() const override {
    return absl::StrCat(
        "Passages are sent in batches of 256, each of which is taken whole or not at all; the store must be there.\n\n",
        kInputDetails);
  }
  std::string examples() const override {
    return "  loci upsert movies fixes.jsonl\n"
           "  echo '{\"id\": \"m1\", \"title\": \"Alien\", \"text\": \"A film of 1979.\"}' | loci upsert movies -\n"
           "  loci upsert movies fixes.tsv.gz --dry-run\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("FILE", &path_, "File, folder or - (standard input).");
    flags->Choice("format", &format_, {"auto", "jsonl", "tsv", "beir"}, "Of the input.");
    flags->Bool("skip-errors", &skip_errors_, "Exit with 0 although lines were not taken.");
    flags->Bool("dry-run", &dry_run_, "Read and check all of the input, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    absl::StatusOr<std::unique_ptr<IngestReader>> reader = IngestReader::Open(path_, *IngestFormatOfName(format_));
    if (!reader.ok()) return cli.Fail(reader.status());
    if ((*reader)->reads_documents()) {
      return cli.Fail(absl::InvalidArgumentError(
          absl::StrCat(path_, " is read as documents, which are cut into passages by loci ingest ", StoreName(store_), " ",
                       path_, " --mode upsert")));
    }
    InputSession input(cli, *std::move(reader));
    PassageBatcher batcher;
    v1::UpsertPassagesResponse total;
    int exit_code = kExitOk;
    while (true) {
      PassageRecord record;
      const absl::StatusOr<bool> more = input.Next(&record);
      if (!more.ok()) {
        input.progress().Stop();
        ReportTaken(cli, total);
        return cli.Fail(more.status());
      }
      if (*more && !record.vector.empty()) {
        input.progress().Stop();
        return cli.Fail(absl::InvalidArgumentError("passages with vectors cannot be upserted; use loci ingest --mode upsert"));
      }
      const bool full = *more && batcher.Add(std::move(record));
      if (full || (!*more && !batcher.empty())) {
        v1::PassageBatch batch = batcher.Take();
        if (!dry_run_ && !SendBatch(cli, std::move(batch), input, &total, &exit_code)) return exit_code;
      }
      if (!*more) break;
    }
    exit_code = input.Finish(skip_errors_);
    if (input.count() == 0) {
      return cli.Fail(absl::InvalidArgumentError(
          absl::StrCat(path_ == "-" ? "standard input" : path_, ": no passage is in it; nothing was sent")));
    }
    int print_code = kExitOk;
    if (dry_run_) {
      v1::UpsertPassagesRequest request;
      request.set_store(store_);
      print_code = cli.PrintDryRun(
          absl::StrCat("upsert ", FormatCount(input.count()), " passages into store ", StoreName(store_)), request);
    } else if (cli.json()) {
      print_code = cli.PrintJson(total);
    } else {
      TextTable table({{"STORE"}, {"GENERATION"}, {"REVISION", TextTable::kRight}, {"UPSERTED", TextTable::kRight}});
      table.AddRow({StoreName(store_), total.generation(), absl::StrCat(total.revision()), FormatCount(total.upserted_count())});
      cli.PrintTable(table);
    }
    return exit_code != kExitOk ? exit_code : print_code;
  }

 private:
  // Adds the response to `total`.
  bool SendBatch(CliContext& cli, v1::PassageBatch batch, InputSession& input, v1::UpsertPassagesResponse* total,
                 int* exit_code) const {
    v1::UpsertPassagesRequest request;
    request.set_store(store_);
    request.mutable_passages()->Swap(batch.mutable_passages());
    v1::UpsertPassagesResponse response;
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    const grpc::Status status = cli.admin().UpsertPassages(&context, request, &response);
    if (!status.ok()) {
      input.progress().Stop();
      ReportTaken(cli, *total);
      *exit_code = cli.Fail(status);
      return false;
    }
    const int64_t upserted_count = total->upserted_count() + response.upserted_count();
    v1::Timings sum = total->timings();
    const v1::Timings& timings = response.timings();
    sum.set_queue_us(sum.queue_us() + timings.queue_us());
    sum.set_tokenize_us(sum.tokenize_us() + timings.tokenize_us());
    sum.set_encode_us(sum.encode_us() + timings.encode_us());
    sum.set_total_us(sum.total_us() + timings.total_us());
    total->mutable_usage()->MergeFrom(response.usage());
    total->set_generation(response.generation());
    total->set_revision(response.revision());
    total->set_upserted_count(upserted_count);
    *total->mutable_timings() = sum;
    return true;
  }

  static void ReportTaken(CliContext& cli, const v1::UpsertPassagesResponse& total) {
    cli.err() << FormatCount(total.upserted_count()) << " passages were upserted before the error\n";
  }

  std::string store_, path_, format_ = "auto";
  bool skip_errors_ = false, dry_run_ = false;
};

}  // namespace

void AddIngestCommands(Commands* commands) {
  commands->push_back(std::make_unique<IngestCommand>());
  commands->push_back(std::make_unique<UpsertCommand>());
}

}  // namespace loci

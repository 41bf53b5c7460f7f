// loci ingest.
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/build_flags.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/ingest_reader.h"
#include "clients/cli/input_details.h"
#include "clients/cli/input_session.h"
#include "clients/cli/job_progress.h"
#include "clients/cli/passage_batcher.h"

namespace loci {
namespace {

constexpr int64_t kDefaultOverlapTokens = 32;
constexpr size_t kChunkedBatchBytes = 128 << 10;  // About 1,000 passages: the server tells of progress between batches.

constexpr char kIngestDetails[] =
    "The store is created if it is not there. With --mode new-generation the passages sent become the whole content of the\n"
    "store; the reply comes when all is durable and, without --no-activate, answers queries. With --no-wait it comes once all was\n"
    "received; loci watch JOB tells the rest.\n\n";

constexpr char kDocumentDetails[] =
    "\nDocuments are files, or folders of them and of folders. Of links in a folder only those to files under it are followed;\n"
    "what is passed over is told. Formats:\n"
    "  text       *.txt, *.text: UTF-8, or UTF-16 with a byte order mark\n"
    "  markdown   *.md, *.markdown: headings become titles, front matter is left out\n"
    "  html       *.html, *.htm, *.xhtml\n"
    "  pdf        *.pdf, read by pdftotext of the package poppler-utils\n"
    "  documents  all of these, each by its name\n"
    "The server cuts them into passages at sentence ends. A passage's id is the file's path within the folder with \"#\" and a number (bytes\n"
    "of a name that are not UTF-8 stand there as %XX);\n"
    "its metadata are source, start_byte, end_byte and page. A document that can't be read is a bad line; its limits are\n"
    "64 MiB of text and, for PDF, --pdf-timeout.\n";

class IngestCommand final : public Command {
 public:
  std::string name() const override { return "ingest"; }
  std::string summary() const override { return "Build a new generation of a store from files, or add to it"; }
  std::string details() const override {
    return absl::StrCat(kIngestDetails, kInputDetails, kDocumentDetails);
  }
  std::string examples() const override {
    return "  loci ingest movies corpus.jsonl.gz\n"
           "  loci ingest movies psgs_w100.tsv.gz --index IVF1024,Flat\n"
           "  zcat more.jsonl.gz | loci ingest movies - --mode upsert\n"
           "  loci ingest movies corpus.jsonl.zst --no-activate\n"
           "  loci ingest scifact scifact/ --format beir\n"
           "  loci ingest handbook docs/ --chunk-tokens 128 --overlap-tokens 24\n"
           "  loci ingest handbook docs/ --format markdown --bad-lines fail --no-wait\n"
           "  loci ingest movies corpus.jsonl --dry-run\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("FILE", &path_, "File, folder or - (standard input).");
    flags->Choice("format", &format_, {"auto", "jsonl", "tsv", "beir", "text", "markdown", "html", "pdf", "documents"},
                  "Of the input.");
    flags->Choice("mode", &mode_, {"new-generation", "upsert"}, "Replace the store's content, or add to it.");
    build_.Declare(flags, "exact or exact:int8; a FAISS factory string: IVF1024,Flat, HNSW32, ...; or auto[:recall=X,memory=SIZE], chosen by measuring.", "How vectors are stored.",
                   "Return once all was received, with the job that builds and activates.");
    flags->String("encoder-fingerprint", &encoder_fingerprint_, "HEX", "Of the encoder that made the input's vectors.");
    flags->Int("chunk-tokens", &chunk_tokens_, 16, 1 << 20,
               "Cut into passages of so many tokens, title included; documents always are, by default of the encoder's length.");
    flags->Int("overlap-tokens", &overlap_tokens_, 0, 1 << 19,
               "Tokens of whole sentences that a passage repeats of the one before; documents: 32.");
    flags->Choice("bad-lines", &bad_lines_, {"skip", "fail"}, "Leave out lines and documents that can't be taken, or end.");
    flags->Choice("duplicates", &duplicates_, {"keep-last", "skip", "fail"}, "Which of several passages with one id stays.");
    flags->Duration("pdf-timeout", &pdf_timeout_ms_, "A PDF that takes longer to read is left out.");
    flags->Bool("reencode", &reencode_, "Encode also texts that the store has a vector of.");
    flags->Bool("skip-errors", &skip_errors_, "Exit with 0 although lines were not taken.");
    flags->Bool("dry-run", &dry_run_, "Read and check all of the input, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet& flags) override {
    if (chunk_tokens_ > 0 && overlap_tokens_ > chunk_tokens_ / 2) {
      return cli.UsageError(
          absl::StrCat("flag --overlap-tokens: ", overlap_tokens_, " is more than half of --chunk-tokens ", chunk_tokens_));
    }
    if (pdf_timeout_ms_ < 1) return cli.UsageError("flag --pdf-timeout: it must be more than 0");
    if (mode_ == "upsert" && build_.shapes_generation()) {
      return cli.UsageError("--index, --vector-type and --no-activate are for --mode new-generation");
    }
    absl::StatusOr<std::unique_ptr<IngestReader>> reader = IngestReader::Open(
        path_, *IngestFormatOfName(format_),
        {.documents = {.max_pdf_time = std::chrono::milliseconds(pdf_timeout_ms_)}, .interrupt = &cli.interrupt()});
    if (!reader.ok()) return cli.Fail(reader.status());
    if (flags.WasGiven("chunk-tokens") || flags.WasGiven("overlap-tokens") || (*reader)->reads_documents()) {
      chunks_ = true;
      const int64_t default_overlap = chunk_tokens_ > 0 ? std::min(kDefaultOverlapTokens, chunk_tokens_ / 4) : kDefaultOverlapTokens;
      if (!flags.WasGiven("overlap-tokens")) overlap_tokens_ = default_overlap;
    }
    InputSession input(cli, *std::move(reader), bad_lines_ == "fail");
    return dry_run_ ? DryRun(cli, input) : Send(cli, input);
  }

 private:
  v1::IngestHeader Header() const {
    v1::IngestHeader header;
    header.set_store(store_);
    header.set_mode(mode_ == "upsert" ? v1::INGEST_MODE_UPSERT : v1::INGEST_MODE_NEW_GENERATION);
    build_.Fill(&header);
    header.set_encoder_fingerprint(encoder_fingerprint_);
    if (chunks_) {
      header.mutable_chunking()->set_max_tokens(static_cast<int32_t>(chunk_tokens_));
      header.mutable_chunking()->set_overlap_tokens(static_cast<int32_t>(overlap_tokens_));
    }
    if (bad_lines_ == "fail") header.set_bad_lines(v1::LINE_POLICY_FAIL);
    if (duplicates_ == "fail") header.set_duplicates(v1::LINE_POLICY_FAIL);
    if (duplicates_ == "skip") header.set_duplicates(v1::LINE_POLICY_SKIP);
    header.set_reencode(reencode_);
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
        absl::StrCat("ingest ",
                     input.reads_documents() ? absl::StrCat(FormatCountOf(input.count(), "section"), " of ",
                                                            FormatCountOf(input.document_count(), "document"))
                                             : FormatCountOf(input.count(), "passage"),
                     " into store ", StoreName(store_), " (", mode_, ")"),
        Header());
    return exit_code != kExitOk ? exit_code : print_code;
  }

  int Send(CliContext& cli, InputSession& input) const {
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    v1::IngestResponse response;
    std::unique_ptr<grpc::ClientWriter<v1::IngestRequest>> writer;
    PassageBatcher batcher(chunks_ ? kChunkedBatchBytes : PassageBatcher::kMaxBytes);
    bool open = true;  // The server still reads.
    std::optional<IngestPhases> phases;
    const auto send_batch = [&] {
      if (writer == nullptr) {
        writer = cli.admin().Ingest(&context, &response);
        v1::IngestRequest request;
        *request.mutable_header() = Header();
        open = writer->Write(request);
        if (open) phases.emplace(cli, store_, input.progress(), [&input](int64_t count) { input.SetWritten(count); },
                                [&cli] { cli.interrupt().Trigger(); });
      }
      v1::IngestRequest request;
      *request.mutable_batch() = batcher.Take();
      open = open && writer->Write(request);  // Blocks until the server has room.
    };
    while (open) {
      PassageRecord record;
      const absl::StatusOr<bool> more = input.Next(&record);
      if (absl::IsCancelled(more.status())) {
        open = false;  // The server has ended it, and says why.
        break;
      }
      if (!more.ok()) {
        // Half of a corpus must not become a store's content.
        phases.reset();
        input.progress().Stop();
        if (writer != nullptr) {
          context.TryCancel();
          writer->Finish();
        }
        const int exit_code = cli.Fail(more.status());
        cli.err() << (mode_ == "upsert" && writer != nullptr ? "what was sent before it may stay\n" : "nothing was ingested\n");
        return exit_code;
      }
      if (!*more) break;
      if (batcher.Add(std::move(record))) send_batch();
    }
    if (input.count() == 0 && open) {
      input.Finish(/*skip_errors=*/false);
      return cli.Fail(absl::InvalidArgumentError(
          absl::StrCat(path_ == "-" ? "standard input" : path_, ": no passage is in it; nothing was sent")));
    }
    if (open && !batcher.empty()) send_batch();
    input.progress().SetPhase(absl::StrCat(FormatCountOf(input.count(), input.reads_documents() ? "section" : "passage"),
                                           " sent, the server encodes and indexes"));
    if (open) writer->WritesDone();
    if (phases.has_value()) phases->AllSent(chunks_ ? 0 : input.count());
    const grpc::Status status = writer->Finish();
    phases.reset();
    if (!status.ok()) {
      input.Finish(skip_errors_);
      cli.err() << FormatRpcError(input.Locate(status));
      return cli.ExitCodeAfterHint(status);
    }
    input.Merge(&response);
    const int exit_code = input.Finish(skip_errors_);
    const int print_code = cli.json() ? cli.PrintJson(response) : PrintIngestSummary(cli, store_, response);
    if (!response.done() && !cli.json()) {
      cli.out() << (build_.no_wait() ? "it goes on as a job; follow it with loci watch " : "see loci get jobs for ")
                << SanitizeLine(response.job()) << '\n';
    }
    return exit_code != kExitOk ? exit_code : print_code;
  }

  std::string store_, path_, format_ = "auto", mode_ = "new-generation", encoder_fingerprint_, bad_lines_ = "skip",
                             duplicates_ = "keep-last";
  BuildFlags build_;
  int64_t chunk_tokens_ = 0, overlap_tokens_ = 0, pdf_timeout_ms_ = DocumentLimits::kMaxPdfTime.count();
  bool reencode_ = false, skip_errors_ = false, dry_run_ = false;
  bool chunks_ = false;  // What is sent is to be cut into passages.
};

}  // namespace

void AddIngestCommand(Commands* commands) { commands->push_back(std::make_unique<IngestCommand>()); }

}  // namespace loci

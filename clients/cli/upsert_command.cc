// loci upsert.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/ingest_reader.h"
#include "clients/cli/input_details.h"
#include "clients/cli/input_session.h"
#include "clients/cli/passage_batcher.h"

namespace loci {
namespace {

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
    absl::StatusOr<std::unique_ptr<IngestReader>> reader = IngestReader::Open(path_, *IngestFormatOfName(format_), {.interrupt = &cli.interrupt()});
    if (!reader.ok()) return cli.Fail(reader.status());
    if ((*reader)->reads_documents()) {
      return cli.Fail(absl::InvalidArgumentError(
          absl::StrCat(path_, " is read as documents, which are cut into passages by loci ingest ", StoreName(store_), " ",
                       path_, " --mode upsert")));
    }
    InputSession input(cli, *std::move(reader), /*fail_on_bad_line=*/false);
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
          absl::StrCat("upsert ", FormatCountOf(input.count(), "passage"), " into store ", StoreName(store_)), request);
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
    cli.err() << FormatCountOf(total.upserted_count(), "passage") << (total.upserted_count() == 1 ? " was" : " were")
              << " upserted before the error\n";
  }

  std::string store_, path_, format_ = "auto";
  bool skip_errors_ = false, dry_run_ = false;
};

}  // namespace

void AddUpsertCommand(Commands* commands) { commands->push_back(std::make_unique<UpsertCommand>()); }

}  // namespace loci

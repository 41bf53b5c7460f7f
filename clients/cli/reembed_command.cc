// loci reembed.
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/checkpoint_files.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/input_file.h"
#include "clients/cli/job_progress.h"
#include "clients/cli/progress.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = 1 << 20;
constexpr char kRequiredFile[] = "config.json";

class ReembedCommand final : public Command {
 public:
  std::string name() const override { return "reembed"; }
  std::string summary() const override { return "Encode a store anew with another encoder, and switch to both"; }
  std::string details() const override {
    return "The encoder is one that the server has (--encoder), or is sent from a folder of this machine (--model). All passages are encoded by it\n"
           "into a new generation, which then takes the place of the active one, with what was written meanwhile. Searches and writes go on, and\n"
           "texts that wait for other encoders go first. loci rollback gives the old generation and its encoder back.\n"
           "What is encoded is kept: one that was cancelled, or ended with its server, is taken up by giving the command again.\n"
           "With the store's own encoder (loci get stores) it makes all vectors int8, or none, after loci set store --encoder-precision.\n"
           "With --dry-run nothing is encoded but a sample, to measure; an encoder that is sent stays with the server.\n";
  }
  std::string examples() const override {
    return "  loci reembed movies --model models/e5-small-v2 --dry-run\n  loci reembed movies --model models/e5-small-v2\n"
           "  loci reembed movies --encoder 0123456789abcdef --max-encoder-share 0.5 --no-wait\n"
           "  loci reembed movies --model models/e5-small-v2 --no-activate && loci get generations movies\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->String("model", &model_, "DIR", "Folder of the encoder's checkpoint, on this machine.");
    flags->String("encoder", &encoder_, "FINGERPRINT", "An encoder that the server has: fingerprint, one half of it, or name.");
    flags->String("index", &index_, "SPEC",
                  "exact or exact:int8; a FAISS factory string; or auto[:recall=X,memory=SIZE], chosen by measuring; as the active generation has it without it.");
    flags->Double("max-encoder-share", &max_encoder_share_, 0.01, 1, "Of the time, how much the encoder may be busy with this.");
    flags->Bool("no-activate", &no_activate_, "Build the generation, do not let it answer.");
    flags->Bool("no-wait", &no_wait_, "Return at once, with the job that does it.");
    flags->Bool("dry-run", &dry_run_, "Say what it would take: time, disk, memory.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (model_.empty() == encoder_.empty()) return cli.UsageError("give either --model DIR or --encoder FINGERPRINT (the store's own is in loci get stores)");
    v1::ReembedStoreRequest request;
    request.set_store(store_);
    request.set_encoder(encoder_);
    request.set_index(index_);
    request.set_no_activate(no_activate_);
    request.set_no_wait(!dry_run_);  // The job is watched; what becomes of this client is nothing to it.
    request.set_dry_run(dry_run_);
    request.set_max_encoder_share(max_encoder_share_);
    int exit_code = kExitOk;
    if (!model_.empty() && !SendEncoder(cli, &request, &exit_code)) return exit_code;
    v1::ReembedStoreResponse response;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::ReembedStore, request, &response, &exit_code, CliContext::kNoTimeout)) return exit_code;
    if (dry_run_) return PrintEstimate(cli, response);
    if (no_wait_) {
      if (cli.json()) return cli.PrintJson(response);
      return TellJob(cli, response.job());
    }
    v1::Job job;
    if (!AwaitJob(cli, response.job(), &job, &exit_code)) return exit_code;
    return Print(cli, job.reembed());
  }

 private:
  // Sends the checkpoint and names it in `request`. False where that failed, and was told.
  bool SendEncoder(CliContext& cli, v1::ReembedStoreRequest* request, int* exit_code) const {
    std::error_code error;
    const fs::path folder(model_);
    if (!fs::is_directory(folder, error)) {
      *exit_code = cli.Fail(absl::NotFoundError(absl::StrCat(model_, " is no folder; it must be that of a checkpoint")));
      return false;
    }
    if (!fs::exists(folder / kRequiredFile, error)) {
      *exit_code = cli.Fail(absl::NotFoundError(absl::StrCat(model_, " has no ", kRequiredFile, "; it must be the folder of a checkpoint")));
      return false;
    }
    fs::path named = fs::weakly_canonical(folder, error);
    if (!named.has_filename()) named = named.parent_path();
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    v1::ImportEncoderResponse response;
    const std::unique_ptr<grpc::ClientWriter<v1::ImportEncoderRequest>> writer = cli.admin().ImportEncoder(&context, &response);
    Progress progress(cli.err(), cli.environment().err_width, "", [] { return Progress::Numbers(); });
    v1::ImportEncoderRequest message;
    message.mutable_header()->set_name(named.filename().string());
    bool open = writer->Write(message);
    std::string buffer(kPieceBytes, '\0');
    for (const char* path : kCheckpointFiles) {
      if (!fs::exists(folder / path, error)) continue;
      progress.SetPhase(absl::StrCat("sending ", path));
      absl::StatusOr<std::unique_ptr<InputFile>> file = InputFile::Open((folder / path).string());
      absl::StatusOr<size_t> read = size_t{0};
      bool begun = false;
      while (open && file.ok() && (read = (*file)->Read(buffer.data(), buffer.size())).ok() && (*read > 0 || !begun)) {
        begun = true;
        message.mutable_piece()->set_path(path);
        message.mutable_piece()->set_data(buffer.data(), *read);
        open = writer->Write(message);
      }
      if (!file.ok() || !read.ok()) {
        context.TryCancel();
        writer->Finish();
        progress.Stop();
        *exit_code = cli.Fail(file.ok() ? read.status() : file.status());
        return false;
      }
    }
    if (open) writer->WritesDone();
    progress.SetPhase("all was sent, the server loads the encoder");
    const grpc::Status status = writer->Finish();
    progress.Stop();
    if (!status.ok()) {
      *exit_code = cli.Fail(status);
      return false;
    }
    request->set_encoder(response.encoder().fingerprint());
    cli.err() << "encoder " << SanitizeLine(response.encoder().fingerprint()) << (response.was_there() ? " was there already\n" : " was taken\n");
    return true;
  }

  int PrintEstimate(CliContext& cli, const v1::ReembedStoreResponse& response) const {
    if (cli.json()) return cli.PrintJson(response);
    const v1::ReembedEstimate& estimate = response.estimate();
    cli.out() << "dry run, nothing was changed: would encode store " << SanitizeLine(StoreName(store_)) << ", generation "
              << SanitizeLine(response.generation()) << ", from " << SanitizeLine(response.previous_encoder_fingerprint()) << " to "
              << SanitizeLine(response.encoder_fingerprint()) << '\n';
    TextTable table({{"PASSAGES", TextTable::kRight},
                     {"TOKENS", TextTable::kRight},
                     {"TOKENS/S", TextTable::kRight},
                     {"TIME", TextTable::kRight},
                     {"SIZE", TextTable::kRight},
                     {"PEAK DISK", TextTable::kRight},
                     {"MEMORY", TextTable::kRight}});
    table.AddRow({FormatCount(estimate.passage_count()), FormatCount(estimate.token_count()),
                  FormatCount(static_cast<int64_t>(estimate.tokens_per_second())),
                  FormatSeconds(static_cast<double>(estimate.duration_ms()) / 1e3), FormatBytes(estimate.size_bytes()),
                  FormatBytes(estimate.peak_disk_bytes()), FormatBytes(estimate.memory_bytes())});
    cli.PrintTable(table);
    return kExitOk;
  }

  int Print(CliContext& cli, const v1::ReembedStoreResponse& response) const {
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << (no_activate_ ? "built generation " : "re-embedded store ")
              << SanitizeLine(no_activate_ ? response.generation() : StoreName(store_)) << " with encoder "
              << SanitizeLine(response.encoder_fingerprint()) << ": " << FormatCount(response.passage_count()) << " passages, "
              << FormatCount(response.encoded_count()) << " encoded, " << FormatCount(response.reused_count()) << " taken over, "
              << FormatCount(response.written_count()) << " written meanwhile; " << FormatBytes(response.size_bytes()) << '\n';
    cli.out() << "store " << SanitizeLine(StoreName(store_)) << (no_activate_ ? " has" : " serves") << " generation "
              << SanitizeLine(response.generation()) << ", revision " << response.revision() << "; before: "
              << SanitizeLine(response.previous_generation()) << '\n';
    return kExitOk;
  }

  std::string store_, model_, encoder_, index_;
  double max_encoder_share_ = 1;
  bool no_activate_ = false, no_wait_ = false, dry_run_ = false;
};

}  // namespace

void AddReembedCommand(Commands* commands) { commands->push_back(std::make_unique<ReembedCommand>()); }

}  // namespace loci

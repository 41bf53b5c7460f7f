// loci import.
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "clients/cli/build_flags.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/input_file.h"
#include "clients/cli/job_progress.h"
#include "clients/cli/progress.h"

namespace loci {
namespace {

constexpr size_t kDataBytes = 1 << 20;

class ImportCommand final : public Command {
 public:
  std::string name() const override { return "import"; }
  std::string summary() const override { return "Build a new generation of a store from an archive"; }
  std::string details() const override {
    return "The archive is one of loci export, plain or compressed by gzip or zstd. It is checked as a whole before anything of it answers:\n"
           "one that is damaged or cut short leaves the store as it is. Vectors are taken over as they are, and the index is built from them.\n"
           "The store is created if it is not there.\n";
  }
  std::string examples() const override {
    return "  loci import movies movies.archive\n  loci import movies-copy movies.archive.zst --no-activate\n"
           "  loci import movies movies.archive --writes-since discard --index IVF1024,Flat\n"
           "  loci export movies - --server old:7440 | loci import movies - --server new:7440\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("FILE", &path_, "Archive, or - (standard input).");
    build_.Declare(flags, "exact or exact:int8, a FAISS factory string or auto[:recall=X,memory=SIZE]; as the archive says without it.", "How vectors are stored; as the archive says without it.",
                   "Return once all was received and checked, with the job that builds and activates.");
    flags->Bool("allow-unknown-encoder", &allow_unknown_encoder_, "Take vectors that no encoder of the server serves; with --no-activate.");
    flags->Bool("dry-run", &dry_run_, "Say what would be sent, send nothing.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    if (allow_unknown_encoder_ && !build_.no_activate()) return cli.UsageError("--allow-unknown-encoder goes with --no-activate");
    absl::StatusOr<std::unique_ptr<InputFile>> opened = InputFile::Open(path_);
    if (!opened.ok()) return cli.Fail(opened.status());
    InputFile& file = **opened;
    if (dry_run_) {
      v1::ImportRequest request;
      *request.mutable_header() = Header();
      return cli.PrintDryRun(absl::StrCat("import ", path_ == "-" ? "standard input" : absl::StrCat(path_, ", ", FormatBytes(file.size_bytes()), ","),
                                          " into store ", StoreName(store_)),
                             request);
    }
    return Send(cli, file);
  }

 private:
  v1::ImportHeader Header() const {
    v1::ImportHeader header;
    header.set_store(store_);
    build_.Fill(&header);
    header.set_allow_unknown_encoder(allow_unknown_encoder_);
    return header;
  }

  int Send(CliContext& cli, InputFile& file) const {
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    v1::ImportResponse response;
    const std::unique_ptr<grpc::ClientWriter<v1::ImportRequest>> writer = cli.admin().ImportStore(&context, &response);
    Progress progress(cli.err(), cli.environment().err_width, "bytes", [&file] {
      return Progress::Numbers{file.position_bytes(), file.position_bytes(), file.size_bytes()};
    });
    v1::ImportRequest request;
    *request.mutable_header() = Header();
    bool open = writer->Write(request);  // The server still reads.
    std::string buffer(kDataBytes, '\0');
    while (open) {
      const absl::StatusOr<size_t> read = file.Read(buffer.data(), buffer.size());
      if (!read.ok()) {
        context.TryCancel();
        writer->Finish();
        progress.Stop();
        const int exit_code = cli.Fail(read.status());
        cli.err() << "nothing was imported (a store that was created for it stays, empty)\n";
        return exit_code;
      }
      if (*read == 0) break;
      request.set_data(buffer.data(), *read);
      open = writer->Write(request);  // Blocks until the server has room.
    }
    progress.SetPhase("all was sent, the server builds");
    if (open) writer->WritesDone();
    grpc::Status status;
    {
      std::optional<IngestPhases> phases;
      if (open) phases.emplace(cli, store_, progress);
      status = writer->Finish();
    }
    progress.Stop();
    if (!status.ok()) return cli.Fail(status);
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << (response.done() ? "imported " : "received ") << FormatCount(response.passage_count()) << " passages of store "
              << SanitizeLine(response.source_store()) << ", generation " << SanitizeLine(response.source_generation()) << ", revision "
              << response.source_revision() << '\n';
    if (response.done()) {
      cli.out() << "store " << SanitizeLine(StoreName(store_)) << (build_.no_activate() ? " has" : " serves") << " generation "
                << SanitizeLine(response.generation()) << ", revision " << response.revision() << '\n';
    } else {
      return TellJob(cli, response.job());
    }
    return kExitOk;
  }

  std::string store_, path_;
  BuildFlags build_;
  bool allow_unknown_encoder_ = false, dry_run_ = false;
};

}  // namespace

void AddImportCommand(Commands* commands) { commands->push_back(std::make_unique<ImportCommand>()); }

}  // namespace loci

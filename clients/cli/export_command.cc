// loci export.
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/output_file.h"
#include "clients/cli/progress.h"

namespace loci {
namespace {

class ExportCommand final : public Command {
 public:
  std::string name() const override { return "export"; }
  std::string summary() const override { return "Write what a store serves, or a generation of it, into an archive"; }
  std::string details() const override {
    return "Passages, metadata and vectors of one moment, the writes made since the generation's build included; what is written meanwhile\n"
           "is not in it, and nothing waits. The file appears once it is whole. It is not compressed: pipe it through zstd where space is\n"
           "short; loci import reads that.\n";
  }
  std::string examples() const override {
    return "  loci export movies movies.archive\n  loci export movies g4 g4.archive --force\n"
           "  loci export movies - | zstd > movies.archive.zst\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation; the active one without it.", /*required=*/false);
    flags->Positional("FILE", &path_, "File to write, or - (standard output).");
    flags->Bool("without-writes", &without_writes_, "The generation as it was built, without the writes made since.");
    flags->Bool("force", &force_, "Replace FILE where it exists.");
  }

  int Run(CliContext& cli, const FlagSet&) override {
    const bool to_stdout = path_ == "-";
    if (to_stdout && cli.environment().out_width > 0) return cli.UsageError("an archive is not for a terminal; name a file, or pipe it on");
    if (to_stdout && cli.json()) return cli.UsageError("-o json and FILE - do not go together: the archive is what is printed");
    std::unique_ptr<OutputFile> file;
    if (!to_stdout) {
      absl::StatusOr<std::unique_ptr<OutputFile>> created = OutputFile::Create(path_, force_);
      if (!created.ok()) return cli.Fail(created.status());
      file = *std::move(created);
    }
    grpc::ClientContext context;
    cli.SetDeadline(&context, CliContext::kNoTimeout);
    v1::ExportRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    request.set_without_writes(without_writes_);
    const std::unique_ptr<grpc::ClientReader<v1::ExportChunk>> reader = cli.admin().ExportStore(&context, request);
    std::atomic<int64_t> done{0}, total{0};
    int64_t size_bytes = 0;
    v1::ExportChunk first, chunk;
    absl::Status written;
    {
      Progress progress(cli.err(), cli.environment().err_width, "passages", [&] { return Progress::Numbers{done.load(), done.load(), total.load()}; });
      while (written.ok() && reader->Read(&chunk)) {
        size_bytes += static_cast<int64_t>(chunk.data().size());
        written = to_stdout ? Print(cli, chunk.data()) : file->Write(chunk.data());
        done = chunk.done_count();
        if (first.generation().empty()) {
          chunk.clear_data();
          first = chunk;
          total = first.passage_count();
        }
      }
    }
    if (!written.ok()) context.TryCancel();
    const grpc::Status status = reader->Finish();
    if (!written.ok()) return cli.Fail(written);
    if (!status.ok()) {
      const int exit_code = cli.Fail(status);
      cli.err() << (to_stdout ? "what was printed is not an archive\n" : "no file was written\n");
      return exit_code;
    }
    if (to_stdout) {
      cli.out().flush();
      if (!cli.out()) return cli.Fail(absl::FailedPreconditionError("cannot write standard output"));
    } else if (absl::Status committed = file->Commit(); !committed.ok()) {
      return cli.Fail(committed);
    }
    first.set_done_count(done);
    if (cli.json()) return cli.PrintJson(first);
    (to_stdout ? cli.err() : cli.out()) << "exported generation " << SanitizeLine(first.generation()) << " of store "
                                        << SanitizeLine(StoreName(store_)) << " at revision " << first.revision() << ": "
                                        << FormatCount(first.passage_count()) << " passages, " << FormatBytes(size_bytes) << '\n';
    return kExitOk;
  }

 private:
  static absl::Status Print(CliContext& cli, const std::string& data) {
    cli.out().write(data.data(), static_cast<std::streamsize>(data.size()));
    return cli.out() ? absl::OkStatus() : absl::FailedPreconditionError("cannot write standard output");
  }

  std::string store_, generation_, path_;
  bool without_writes_ = false, force_ = false;
};

}  // namespace

void AddExportCommand(Commands* commands) { commands->push_back(std::make_unique<ExportCommand>()); }

}  // namespace loci

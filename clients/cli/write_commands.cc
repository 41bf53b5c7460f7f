// loci create store, loci delete store|generation|passages.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/fidelity_table.h"

namespace loci {
namespace {

class CreateStoreCommand final : public Command {
 public:
  std::string name() const override { return "create store"; }
  std::string summary() const override { return "Create an empty store (ingest does it, too)"; }
  std::string examples() const override { return "  loci create store movies\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name: 1 to 64 of a-z, 0-9, _ and -.");
    flags->Choice("encoder-precision", &encoder_precision_, {"auto", "int8"}, "What its texts are encoded in; auto: as the server is configured.");
    flags->Bool("dry-run", &dry_run_, "Send nothing.");
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    v1::CreateStoreRequest request;
    request.set_store(store_);
    if (flags.WasGiven("encoder-precision")) request.set_encoder_precision(encoder_precision_);
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("create store ", StoreName(store_)), request);
    v1::CreateStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::CreateStore, request, &response, &exit_code)) return exit_code;
    if (response.store().encoder_precision() == "int8") WarnOfFidelity(cli, response.store());
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "store " << SanitizeLine(response.store().store()) << " created\n";
    return kExitOk;
  }

 private:
  std::string store_, encoder_precision_ = "auto";
  bool dry_run_ = false;
};

class DeleteStoreCommand final : public Command {
 public:
  std::string name() const override { return "delete store"; }
  std::string summary() const override { return "Delete a store with its generations and writes"; }
  std::string details() const override {
    return "There is no way back. On a terminal the name is asked for again; elsewhere --confirm must repeat it.\n";
  }
  std::string examples() const override { return "  loci delete store movies\n  loci delete store movies --confirm movies\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store.");
    flags->String("confirm", &confirm_, "STORE", "The store's name again.");
    flags->Bool("dry-run", &dry_run_, "Send nothing.");
  }
  int Run(CliContext& cli, const FlagSet& flags) override {
    v1::DeleteStoreRequest request;
    request.set_store(store_);
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("delete store ", StoreName(store_)), request);
    if (!flags.WasGiven("confirm")) {
      if (!cli.environment().stdin_is_terminal) {
        return cli.UsageError(absl::StrCat("deleting a store needs --confirm ", StoreName(store_)));
      }
      cli.err() << "This deletes store " << SanitizeLine(StoreName(store_))
                << " with everything in it. Type its name to go on: " << std::flush;
      std::getline(std::cin, confirm_);
    }
    if (confirm_ != StoreName(store_)) return cli.UsageError("the name does not match; nothing was deleted");
    request.set_confirm_name(confirm_);
    v1::DeleteStoreResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::DeleteStore, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "store " << SanitizeLine(StoreName(store_)) << " deleted\n";
    return kExitOk;
  }

 private:
  std::string store_, confirm_;
  bool dry_run_ = false;
};

class DeleteGenerationCommand final : public Command {
 public:
  std::string name() const override { return "delete generation"; }
  std::string summary() const override { return "Delete a generation that is not active"; }
  std::string examples() const override { return "  loci delete generation movies g3\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->Positional("GENERATION", &generation_, "Name of the generation.");
    flags->Bool("dry-run", &dry_run_, "Send nothing.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::DeleteGenerationRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    if (dry_run_)
      return cli.PrintDryRun(absl::StrCat("delete generation ", generation_, " of store ", StoreName(store_)), request);
    v1::DeleteGenerationResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::DeleteGeneration, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "generation " << SanitizeLine(generation_) << " of store " << SanitizeLine(StoreName(store_)) << " deleted\n";
    return kExitOk;
  }

 private:
  std::string store_, generation_;
  bool dry_run_ = false;
};

class DeletePassagesCommand final : public Command {
 public:
  std::string name() const override { return "delete passages"; }
  std::string summary() const override { return "Delete passages by their ids"; }
  std::string details() const override { return "Ids that are not there are passed over; the reply counts those that were.\n"; }
  std::string examples() const override { return "  loci delete passages movies m1 m2\n"; }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->PositionalList("ID", &ids_, "Ids of passages.", 1);
    flags->Bool("dry-run", &dry_run_, "Send nothing.");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::DeletePassagesRequest request;
    request.set_store(store_);
    for (const std::string& id : ids_) request.add_ids(id);
    if (dry_run_) return cli.PrintDryRun(absl::StrCat("delete ", FormatCountOf(static_cast<int64_t>(ids_.size()), "passage"), " of store ", StoreName(store_)), request);
    v1::DeletePassagesResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::DeletePassages, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << FormatCount(response.deleted_count()) << " of " << FormatCountOf(static_cast<int64_t>(ids_.size()), "passage") << " deleted, revision " << response.revision()
              << '\n';
    return kExitOk;
  }

 private:
  std::string store_;
  std::vector<std::string> ids_;
  bool dry_run_ = false;
};

}  // namespace

void AddWriteCommands(Commands* commands) {
  commands->push_back(std::make_unique<CreateStoreCommand>());
  commands->push_back(std::make_unique<DeleteStoreCommand>());
  commands->push_back(std::make_unique<DeleteGenerationCommand>());
  commands->push_back(std::make_unique<DeletePassagesCommand>());
}

}  // namespace loci

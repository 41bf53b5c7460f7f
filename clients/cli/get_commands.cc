// loci get stores|generations|server|passages.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_join.h"
#include "clients/cli/command.h"
#include "clients/cli/display.h"
#include "clients/cli/fidelity_table.h"

namespace loci {
namespace {

// An enum's value without its prefix: "SERVING".
std::string ShortName(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

class GetStoresCommand final : public Command {
 public:
  std::string name() const override { return "get stores"; }
  std::string summary() const override { return "List the stores, or show some by name"; }
  std::string details() const override {
    return "INT8 OVERLAP is what loci quantize measured last: - where nothing was, \"old\" behind it where that was with another encoder, or over\n"
           "another generation than the active one. Of stores that are named it is shown in full.\n";
  }
  std::string examples() const override { return "  loci get stores\n  loci get stores movies -o json\n"; }
  void DeclareFlags(FlagSet* flags) override { flags->PositionalList("STORE", &names_, "Names; all stores without one.", 0); }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::ListStoresResponse response;
    int exit_code = kExitOk;
    if (names_.empty()) {
      if (!cli.Call(cli.admin(), &v1::AdminService::Stub::ListStores, v1::ListStoresRequest(), &response, &exit_code))
        return exit_code;
    }
    for (const std::string& name : names_) {
      v1::GetStoreRequest request;
      request.set_store(name);
      v1::GetStoreResponse one;
      if (!cli.Call(cli.admin(), &v1::AdminService::Stub::GetStore, request, &one, &exit_code)) return exit_code;
      if (cli.json() && names_.size() == 1) return cli.PrintJson(one);
      *response.add_stores() = one.store();
    }
    if (cli.json()) return cli.PrintJson(response);
    TextTable table({{"STORE"},
                     {"GENERATION"},
                     {"REVISION", TextTable::kRight},
                     {"PASSAGES", TextTable::kRight},
                     {"OVERLAY", TextTable::kRight},
                     {"GENERATIONS", TextTable::kRight},
                     {"SIZE", TextTable::kRight},
                     {"ENCODER"},
                     {"PRECISION"},
                     {"INT8 OVERLAP"},
                     {"ERROR"}});
    for (const v1::Store& store : response.stores()) {
      table.AddRow({store.store(), store.generation().empty() ? "-" : store.generation(), absl::StrCat(store.revision()),
                    FormatCount(store.passage_count()), FormatCount(store.overlay_count()),
                    absl::StrCat(store.generation_count()), FormatBytes(store.size_bytes()), store.encoder_fingerprint(),
                    store.encoder_precision(), FidelityCell(store), store.error()});
    }
    cli.PrintTable(table);
    for (const v1::Store& store : response.stores()) {
      if (names_.empty() || !store.has_int8_fidelity()) continue;
      cli.out() << '\n';
      PrintFidelity(cli, store.store(), store.int8_fidelity());
    }
    return kExitOk;
  }

 private:
  std::vector<std::string> names_;
};

class GetGenerationsCommand final : public Command {
 public:
  std::string name() const override { return "get generations"; }
  std::string summary() const override { return "List a store's generations"; }
  std::string examples() const override { return "  loci get generations movies\n"; }
  void DeclareFlags(FlagSet* flags) override { flags->Positional("STORE", &store_, "Name of the store; \"\" is default."); }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::ListGenerationsRequest request;
    request.set_store(store_);
    v1::ListGenerationsResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::ListGenerations, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    TextTable table({{"GENERATION"},
                     {"STATE"},
                     {"PASSAGES", TextTable::kRight},
                     {"DIM", TextTable::kRight},
                     {"TYPE"},
                     {"ENCODED IN"},
                     {"INDEX"},
                     {"RECALL@10", TextTable::kRight},
                     {"BASE", TextTable::kRight},
                     {"SIZE", TextTable::kRight},
                     {"CREATED (UTC)"},
                     {"DETAIL", TextTable::kLeft, 60}});
    for (const v1::Generation& generation : response.generations()) {
      table.AddRow(
          {generation.generation(), ShortName(v1::GenerationState_Name(generation.state()), "GENERATION_STATE_"),
           FormatCount(generation.passage_count()), absl::StrCat(generation.dim()),
           ShortName(v1::VectorType_Name(generation.vector_type()), "VECTOR_TYPE_"),
           generation.encoder_precisions().empty() ? "-" : absl::StrJoin(generation.encoder_precisions(), ","), generation.index(),
           generation.recall_query_count() > 0 || generation.index().rfind("exact", 0) == 0 ? FormatFixed(generation.recall_at_10(), 3) : "-",
           absl::StrCat(generation.base_revision()), FormatBytes(generation.size_bytes()),
           FormatTimeUtc(generation.created_unix_us()), generation.state_detail()});
    }
    cli.PrintTable(table);
    cli.out() << "active: " << (response.generation().empty() ? "none" : SanitizeLine(response.generation())) << ", revision "
              << response.revision() << '\n';
    for (const v1::Generation& generation : response.generations()) {
      if (generation.generation() != response.generation() || !generation.has_tuning()) continue;
      cli.out() << "auto took " << SanitizeLine(generation.index()) << ": " << SanitizeLine(generation.tuning().reason()) << '\n';
    }
    return kExitOk;
  }

 private:
  std::string store_;
};

class GetServerCommand final : public Command {
 public:
  std::string name() const override { return "get server"; }
  std::string summary() const override { return "Show the server: version, devices, encoders, limits"; }
  std::string examples() const override { return "  loci get server\n  loci get server -o json --server 10.0.0.7:7440\n"; }
  void DeclareFlags(FlagSet*) override {}
  int Run(CliContext& cli, const FlagSet&) override {
    v1::GetServerInfoResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::GetServerInfo, v1::GetServerInfoRequest(), &response, &exit_code))
      return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    cli.out() << "version " << SanitizeLine(response.version()) << ", instruction set " << SanitizeLine(response.cpu_isa())
              << ", readers " << SanitizeLine(absl::StrJoin(response.readers(), ", ")) << "\n\n";
    TextTable devices({{"DEVICE"}, {"CHOSEN"}, {"NAME"}, {"MEMORY", TextTable::kRight}, {"REASON"}});
    for (const v1::Device& device : response.devices()) {
      devices.AddRow({device.device(), device.chosen() ? "yes" : "no", device.name(),
                      device.memory_bytes() > 0 ? FormatBytes(device.memory_bytes()) : "-", device.reason()});
    }
    cli.PrintTable(devices);
    TextTable encoders({{"ENCODER"},
                        {"MODEL"},
                        {"DIM", TextTable::kRight},
                        {"MAX TOKENS", TextTable::kRight},
                        {"POOLING"},
                        {"NORMALIZE"},
                        {"TYPE"},
                        {"DEVICE"},
                        {"MEMORY", TextTable::kRight},
                        {"REASON OF TYPE"}});
    for (const v1::EncoderInfo& encoder : response.encoders()) {
      encoders.AddRow({encoder.fingerprint(), encoder.model(), absl::StrCat(encoder.dim()), absl::StrCat(encoder.max_tokens()),
                       encoder.pooling(), encoder.normalize() ? "yes" : "no", encoder.element_type(), encoder.device(),
                       FormatBytes(encoder.memory_bytes()), encoder.element_type_reason()});
    }
    cli.out() << '\n';
    cli.PrintTable(encoders);
    const v1::Limits& limits = response.limits();
    cli.out() << "\nlimits: message " << FormatBytes(limits.max_message_bytes()) << ", top_k " << FormatCount(limits.max_top_k())
              << ", queries " << FormatCount(limits.max_queries()) << ", texts " << FormatCount(limits.max_texts()) << ", text "
              << FormatBytes(limits.max_text_bytes()) << ", passages a batch " << FormatCount(limits.max_passages_per_batch())
              << ", requests in flight " << FormatCount(limits.max_in_flight_requests()) << '\n';
    return kExitOk;
  }
};

class GetPassagesCommand final : public Command {
 public:
  std::string name() const override { return "get passages"; }
  std::string summary() const override { return "Show passages by their ids"; }
  std::string examples() const override {
    return "  loci get passages movies m1 m2\n  loci get passages movies m1 --include-vectors -o json\n";
  }
  void DeclareFlags(FlagSet* flags) override {
    flags->Positional("STORE", &store_, "Name of the store; \"\" is default.");
    flags->PositionalList("ID", &ids_, "Ids of passages.", 1);
    flags->String("generation", &generation_, "NAME", "Of this generation in place of the active one.");
    flags->Bool("include-vectors", &include_vectors_, "Fetch the vectors, too (seen in JSON).");
  }
  int Run(CliContext& cli, const FlagSet&) override {
    v1::GetPassagesRequest request;
    request.set_store(store_);
    request.set_generation(generation_);
    for (const std::string& id : ids_) request.add_ids(id);
    request.set_include_vectors(include_vectors_);
    v1::GetPassagesResponse response;
    int exit_code = kExitOk;
    if (!cli.Call(cli.admin(), &v1::AdminService::Stub::GetPassages, request, &response, &exit_code)) return exit_code;
    if (cli.json()) return cli.PrintJson(response);
    TextTable table({{"ID", TextTable::kLeft, 60},
                     {"DOCUMENT", TextTable::kLeft, 40},
                     {"CHUNK", TextTable::kRight},
                     {"METADATA", TextTable::kRight},
                     {"TITLE", TextTable::kLeft, 50},
                     {"TEXT", TextTable::kLeft, 160}});
    for (const v1::Passage& passage : response.passages()) {
      table.AddRow({passage.id(), passage.document_id(), absl::StrCat(passage.chunk_index()),
                    absl::StrCat(passage.metadata_size()), passage.title(), passage.text().substr(0, 1024)});
    }
    cli.PrintTable(table);
    return kExitOk;
  }

 private:
  std::string store_, generation_;
  std::vector<std::string> ids_;
  bool include_vectors_ = false;
};

}  // namespace

void AddGetCommands(Commands* commands) {
  commands->push_back(std::make_unique<GetStoresCommand>());
  commands->push_back(std::make_unique<GetGenerationsCommand>());
  commands->push_back(std::make_unique<GetPassagesCommand>());
  commands->push_back(std::make_unique<GetServerCommand>());
}

}  // namespace loci

#include "server/flags.h"

#include <charconv>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "server/address.h"
#include "server/request_errors.h"

namespace loci {
namespace {

absl::Status SetInteger(const std::string& flag, const std::string& value, int least, int most, int* out) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *out);
  if (error == std::errc() && end == value.data() + value.size() && *out >= least && *out <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", Quoted(value), "; it must be a number from ", least, " to ", most));
}

absl::Status SetFraction(const std::string& flag, const std::string& value, double* out) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *out);
  if (error == std::errc() && end == value.data() + value.size() && *out >= 0 && *out <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", Quoted(value), "; it must be a number from 0 to 1"));
}

absl::Status SetText(const std::string& flag, const std::string& value, std::string* out) {
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is empty"));
  *out = value;
  return absl::OkStatus();
}

absl::Status SetAddress(const std::string& flag, const std::string& value, std::string* out) {
  const absl::StatusOr<HostPort> address = ParseHostPort(value);
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat(flag, ": ", address.status().message()));
  *out = value;
  return absl::OkStatus();
}

absl::Status SetFlag(const std::string& flag, const std::string& value, ServerFlags* flags) {
  if (flag == "--data-dir") return SetText(flag, value, &flags->data_dir);
  if (flag == "--model") return SetText(flag, value, &flags->model);
  if (flag == "--listen") return SetAddress(flag, value, &flags->listen);
  if (flag == "--metrics-listen") return SetAddress(flag, value, &flags->metrics_listen);
  if (flag == "--device") return SetText(flag, value, &flags->device);
  if (flag == "--threads") return SetInteger(flag, value, 0, 1024, &flags->threads);
  if (flag == "--max-in-flight") return SetInteger(flag, value, 1, 1'000'000, &flags->max_in_flight);
  if (flag == "--max-ingests") return SetInteger(flag, value, 1, 64, &flags->max_ingests);
  if (flag == "--drain-timeout-s") return SetInteger(flag, value, 0, 86'400, &flags->drain_timeout_s);
  if (flag == "--abstain-threshold") return SetFraction(flag, value, &flags->abstain_threshold);
  return NotAvailableYet(flag);  // --config
}

bool TakesValue(const std::string& flag) {
  for (const char* known : {"--config", "--data-dir", "--model", "--listen", "--metrics-listen", "--device", "--threads", "--max-in-flight",
                            "--max-ingests", "--drain-timeout-s", "--abstain-threshold"}) {
    if (flag == known) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<ServerFlags> ParseServerFlags(const std::vector<std::string>& arguments) {
  ServerFlags flags;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string flag = arguments[i];
    std::optional<std::string> value;
    if (const size_t equals = flag.find('='); flag.starts_with("--") && equals != std::string::npos) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    }
    if ((flag == "--help" || flag == "-h" || flag == "--version") && !value.has_value()) {
      (flag == "--version" ? flags.version : flags.help) = true;
      continue;
    }
    if (!TakesValue(flag)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown argument ", Quoted(arguments[i]), "; --help lists the flags"));
    }
    if (!value.has_value()) {
      if (i + 1 == arguments.size()) return absl::InvalidArgumentError(absl::StrCat(flag, " needs a value"));
      value = arguments[++i];
    }
    LOCI_RETURN_IF_ERROR(SetFlag(flag, *value, &flags));
  }
  return flags;
}

std::string ServerHelp() {
  const ServerFlags defaults;
  return absl::StrCat(R"(loci_server: retrieval-augmented answers over gRPC.

usage: loci_server [flags]

  --data-dir DIR              stores and encoders; made if absent (default )",
                      defaults.data_dir, R"()
  --model DIR                 a BERT-family checkpoint, the default encoder
                              (default )",
                      defaults.model, R"()
  --listen HOST:PORT          gRPC (default )",
                      defaults.listen, R"(); port 0 picks one
  --metrics-listen HOST:PORT  Prometheus text under /metrics (default )",
                      defaults.metrics_listen, R"()
  --device auto|cpu|cuda:N    what the encoder runs on (default auto)
  --threads N                 compute threads, 0 to 1024; 0 is one a core (default 0)
  --max-in-flight N           requests taken at once, beyond them RESOURCE_EXHAUSTED
                              (default )",
                      defaults.max_in_flight, R"()
  --max-ingests N             ingests taken at once, 1 to 64 (default )",
                      defaults.max_ingests, R"()
  --drain-timeout-s N         after SIGTERM, how long requests in flight may take
                              (default )",
                      defaults.drain_timeout_s, R"()
  --abstain-threshold P       below this confidence, 0 to 1, a question gets its passages
                              but no answer (default )",
                      defaults.abstain_threshold, R"()
  --config FILE               not available yet
  --help, --version

Standard output carries "metrics on HOST:PORT" and, once the server can answer,
"listening on HOST:PORT"; logs go to standard error. SIGTERM or SIGINT drains and
exits 0; a second one exits at once.

examples:
  loci_server
  loci_server --data-dir /var/lib/loci --listen 0.0.0.0:7440
  loci_server --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --device cpu
)");
}

}  // namespace loci

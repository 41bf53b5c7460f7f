#include "server/flags.h"

#include <charconv>
#include <functional>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "index/settings_file.h"
#include "server/address.h"
#include "server/config.h"
#include "server/request_errors.h"

namespace loci {
namespace {

using config::ServerConfig;

absl::Status SetInteger(const std::string& flag, const std::string& value, int64_t least, int64_t most, const std::function<void(int64_t)>& set) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < least || number > most) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " is ", Quoted(value), "; it must be a number from ", least, " to ", most));
  }
  set(number);
  return absl::OkStatus();
}

absl::Status SetFraction(const std::string& flag, const std::string& value, const std::function<void(double)>& set) {
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number >= 0 && number <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " is ", Quoted(value), "; it must be a number from 0 to 1"));
  }
  set(number);
  return absl::OkStatus();
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

// One of `names`, whose numbers count from 0.
absl::Status SetChoice(const std::string& flag, const std::string& value, const std::vector<std::string>& names, const std::function<void(int)>& set) {
  std::string list;
  for (size_t i = 0; i < names.size(); ++i) {
    if (value == names[i]) {
      set(static_cast<int>(i));
      return absl::OkStatus();
    }
    absl::StrAppend(&list, i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  }
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", Quoted(value), "; it must be ", list));
}

absl::Status SetFlag(const std::string& flag, const std::string& value, ServerFlags* flags) {
  ServerConfig& config = flags->overrides;
  if (flag == "--config") return SetText(flag, value, &flags->config_file);
  if (flag == "--encoder") return SetText(flag, value, config.add_encoders()->mutable_model());
  if (flag == "--keep-generations") {
    return SetInteger(flag, value, 0, kMaxKeepGenerations, [&](int64_t n) { config.set_keep_generations(static_cast<int32_t>(n)); });
  }
  if (flag == "--fold-passages") {
    return SetInteger(flag, value, 0, 1'000'000'000'000, [&](int64_t n) { config.mutable_fold()->set_max_overlay_passages(n); });
  }
  if (flag == "--fold-bytes") {
    return SetInteger(flag, value, 0, int64_t{1} << 50, [&](int64_t n) { config.mutable_fold()->set_max_overlay_bytes(n); });
  }
  if (flag == "--fold-share") return SetFraction(flag, value, [&](double share) { config.mutable_fold()->set_max_overlay_share(share); });
  if (flag == "--data-dir") return SetText(flag, value, config.mutable_data_dir());
  if (flag == "--model") return SetText(flag, value, config.mutable_model());
  if (flag == "--listen") return SetAddress(flag, value, config.mutable_listen());
  if (flag == "--metrics-listen") return SetAddress(flag, value, config.mutable_metrics_listen());
  if (flag == "--device") return SetText(flag, value, config.mutable_device());
  if (flag == "--encoder-precision") return SetText(flag, value, config.mutable_encoder_precision());
  if (flag == "--search-device") return SetText(flag, value, config.mutable_search_device());
  if (flag == "--threads") return SetInteger(flag, value, 0, 1024, [&](int64_t n) { config.set_threads(static_cast<int32_t>(n)); });
  if (flag == "--max-in-flight") return SetInteger(flag, value, 1, 1'000'000, [&](int64_t n) { config.mutable_limits()->set_max_in_flight(n); });
  if (flag == "--max-ingests") return SetInteger(flag, value, 1, 64, [&](int64_t n) { config.mutable_limits()->set_max_ingests(n); });
  if (flag == "--drain-timeout-s") {
    return SetInteger(flag, value, 0, 86'400, [&](int64_t n) { config.set_drain_timeout_s(static_cast<int32_t>(n)); });
  }
  if (flag == "--abstain-threshold") return SetFraction(flag, value, [&](double p) { config.mutable_reader()->set_abstain_threshold(p); });
  if (flag == "--log-format") {
    return SetChoice(flag, value, {"text", "json"}, [&](int i) { config.mutable_log()->set_format(static_cast<config::Log::Format>(i)); });
  }
  return SetChoice(flag, value, {"info", "warning", "error"},  // --log-level
                   [&](int i) { config.mutable_log()->set_level(static_cast<config::Log::Level>(i)); });
}

bool TakesValue(const std::string& flag) {
  for (const char* known : {"--config", "--data-dir", "--model", "--listen", "--metrics-listen", "--device", "--encoder-precision", "--search-device", "--threads", "--max-in-flight",
                            "--max-ingests", "--encoder", "--keep-generations", "--fold-passages", "--fold-bytes", "--fold-share", "--drain-timeout-s", "--abstain-threshold", "--log-format", "--log-level"}) {
    if (flag == known) return true;
  }
  return false;
}

bool SetSwitch(const std::string& flag, ServerFlags* flags) {
  if (flag == "--help" || flag == "-h") {
    flags->help = true;
  } else if (flag == "--version") {
    flags->version = true;
  } else if (flag == "--check-config") {
    flags->check_config = true;
  } else if (flag == "--log-requests") {
    flags->overrides.mutable_log()->set_requests(true);
  } else {
    return false;
  }
  return true;
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
    if (!value.has_value() && SetSwitch(flag, &flags)) continue;
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

absl::StatusOr<ServerConfig> EffectiveConfig(const ServerFlags& flags) {
  ServerConfig config = DefaultServerConfig();
  if (!flags.config_file.empty()) {
    LOCI_ASSIGN_OR_RETURN(const ServerConfig file, LoadServerConfig(flags.config_file));
    config.MergeFrom(file);
  }
  config.MergeFrom(flags.overrides);
  LOCI_RETURN_IF_ERROR(CheckServerConfig(config));
  return config;
}

std::string ServerHelp() {
  const ServerConfig defaults = DefaultServerConfig();
  return absl::StrCat(R"(loci_server: retrieval-augmented answers over gRPC.

usage: loci_server [flags]

  --config FILE               configuration as text proto; flags stand over it
  --check-config              print the configuration in effect and exit 0; where it has
                              a mistake, tell FILE:LINE:COLUMN and exit 2
  --data-dir DIR              stores and encoders; made if absent (default )",
                      defaults.data_dir(), R"()
  --model DIR                 a BERT-family checkpoint, the default encoder
                              (default )",
                      defaults.model(), R"()
  --encoder DIR               a further checkpoint, besides those of the file; once for
                              each
  --listen HOST:PORT          gRPC; port 0 picks one (default )",
                      defaults.listen(), R"()
  --metrics-listen HOST:PORT  Prometheus text under /metrics (default )",
                      defaults.metrics_listen(), R"()
  --device auto|cpu|cuda:N    what the encoder runs on (default )",
                      defaults.device(), R"()
  --encoder-precision auto|float32|bfloat16|float16
                              what encoders compute in; auto is the fastest that the CPU
                              has (default )",
                      defaults.encoder_precision(), R"()
  --search-device cpu|cuda:N|auto
                              what generations with an exact index are searched on, not
                              yet measured on a device; the CPU searches what finds no
                              room there, and its generation says so; with cuda:N a
                              start ends where what is active has none (default )",
                      defaults.search_device(), R"()
  --threads N                 compute threads, 0 to 1024; 0 is one a core (default )",
                      defaults.threads(), R"()
  --max-in-flight N           requests taken at once, beyond them RESOURCE_EXHAUSTED
                              (default )",
                      defaults.limits().max_in_flight(), R"()
  --max-ingests N             ingests taken at once, 1 to 64 (default )",
                      defaults.limits().max_ingests(), R"()
  --keep-generations N        of a store where nothing is set: complete generations kept
                              besides the active one and the pinned, 0 to 1000; 0 keeps
                              all (default )",
                      defaults.keep_generations(), R"()
  --fold-share P              fold what was written to a store into a new generation, in
                              the background, once it changed more than this part of its
                              passages (counted as at least 100000), 0 to 1; 0 is never
                              (default )",
                      defaults.fold().max_overlay_share(), R"()
  --fold-passages N           the same, as a number of passages; 0 is never (default )",
                      defaults.fold().max_overlay_passages(), R"()
  --fold-bytes N              the same, as memory of what was written; 0 is never
                              (default )",
                      defaults.fold().max_overlay_bytes(), R"()
  --drain-timeout-s N         after SIGTERM, how long requests in flight may take
                              (default )",
                      defaults.drain_timeout_s(), R"()
  --abstain-threshold P       below this confidence, 0 to 1, a question gets its passages
                              but no answer (default )",
                      defaults.reader().abstain_threshold(), R"()
  --log-format text|json      lines for people, or one JSON object a line (default text)
  --log-level info|warning|error
                              lines below it are left out (default info)
  --log-requests              a line for every request, not only for those that failed
  --help, --version

Limits of single methods, keepalive and the batcher are set in the file alone;
--check-config prints every field. A batch has at most batcher.max_batch_tokens
tokens; 0, the default, is 1024 on the CPU and 8192 on a CUDA device, where two
batches are under way at once. search_device_memory_bytes bounds what exact search
takes of its device.

`loci_server quantize --help` tells how int8 vectors are looked at before a store
is allowed them.

Standard output carries "metrics on HOST:PORT" and, once the server can answer,
"listening on HOST:PORT"; logs go to standard error. SIGTERM or SIGINT drains and
exits 0; a second one exits at once.

exit codes: 0 stopped, 1 cannot start, 2 a mistake in the flags or the file,
3 a second signal while draining

examples:
  loci_server
  loci_server --data-dir /var/lib/loci --listen 0.0.0.0:7440
  loci_server --config /etc/loci/loci.txtpb --log-format json
  loci_server --config loci.txtpb --check-config
)");
}

}  // namespace loci

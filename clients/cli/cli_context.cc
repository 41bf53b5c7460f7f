#include "clients/cli/cli_context.h"

#include <chrono>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "clients/cli/display.h"
#include "google/protobuf/util/json_util.h"

namespace loci {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

}  // namespace

CliContext::CliContext(const CliEnvironment& environment, GlobalOptions options)
    : environment_(environment), options_(std::move(options)), interrupt_(options_.timeout_ms) {}

std::shared_ptr<grpc::Channel> CliContext::NewChannel() const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A proxy for web pages is of no use for this, and would hide a server on loopback.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(options_.server, grpc::InsecureChannelCredentials(), arguments);
}

v1::RetrievalService::Stub& CliContext::retrieval() {
  if (channel_ == nullptr) channel_ = NewChannel();
  if (retrieval_ == nullptr) retrieval_ = v1::RetrievalService::NewStub(channel_);
  return *retrieval_;
}

v1::AdminService::Stub& CliContext::admin() {
  if (channel_ == nullptr) channel_ = NewChannel();
  if (admin_ == nullptr) admin_ = v1::AdminService::NewStub(channel_);
  return *admin_;
}

void CliContext::SetDeadline(grpc::ClientContext* context, int64_t default_timeout_ms) const {
  const int64_t timeout_ms = options_.timeout_ms >= 0 ? options_.timeout_ms : default_timeout_ms;
  if (timeout_ms > 0) context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
}

int CliContext::Fail(const grpc::Status& status) {
  err() << FormatRpcError(DecodeRpcError(status));
  return ExitCodeAfterHint(status);
}

int CliContext::ExitCodeAfterHint(const grpc::Status& status) {
  const int exit_code = ExitCodeOf(status);
  if (exit_code == kExitUnreachable) {
    err() << "The server was asked at " << options_.server << "; name another with --server HOST:PORT or $LOCI_SERVER.\n";
  }
  return exit_code;
}

int CliContext::Fail(const absl::Status& status) {
  err() << "error: " << SanitizeLine(StdView(status.message())) << '\n';
  return absl::IsDeadlineExceeded(status) ? kExitTimeout : kExitFailed;
}

int CliContext::UsageError(std::string_view message) {
  err() << "error: " << SanitizeLine(message) << '\n';
  return kExitUsage;
}

int CliContext::PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) {
    err() << "error: the response cannot be printed as JSON: " << status.ToString() << '\n';
    return kExitFailed;
  }
  out() << text;
  if (!text.ends_with('\n')) out() << '\n';
  return kExitOk;
}

void CliContext::PrintTable(const TextTable& table) { out() << table.Render(environment_.out_width); }

int CliContext::PrintDryRun(std::string_view text, const google::protobuf::Message& request) {
  if (json()) return PrintJson(request);
  out() << "dry run, nothing was sent: would " << SanitizeLine(text) << '\n';
  return kExitOk;
}

absl::Status CheckServerAddress(std::string_view address) {
  const auto invalid = [&](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("\"", AbslView(address.substr(0, 256)), "\" is not HOST:PORT: ", AbslView(why)));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || address.ends_with(']')) return invalid("there is no port");
  std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  const char* host_characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    host_characters = "abcdefABCDEF0123456789:.%";
  } else if (host.find(':') != std::string_view::npos) {
    return invalid("write an IPv6 address as [ADDRESS]:PORT, and no scheme before the host");
  }
  if (host.empty()) return invalid("there is no host");
  if (host.find_first_not_of(host_characters) != std::string_view::npos) return invalid("the host has a character that no host has");
  int number = 0;
  if (port.empty() || port.find_first_not_of("0123456789") != std::string_view::npos || !absl::SimpleAtoi(AbslView(port), &number) ||
      number < 1 || number > 65535) {
    return invalid("the port must be 1 to 65535");
  }
  return absl::OkStatus();
}

std::string StoreName(std::string_view store) { return store.empty() ? "default" : std::string(store); }

}  // namespace loci

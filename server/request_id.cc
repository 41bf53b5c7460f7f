#include "server/request_id.h"

#include <algorithm>
#include <random>
#include <set>

namespace loci {
namespace {

constexpr size_t kMaxTraceStateBytes = 512;
constexpr int kMaxTraceStateMembers = 32;
constexpr size_t kMaxTraceStatePartBytes = 256;

// Sixteen hex digits that are not all zero. Ids tell requests apart; they are no secrets.
std::string RandomHex() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  uint64_t bits = 0;
  while (bits == 0) bits = random();
  std::string hex(16, '0');
  for (char& digit : hex) {
    digit = "0123456789abcdef"[bits & 15];
    bits >>= 4;
  }
  return hex;
}

bool IsRequestId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes && std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
}

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

// "00-<32>-<16>-<2>", lower-case hex. A later version may go on after another '-'.
bool IsTraceparent(std::string_view text) {
  constexpr size_t kSize = 55;
  if (text.size() < kSize || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  const std::string_view version = text.substr(0, 2);
  if (!IsLowerHex(version) || version == "ff") return false;
  if (text.size() > kSize && (version == "00" || text[kSize] != '-')) return false;
  const std::string_view trace = text.substr(3, 32);
  const std::string_view parent = text.substr(36, 16);
  return IsLowerHex(trace) && !IsZero(trace) && IsLowerHex(parent) && !IsZero(parent) && IsLowerHex(text.substr(53, 2));
}

bool IsTraceStateKey(std::string_view key) {
  const auto lower_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (key.empty() || key.size() > kMaxTraceStatePartBytes || !lower_or_digit(key[0])) return false;
  return std::all_of(key.begin(), key.end(), [&](char c) { return lower_or_digit(c) || std::string_view("_-*/@").find(c) != std::string_view::npos; });
}

bool IsTraceStateValue(std::string_view value) {
  return !value.empty() && value.size() <= kMaxTraceStatePartBytes && value.back() != ' ' &&
         std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~' && c != ',' && c != '='; });
}

// "key=value,key=value"; members may be empty, and have spaces around them. (Tabs too, says the standard; but what is passed on is
// metadata, and gRPC ends a process that wants to send a byte below the space.)
bool IsTraceState(std::string_view text) {
  if (text.size() > kMaxTraceStateBytes) return false;
  if (std::any_of(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; })) return false;
  std::set<std::string_view> keys;
  int members = 0;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    std::string_view member = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    member.remove_prefix(std::min(member.find_first_not_of(' '), member.size()));
    const size_t last = member.find_last_not_of(' ');
    member = member.substr(0, last == std::string_view::npos ? 0 : last + 1);
    if (member.empty()) continue;
    const size_t equals = member.find('=');
    if (equals == std::string_view::npos || !IsTraceStateKey(member.substr(0, equals)) || !IsTraceStateValue(member.substr(equals + 1))) return false;
    if (++members > kMaxTraceStateMembers || !keys.insert(member.substr(0, equals)).second) return false;
  }
  return members > 0;
}

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

// Empty where `key` was not sent, or more than once.
std::string_view OnlyValue(const Metadata& metadata, const char* key) {
  const auto [begin, end] = metadata.equal_range(key);
  if (begin == end || std::next(begin) != end) return {};
  return {begin->second.data(), begin->second.size()};
}

// One list may come in several fields.
std::string JoinedValues(const Metadata& metadata, const char* key) {
  std::string joined;
  const auto [begin, end] = metadata.equal_range(key);
  for (auto i = begin; i != end && joined.size() <= kMaxTraceStateBytes; ++i) {
    if (!joined.empty()) joined += ',';
    joined.append(i->second.data(), i->second.size());
  }
  return joined;
}

}  // namespace

std::string RequestTrace::Traceparent() const { return "00-" + trace_id + "-" + span_id + (sampled ? "-01" : "-00"); }

RequestTrace MakeRequestTrace(std::string_view request_id, std::string_view traceparent, std::string_view tracestate) {
  RequestTrace trace;
  trace.request_id = IsRequestId(request_id) ? std::string(request_id) : RandomHex();
  if (!IsTraceparent(traceparent)) return trace;
  trace.trace_id = traceparent.substr(3, 32);
  trace.parent_id = traceparent.substr(36, 16);
  trace.span_id = RandomHex();
  const char flags = traceparent[54];  // The lower half; its lowest bit is "sampled", and no other has a meaning.
  trace.sampled = ((flags <= '9' ? flags - '0' : flags - 'a' + 10) & 1) != 0;
  if (IsTraceState(tracestate)) trace.trace_state = tracestate;
  return trace;
}

RequestTrace TakeRequestTrace(grpc::CallbackServerContext& context) {
  const Metadata& metadata = context.client_metadata();
  const std::string_view traceparent = OnlyValue(metadata, kTraceparentMetadata);
  RequestTrace trace = MakeRequestTrace(OnlyValue(metadata, kRequestIdMetadata), traceparent,
                                        traceparent.empty() ? std::string() : JoinedValues(metadata, kTracestateMetadata));
  context.AddInitialMetadata(kRequestIdMetadata, trace.request_id);
  if (!trace.trace_id.empty()) context.AddInitialMetadata(kTraceparentMetadata, trace.Traceparent());
  if (!trace.trace_state.empty()) context.AddInitialMetadata(kTracestateMetadata, trace.trace_state);
  return trace;
}

}  // namespace loci

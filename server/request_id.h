// Who a request is: an id that its client gave or the server made, and its place in a trace of several services (W3C trace context).
#ifndef LOCI_SERVER_REQUEST_ID_H_
#define LOCI_SERVER_REQUEST_ID_H_

#include <string>
#include <string_view>

#include "grpcpp/grpcpp.h"

namespace loci {

inline constexpr char kRequestIdMetadata[] = "x-request-id";
inline constexpr char kTraceparentMetadata[] = "traceparent";
inline constexpr char kTracestateMetadata[] = "tracestate";
inline constexpr size_t kMaxRequestIdBytes = 128;

struct RequestTrace {
  std::string request_id;   // 1 to 128 printable ASCII characters without spaces.
  std::string trace_id;     // 32 hex digits; empty where the request belongs to no trace, as are the next four.
  std::string parent_id;    // 16 hex digits: the span that called.
  std::string span_id;      // 16 hex digits: this server's part of the trace.
  std::string trace_state;  // As it came; empty where there was none or it is not valid.
  bool sampled = false;

  std::string Traceparent() const;  // With span_id as the parent of what comes after.
};

// The request's own id where it is one, else a new one of 16 hex digits. A traceparent that is not valid is as none, and so is a tracestate
// without one. Thread-safe.
RequestTrace MakeRequestTrace(std::string_view request_id, std::string_view traceparent, std::string_view tracestate);

// MakeRequestTrace of what the client sent (an id or a traceparent that is sent twice is none), and says so in the initial metadata:
// x-request-id always, traceparent with the new span and tracestate where the request belongs to a trace. To be called once a call, before
// it answers or sends anything.
RequestTrace TakeRequestTrace(grpc::CallbackServerContext& context);

}  // namespace loci

#endif  // LOCI_SERVER_REQUEST_ID_H_

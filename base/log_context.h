// Which request a thread works for, so that every line that it logs meanwhile says so.
//
//   const ScopedLogContext context(trace.request_id, trace.trace_id);
//   LogInfo("ingester", "...");   // ... request_id=order-17 trace_id=4bf9...
#ifndef LOCI_BASE_LOG_CONTEXT_H_
#define LOCI_BASE_LOG_CONTEXT_H_

#include <string>

namespace loci {

// Sets the fields request_id and trace_id of the calling thread's log lines until it dies; then the ones from before are back. An empty
// value is left out. Used by one thread, as a local variable.
class ScopedLogContext {
 public:
  ScopedLogContext(std::string request_id, std::string trace_id);
  ~ScopedLogContext();
  ScopedLogContext(const ScopedLogContext&) = delete;
  ScopedLogContext& operator=(const ScopedLogContext&) = delete;

 private:
  std::string request_id_;  // From before.
  std::string trace_id_;
};

// Of the calling thread; empty where it works for no request. Thread-safe.
const std::string& CurrentRequestId();
const std::string& CurrentTraceId();

}  // namespace loci

#endif  // LOCI_BASE_LOG_CONTEXT_H_

// Work that must not be felt by requests: a thread of its own that gets what CPU the others leave.
#ifndef LOCI_BASE_BACKGROUND_THREAD_H_
#define LOCI_BASE_BACKGROUND_THREAD_H_

#include <functional>

namespace loci {

// Runs `body` on a new thread and waits for its end. The thread is SCHED_IDLE: a CPU that it has counts as idle where other threads wake. After 5 s
// it gets the process's own priority, so that a busy machine does not starve it. Where a process may not take a thread back from SCHED_IDLE
// (without CAP_SYS_NICE, and with RLIMIT_NICE below 20) it has nice value 19 instead, and where there can be no more threads `body` runs on the
// caller's. Who waits for a lock that the caller holds waits for longer. `name` is
// the thread's, at most 15 bytes. Thread-safe.
void RunInBackground(const char* name, const std::function<void()>& body);

}  // namespace loci

#endif  // LOCI_BASE_BACKGROUND_THREAD_H_

#include "base/background_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include <chrono>
#include <future>
#include <system_error>
#include <thread>

namespace loci {
namespace {

constexpr std::chrono::seconds kPatience(5);

bool SetPolicy(pthread_t thread, int policy) {
  sched_param parameters{};
  return pthread_setschedparam(thread, policy, &parameters) == 0;
}

// Whether a thread may leave SCHED_IDLE again: it needs CAP_SYS_NICE, or a limit on nice values (RLIMIT_NICE) that allows its own.
bool MayComeBack() {
  static const bool may = [] {
    bool came_back = false;
    std::thread([&came_back] {
      came_back = SetPolicy(pthread_self(), SCHED_IDLE) && SetPolicy(pthread_self(), SCHED_OTHER);
    }).join();
    return came_back;
  }();
  return may;
}

}  // namespace

void RunInBackground(const char* name, const std::function<void()>& body) {
  const bool idle = MayComeBack();
  std::promise<void> ended;
  std::thread thread;
  const auto run = [name, idle, &body, &ended] {
    (void)pthread_setname_np(pthread_self(), name);
    // Where nobody could bring it back it must not starve. On Linux the nice value is this thread's alone; it could not go back, so the thread ends.
    if (!idle || !SetPolicy(pthread_self(), SCHED_IDLE)) (void)setpriority(PRIO_PROCESS, 0, 19);
    body();
    ended.set_value();
  };
  try {
    thread = std::thread(run);
  } catch (const std::system_error&) {
    body();  // There are too many threads.
    return;
  }
  if (idle && ended.get_future().wait_for(kPatience) == std::future_status::timeout) (void)SetPolicy(thread.native_handle(), SCHED_OTHER);
  thread.join();
}

}  // namespace loci

#include "base/mapping_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

namespace loci {

// In a list that only grows; a slot whose `size` is 0 is free. The handler reads it without a lock: `size` is set last and cleared first.
struct MappingGuard::Slot {
  std::atomic<uintptr_t> address{0};
  std::atomic<size_t> size{0};
  std::atomic<bool> taken{true};
  std::atomic<bool> lost{false};
  Slot* next = nullptr;
};

namespace {

std::atomic<MappingGuard::Slot*> slots{nullptr};
struct sigaction before;
uintptr_t page_bytes = 0;

// Puts zeros from the page of the fault to the mapping's end: page by page a file that is read here and there would come to more mappings than a
// process may have. Nothing here but atomics and system calls.
bool Replace(uintptr_t fault) {
  for (MappingGuard::Slot* slot = slots.load(std::memory_order_acquire); slot != nullptr; slot = slot->next) {
    const size_t size = slot->size.load(std::memory_order_acquire);
    const uintptr_t address = slot->address.load(std::memory_order_acquire);
    const uintptr_t end = address + (size + page_bytes - 1) / page_bytes * page_bytes;
    if (size == 0 || fault < address || fault >= end) continue;
    if (slot->size.load(std::memory_order_acquire) != size) continue;  // Of another mapping by now.
    slot->lost.store(true, std::memory_order_release);
    const uintptr_t page = fault & ~(page_bytes - 1);
    void* const begin = reinterpret_cast<void*>(page);
    return ::mmap(begin, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == begin;
  }
  return false;
}

void HandleBusError(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool by_touch = info->si_code > 0;  // Not by kill().
  const bool replaced = by_touch && Replace(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved;
  if (replaced) return;
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  } else {
    // Ends the process as it would have without us: at once, or when the touch is tried again on return.
    ::sigaction(signal, &before, nullptr);
    if (!by_touch) ::raise(signal);
  }
}

void TakeHandler() {
  page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action = {};
  action.sa_sigaction = HandleBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &before);
}

MappingGuard::Slot* TakeSlot() {
  for (MappingGuard::Slot* slot = slots.load(std::memory_order_acquire); slot != nullptr; slot = slot->next) {
    bool taken = false;
    if (slot->taken.compare_exchange_strong(taken, true)) return slot;
  }
  auto* const slot = new MappingGuard::Slot;  // Stays: the handler may look at it at any time.
  slot->next = slots.load(std::memory_order_relaxed);
  while (!slots.compare_exchange_weak(slot->next, slot, std::memory_order_release, std::memory_order_relaxed)) {
  }
  return slot;
}

}  // namespace

MappingGuard::MappingGuard(void* address, size_t size) : slot_(TakeSlot()) {
  static std::once_flag once;
  std::call_once(once, TakeHandler);
  slot_->lost.store(false, std::memory_order_relaxed);
  slot_->address.store(reinterpret_cast<uintptr_t>(address), std::memory_order_relaxed);
  slot_->size.store(size, std::memory_order_release);
}

MappingGuard::~MappingGuard() {
  slot_->size.store(0, std::memory_order_release);
  slot_->taken.store(false, std::memory_order_release);
}

bool MappingGuard::lost() const { return slot_->lost.load(std::memory_order_acquire); }

}  // namespace loci

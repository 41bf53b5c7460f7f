#include "clients/cli/progress.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "clients/cli/display.h"

namespace loci {
namespace {

double SecondsBetween(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Progress::Progress(std::ostream& err, int width, std::string noun, std::function<Numbers()> numbers)
    : err_(err), width_(width), noun_(std::move(noun)), numbers_(std::move(numbers)), thread_([this] { Run(); }) {}

Progress::~Progress() { Stop(); }

void Progress::Run() {
  const auto interval = width_ > 0 ? std::chrono::milliseconds(200) : std::chrono::milliseconds(5000);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, interval, [this] { return stopped_; })) Show();
}

void Progress::Show() {
  const auto now = Clock::now();
  const std::string text = phase_.empty() ? Format(numbers_(), SecondsBetween(start_, now), noun_)
                                          : absl::StrCat(phase_, "   ", FormatSeconds(SecondsBetween(phase_start_, now)));
  if (width_ > 0) {
    err_ << '\r' << CutToWidth(text, width_ - 1) << "\x1b[K" << std::flush;
    line_is_shown_ = true;
  } else {
    err_ << text << '\n' << std::flush;
  }
}

void Progress::Clear() {
  if (line_is_shown_) err_ << "\r\x1b[K" << std::flush;
  line_is_shown_ = false;
}

void Progress::SetPhase(std::string text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (phase_.empty()) phase_start_ = Clock::now();
  phase_ = std::move(text);
}

void Progress::Print(std::string_view line) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Clear();
  err_ << line << '\n' << std::flush;
}

void Progress::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    Clear();
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::string Progress::Format(const Numbers& numbers, double elapsed_seconds, std::string_view noun) {
  std::string text = FormatCountOf(numbers.count, noun);
  if (elapsed_seconds <= 0) return text;
  absl::StrAppend(&text, "   ", FormatCount(static_cast<int64_t>(numbers.count / elapsed_seconds)), "/s");
  if (numbers.total > 0 && numbers.position > 0) {
    const double fraction = std::min(1.0, static_cast<double>(numbers.position) / numbers.total);
    absl::StrAppend(&text, "   ", static_cast<int>(fraction * 100), " %   ETA ",
                    FormatSeconds(elapsed_seconds * (1 - fraction) / fraction));
  } else {
    absl::StrAppend(&text, "   ", FormatSeconds(elapsed_seconds));
  }
  return text;
}

}  // namespace loci
